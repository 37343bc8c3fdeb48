"""Frames of pandas, Polars or Arrow: read through narwhals, returned as the same kind."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from lanner.data.assemble import ID, TITLE, assemble
from lanner.data.columns import read_ids
from lanner.data.feedback import Feedback, FeedbackConfig, absent_behaviours
from lanner.data.ids import IdKind, IdMap
from lanner.data.interactions import Dataset, FrameKind
from lanner.data.sources.mapping import compose_text, lists_of, title_of
from lanner.data.sources.single import NAMES, unread
from lanner.data.tables import LINE, Entities, Table, Tables
from lanner.errors import ConfigError, DataError
from lanner.types import BEHAVIOUR, FRIEND, ITEM, RELATED, TEXT, TIMESTAMP, USER, WEIGHT

_EVENTS, _ITEMS, _USERS, _TIES, _LINKS = map(Path, ("events", "items", "users", "ties", "links"))
"""Names of the frames in messages, in place of a file's path."""
_NO_ATTRIBUTES = (ID, TITLE, TEXT, LINE)
"""Reserved column names of entities."""
_KEYWORDS = {USER: "user", ITEM: "item", TIMESTAMP: "time", WEIGHT: "rating", BEHAVIOUR: "behaviour"}
"""Keyword of each event column, by its internal name."""


@dataclass(frozen=True)
class Columns:
    """Which column plays which role; see ``Dataset.from_frames``."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    behaviour: str | None = None
    title: str | None = None
    text: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Separator of the values in a cell by column; empty: a list, or one value."""
    numbers: tuple[str, ...] = ()


def columns_named(
    roles: Sequence[Any],
    text: str | Sequence[str],
    profile: str | Sequence[str],
    attributes: str | Sequence[str] | Mapping[str, str],
    numbers: str | Sequence[str],
) -> Columns:
    """Columns by the names that a caller gave; in pandas, names need not be strings.

    roles: names of user, item, time, rating, behaviour and title. A single name means a list of one.
    """
    separators = attributes if isinstance(attributes, Mapping) else dict.fromkeys(values_of(attributes), "")
    user, item, time, rating, behaviour, title = (None if name is None else str(name) for name in roles)
    texts, profiles, ranges = (tuple(map(str, values_of(names))) for names in (text, profile, numbers))
    written = {str(name): separator for name, separator in separators.items()}
    return Columns(user, item, time, rating, behaviour, title, texts, profiles, written, ranges)


def read_frames(events: Any, items: Any, users: Any, edges: tuple[Any, Any], columns: Columns) -> Dataset:
    """Frames by the same rules as files; see ``Dataset.from_frames``. No feedback is applied.

    edges: ties and links.
    """
    ties, links = edges
    given = _frame(events, _EVENTS)
    named = _with_defaults(columns, given)
    listed = given if items is None else _frame(items, _ITEMS)
    named = _with_item_columns(named, listed)
    table = _read_columns(given, _roles(named), _EVENTS)
    table = replace(table, unread=_unread_columns(given, named, describes_items=items is None))
    people = None if users is None else _frame(users, _USERS)
    _check_named(named, listed, people)
    tables = Tables(
        interactions=(table,),
        items=_entities(listed, named.item, named.title, named.text, named, _ITEMS, once=items is None),
        users=None if people is None else _entities(people, named.user, None, named.profile, named, _USERS),
        ties=None if ties is None else _edges(_frame(ties, _TIES), USER, str(named.user), FRIEND, _TIES),
        links=None if links is None else _edges(_frame(links, _LINKS), ITEM, str(named.item), RELATED, _LINKS),
    )
    dataset = assemble(tables)
    keywords = {"users": (users, tables.users, "profile=…"), "items": (items, tables.items, "title=…, text=…")}
    idle = [
        f"the frame '{name}' is not read; name columns of it with {those}, attributes=… or numbers=…"
        for name, (frame, read, those) in keywords.items()
        if frame is not None and read is None
    ]
    kinds = {name: _id_kind(table.frame[name]) for name in (USER, ITEM)}
    return replace(
        dataset,
        users=IdMap(dataset.users.external, kinds[USER], of=USER),
        items=IdMap(dataset.items.external, kinds[ITEM], of=ITEM),
        frame_kind=kind_of(events),
        warnings=(*dataset.warnings, *idle),
    )


def with_feedback(dataset: Dataset, config: FeedbackConfig, source: str) -> Dataset:
    """The dataset, ratings, counts and behaviours turned into confidences; the reader's findings are a ``UserWarning``.

    Raises:
        DataError: no event can be used, or none is positive.
    """
    for line in dataset.warnings:
        warnings.warn(line, UserWarning, stacklevel=3)
    if not len(dataset.interactions):
        raise DataError("has no usable interactions", path=source)
    feedback = Feedback.decide(dataset.interactions, config)
    for line in (*absent_behaviours(dataset.interactions, config), *filter(None, [feedback.outliers])):
        warnings.warn(line, UserWarning, stacklevel=3)
    dataset = feedback.apply(dataset)
    if not len(dataset.histories.values):
        read_as = feedback.describe(dataset.interactions)
        raise DataError(f"no event is positive ({read_as}); set positive_threshold", path=source)
    return dataset


def kind_of(frame: Any) -> FrameKind:
    """The kind of frames to return for this one; Polars for anything that is not a frame."""
    native = nw.from_native(frame, pass_through=True, allow_series=True)
    if not isinstance(native, nw.DataFrame | nw.Series | nw.LazyFrame):
        return "polars"
    if native.implementation.is_pandas_like():
        return "pandas"
    return "arrow" if native.implementation.is_pyarrow() else "polars"


def to_frame(columns: Mapping[str, Any], kind: FrameKind) -> Any:
    """A frame of that kind; columns are arrays or lists of equal length. An empty list is a column of strings."""
    if kind == "pandas":
        import pandas as pd

        return pd.DataFrame(dict(columns))
    if kind == "arrow":
        import pyarrow as pa

        return pa.table({name: pa.array(v, pa.string()) if empty(v) else v for name, v in columns.items()})
    return pl.DataFrame(dict(columns), schema_overrides={name: pl.String for name, v in columns.items() if empty(v)})


def empty(column: Any) -> bool:
    """Whether a column is an empty list, whose type cannot be inferred."""
    return isinstance(column, list) and not column


def values_of(ids: Any) -> list[Any]:
    """A frame's column, an array, or any other sequence as a list; a single id or text becomes a list of one."""
    if isinstance(ids, str | int | np.integer):
        return [ids]
    native = nw.from_native(ids, pass_through=True, allow_series=True)
    if isinstance(native, nw.DataFrame | nw.LazyFrame):
        raise ConfigError(f"received a frame of {len(native.collect_schema())} columns, expected one of its columns")
    if isinstance(native, nw.Series):
        return native.to_list()
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


# --- from frames to the tables that readers hand on ------------------------------------------------------------------


def _frame(frame: Any, what: Path) -> "nw.DataFrame[Any]":
    """Any frame as a narwhals frame with string column names; lazy ones are collected.

    Raises:
        ConfigError: it is not a frame. DataError: two columns have the same name.
    """
    names = _names_in_memory(frame)
    for name in names:
        if names.count(name) > 1:
            raise DataError("two columns have this name; rename one", path=what, field=name)
    found = nw.from_native(frame, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        found = found.collect()
    if not isinstance(found, nw.DataFrame):
        raise ConfigError(f"{what}: received {type(frame).__name__}, expected a pandas, Polars or Arrow frame")
    names = list(map(str, found.columns))
    return found if names == found.columns else found.rename(dict(zip(found.columns, names, strict=True)))


def _names_in_memory(frame: Any) -> list[str]:
    """Columns of a frame of pandas or Arrow, which may have duplicate names; empty for any other."""
    if nw.dependencies.is_pandas_like_dataframe(frame):
        return [str(name) for name in frame.columns]
    return list(frame.column_names) if nw.dependencies.is_pyarrow_table(frame) else []


def _with_defaults(columns: Columns, events: "nw.DataFrame[Any]") -> Columns:
    """Columns of events that were not named are found by their standard names, as in a file."""
    if not events.columns:
        raise DataError("the frame has no columns", path=_EVENTS)
    found: dict[str, Any] = {}
    for role, keyword in _KEYWORDS.items():
        given = getattr(columns, keyword)
        taken = {getattr(columns, other) for other in _KEYWORDS.values()}
        others = [name for name in events.columns if name not in taken]
        found[keyword] = _guess_column(role, keyword, others, _EVENTS) if given is None else given
    for keyword in (USER, ITEM):
        if found[keyword] is None:
            known = ", ".join(map(str, events.columns))
            raise DataError(f"no column looks like the {keyword} ({known}); name it: {keyword}=…", path=_EVENTS)
    return replace(columns, **found)


def _with_item_columns(columns: Columns, items: "nw.DataFrame[Any]") -> Columns:
    """Title and texts of items that were not named are found by their standard names."""
    others = [name for name in items.columns if name != columns.item]
    title = _guess_column(TITLE, "title", others, _ITEMS) if columns.title is None else columns.title
    text = columns.text or tuple(
        name for name in (title, _guess_column(TEXT, "text", others, _ITEMS)) if name is not None
    )
    return replace(columns, title=title, text=text)


def _unread_columns(events: "nw.DataFrame[Any]", columns: Columns, *, describes_items: bool) -> dict[str, str]:
    """Unread columns of the events, see ``single.unread``."""
    read: dict[str, str | None] = {role: getattr(columns, keyword) for role, keyword in _KEYWORDS.items()}
    others: tuple[str, ...] = ()
    if describes_items:
        read |= {TITLE: columns.title, TEXT: next(iter(columns.text), None)}
        others = (*columns.text, *columns.attributes, *columns.numbers)
    found = {name for name in (*read.values(), *others) if name is not None}
    return unread(events.columns, found, [role for role, name in read.items() if name is None])


def _guess_column(role: str, keyword: str, names: Sequence[str], what: Path) -> str | None:
    """The column with a standard name for this role.

    Raises:
        DataError: there are two.
    """
    for group in NAMES[role]:
        found = [name for name in names if str(name).lower() in group]
        if len(found) > 1:
            raise DataError(f"'{found[0]}' and '{found[1]}' both look like the {role}; choose: {keyword}=…", path=what)
        if found:
            return found[0]
    return None


def _roles(columns: Columns) -> dict[str, str]:
    """Internal names to the caller's, for a frame of events."""
    named = {role: getattr(columns, keyword) for role, keyword in _KEYWORDS.items()}
    return {ours: theirs for ours, theirs in named.items() if theirs is not None}


def _check_named(columns: Columns, items: "nw.DataFrame[Any]", users: "nw.DataFrame[Any] | None") -> None:
    """Raises ``DataError`` for a column that none of the permitted frames has."""
    of_users = [] if users is None else users.columns
    for name in columns.text if columns.title is None else (*columns.text, columns.title):
        _require(name, items.columns, _ITEMS)
    for name in columns.profile:
        _require(name, of_users, _USERS)
    for name in (*columns.attributes, *columns.numbers):
        _require(name, [*items.columns, *of_users], _ITEMS)
        if name in _NO_ATTRIBUTES:
            raise DataError("an attribute cannot have this name; rename the column", path=_ITEMS, field=name)


def _require(name: str, columns: Sequence[str], what: Path) -> None:
    if name not in columns:
        raise DataError(f"no such column; the frame has {', '.join(map(str, columns))}", path=what, field=name)


def _read_columns(frame: "nw.DataFrame[Any]", roles: Mapping[str, str], what: Path) -> Table:
    for name in roles.values():
        _require(name, frame.columns, what)
    table = _table(pl.DataFrame({ours: _series(frame[theirs]) for ours, theirs in roles.items()}), what)
    return replace(table, names=roles)


def _table(frame: pl.DataFrame, what: Path) -> Table:
    return Table(frame, what, first_line=0, unit="row")


def _entities(
    frame: "nw.DataFrame[Any]",
    key: str | None,
    title: str | None,
    text: tuple[str, ...],
    columns: Columns,
    what: Path,
    *,
    once: bool = False,
) -> Entities | None:
    """Items or users; None if they are not described. once: rows repeat, see ``_deduplicate``."""
    assert key is not None
    attributes = [name for name in columns.attributes if name in frame.columns]
    numbers = [name for name in columns.numbers if name in frame.columns]
    if title is None and not text and not attributes and not numbers:
        return None
    _require(key, frame.columns, what)
    wanted = dict.fromkeys(name for name in (key, title, *text, *attributes) if name is not None)
    cells = {name: _series(frame[name]) for name in wanted}
    is_id = {name: one.dtype.is_float() or (name == key and one.dtype == pl.String) for name, one in cells.items()}
    read = pl.DataFrame({name: read_ids(one) if is_id[name] else one for name, one in cells.items()})
    found = read.select(pl.col(key).alias(ID), *([] if title is None else [title_of(title).alias(TITLE)]))
    # Attributes first: texts refer to their values.
    separators = {name: columns.attributes.get(name, "") for name in wanted}
    read = read.with_columns(
        lists_of(read[name], separators[name]).alias(name)
        for name in dict.fromkeys((*attributes, *text))
        if name in attributes or isinstance(read.schema[name], pl.List)
    )
    if text:
        # Slots are numbered, as a column may have any name.
        slots = read.select(pl.col(name).alias(str(place)) for place, name in enumerate(text))
        texts = compose_text(tuple(f"{{{place}}}" for place in slots.columns), slots.schema)
        found = found.with_columns(slots.select(texts.alias(TEXT)))
    found = found.with_columns(*(read[name] for name in attributes), *(_series(frame[name]) for name in numbers))
    kept, several = (
        (_deduplicate(found), _multi_value_warnings(found, [*attributes, *numbers])) if once else (found, ())
    )
    return Entities(_table(kept, what), numbers=dict.fromkeys(numbers, ""), warnings=several)


def _deduplicate(entities: pl.DataFrame) -> pl.DataFrame:
    """Each id once: the last row with a title or a text, as in a file, with the first values of attributes."""
    said = [name for name in (TITLE, TEXT) if name in entities.columns]
    is_described = pl.any_horizontal(pl.lit(value=False), *(pl.col(name).fill_null("") != "" for name in said))
    lists = [name for name, dtype in entities.schema.items() if isinstance(dtype, pl.List)]
    last = [pl.col(said).filter(is_described).last()] if said else []
    last += [pl.col(name).filter(pl.col(name).list.len() > 0).first() for name in lists]
    last += [pl.exclude(ID, *said, *lists).drop_nulls().first()]
    return entities.filter(pl.col(ID).is_not_null()).group_by(ID, maintain_order=True).agg(last)


def _multi_value_warnings(items: pl.DataFrame, attributes: Sequence[str]) -> tuple[str, ...]:
    """A line for each attribute with several values for one item, of which ``_deduplicate`` keeps the first."""
    lines = []
    for name in attributes:
        value = pl.col(name)
        if isinstance(items.schema[name], pl.List):
            value = value.list.unique().list.sort().list.join("\0").replace("", None)
        different = items.select(ID, value).drop_nulls().unique().group_by(ID).len()
        count = different.filter(pl.col("len") > 1).height
        if count:
            whose = "1 item has" if count == 1 else f"{count:,} items have"
            lines.append(f"{_EVENTS}: {whose} different values of '{name}' in different rows; the first counts")
    return tuple(lines)


def _edges(frame: "nw.DataFrame[Any]", one: str, column: str, other: str, path: Path) -> Table:
    """Edges from ``one`` to ``other``; column: that of ``one``."""
    _require(column, frame.columns, path)
    others = [name for name in frame.columns if name != column]
    if len(others) != 1:
        whose = "friend's" if other == FRIEND else "related item's"
        raise DataError(
            f"expected the column '{column}' and one with the {whose} id, received {', '.join(frame.columns)}",
            path=path,
        )
    return _read_columns(frame, {one: column, other: others[0]}, path)


def _series(column: "nw.Series[Any]") -> pl.Series:
    """A column as a Polars series, without pyarrow if the frame does not need it."""
    if isinstance(column.dtype, nw.Datetime) and column.dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    native = column.to_native()
    if isinstance(native, pl.Series) or column.implementation.is_pyarrow():
        found = pl.Series(column.name, native)
        return found.fill_nan(None) if found.dtype.is_float() else found
    if (column.dtype.is_numeric() or column.dtype == nw.Datetime) and not column.is_null().any():
        return pl.Series(column.name, column.to_numpy())
    values = [_cell(value) for value in column.to_list()]
    if column.dtype.is_integer():
        return pl.Series(column.name, values, pl.Int64)
    if column.dtype.is_float():
        return pl.Series(column.name, values, pl.Float64)
    if column.dtype == nw.Datetime:
        return pl.Series(column.name, values, pl.Datetime("ns"))
    kinds = {type(value) for value in values if value is not None}
    return pl.Series(column.name, values if len(kinds) < 2 else [None if v is None else str(v) for v in values])


def _cell(value: Any) -> Any:
    """None for pandas' missing values; lists unchanged."""
    if isinstance(value, list | tuple | set | np.ndarray):
        return [str(one) for one in value]
    # pandas' NA first, as it cannot be compared.
    return None if value is None or type(value).__name__ == "NAType" or value != value else value


def _id_kind(column: pl.Series) -> IdKind:
    """Integers, and whole floats (a pandas column with missing values), are returned as integers."""
    return "int" if column.dtype.is_numeric() and read_ids(column).dtype.is_integer() else "str"
