"""Frames of pandas, Polars or Arrow: in through narwhals, out as the kind that came in."""

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
from lanner.data.feedback import Feedback, FeedbackConfig
from lanner.data.ids import IdKind, IdMap
from lanner.data.interactions import Dataset, FrameKind
from lanner.data.sources.mapping import compose_text, split_values
from lanner.data.sources.single import NAMES
from lanner.data.tables import Entities, Table, Tables
from lanner.errors import ConfigError, DataError
from lanner.types import BEHAVIOUR, FRIEND, ITEM, TEXT, TIMESTAMP, USER, WEIGHT

_EVENTS, _ITEMS, _USERS, _TIES = map(Path, ("events", "items", "users", "ties"))
"""What the frames are called in messages, where a file has its path."""
_FIRST_ROW = 0
_KEYWORDS = {USER: "user", ITEM: "item", TIMESTAMP: "time", WEIGHT: "rating", BEHAVIOUR: "behaviour"}
"""Keyword of each column of an event, by the name that the house has for it."""


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


def read_frames(events: Any, items: Any, users: Any, ties: Any, columns: Columns) -> Dataset:
    """Frames by the same rules as files; see ``Dataset.from_frames``. No feedback is applied."""
    given = _frame(events, _EVENTS)
    named = _with_defaults(columns, given)
    table = _of_columns(given, _roles(named), _EVENTS)
    listed = given if items is None else _frame(items, _ITEMS)
    people = None if users is None else _frame(users, _USERS)
    _check_named(named, listed, people)
    dataset = assemble(
        Tables(
            interactions=(table,),
            items=_entities(listed, named.item, named.title, named.text, named, _ITEMS, once=items is None),
            users=None if people is None else _entities(people, named.user, None, named.profile, named, _USERS),
            ties=None if ties is None else _ties(_frame(ties, _TIES), str(named.user)),
        )
    )
    kinds = {name: _id_kind(table.frame[name]) for name in (USER, ITEM)}
    return replace(
        dataset,
        users=IdMap(dataset.users.external, kinds[USER]),
        items=IdMap(dataset.items.external, kinds[ITEM]),
        frame_kind=kind_of(events),
    )


def with_feedback(dataset: Dataset, config: FeedbackConfig, source: str) -> Dataset:
    """The dataset, ratings, counts and behaviours made into confidences; what reading it found is a ``UserWarning``.

    Raises:
        DataError: no event can be used, or none is positive.
    """
    for line in dataset.warnings:
        warnings.warn(line, UserWarning, stacklevel=3)
    if not len(dataset.interactions):
        raise DataError("holds no interactions that can be used", path=source)
    feedback = Feedback.decide(dataset.interactions, config)
    dataset = replace(feedback.apply(dataset), feedback=feedback)
    if not len(dataset.histories.values):
        read_as = feedback.describe(dataset.interactions)
        raise DataError(f"no event is positive ({read_as}); set positive_threshold", path=source)
    return dataset


def kind_of(frame: Any) -> FrameKind:
    """The kind in which frames go out that belong to this one; Polars for what is no frame."""
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
    """Whether a column is a list without values, of which no library knows the type."""
    return isinstance(column, list) and not column


def values_of(ids: Any) -> list[Any]:
    """A list of a frame's column, an array, or any other sequence; one id or text is a list of one."""
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
    """Any frame in narwhals' form; lazy ones are collected."""
    found = nw.from_native(frame, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        found = found.collect()
    if not isinstance(found, nw.DataFrame):
        raise ConfigError(f"{what}: received {type(frame).__name__}, expected a frame of pandas, Polars or Arrow")
    return found


def _with_defaults(columns: Columns, events: "nw.DataFrame[Any]") -> Columns:
    """Columns of events that were not named are found by their usual names, as in a file."""
    found: dict[str, Any] = {}
    for role, keyword in _KEYWORDS.items():
        given = getattr(columns, keyword)
        taken = {getattr(columns, other) for other in _KEYWORDS.values()}
        found[keyword] = given or _usual(role, keyword, [name for name in events.columns if name not in taken], _EVENTS)
    for keyword in (USER, ITEM):
        if found[keyword] is None:
            known = ", ".join(map(str, events.columns))
            raise DataError(f"no column looks like the {keyword} ({known}); name it: {keyword}=…", path=_EVENTS)
    return replace(columns, **found)


def _usual(role: str, keyword: str, names: Sequence[str], what: Path) -> str | None:
    """The column that is called as such a column usually is.

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
    """House names to the caller's, for a frame of events."""
    named = {role: getattr(columns, keyword) for role, keyword in _KEYWORDS.items()}
    return {ours: theirs for ours, theirs in named.items() if theirs is not None}


def _check_named(columns: Columns, items: "nw.DataFrame[Any]", users: "nw.DataFrame[Any] | None") -> None:
    """Raises ``DataError`` for a column that none of the frames has where it may be."""
    of_users = [] if users is None else users.columns
    for name in (*columns.text, *filter(None, [columns.title])):
        _require(name, items.columns, _ITEMS)
    for name in columns.profile:
        _require(name, of_users, _USERS)
    for name in columns.attributes:
        _require(name, [*items.columns, *of_users], _ITEMS)


def _require(name: str, columns: Sequence[str], what: Path) -> None:
    if name not in columns:
        raise DataError(f"no such column; the frame has {', '.join(map(str, columns))}", path=what, field=name)


def _of_columns(frame: "nw.DataFrame[Any]", roles: Mapping[str, str], what: Path) -> Table:
    for name in roles.values():
        _require(name, frame.columns, what)
    return Table(pl.DataFrame({ours: _series(frame[theirs]) for ours, theirs in roles.items()}), what, _FIRST_ROW)


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
    """Items or users; None where nothing is said of them. once: the first row with each value describes the entity."""
    assert key is not None
    if what == _ITEMS:
        others = [name for name in frame.columns if name != key]
        title = title or _usual(TITLE, "title", others, what)
        text = text or tuple(name for name in (title, _usual(TEXT, "text", others, what)) if name)
    attributes = [name for name in columns.attributes if name in frame.columns]
    if not (title or text or attributes):
        return None
    _require(key, frame.columns, what)
    wanted = dict.fromkeys(name for name in (key, title, *text, *attributes) if name)
    read = pl.DataFrame({name: _series(frame[name]) for name in wanted})
    if once:
        read = read.filter(pl.col(key).is_not_null())
        read = read.group_by(key, maintain_order=True).agg(pl.exclude(key).drop_nulls().first())
    lists = [
        pl.col(name).cast(pl.List(pl.String)).alias(name)
        if isinstance(read.schema[name], pl.List)
        else split_values(pl.col(name), columns.attributes[name]).alias(name)
        for name in attributes
    ]
    fragments = tuple(f"{{{name}}}" for name in text)
    chosen = [pl.col(key).alias(ID)]
    chosen += [pl.col(title).cast(pl.String).str.strip_chars().alias(TITLE)] if title else []
    chosen += [compose_text(fragments, read.schema).alias(TEXT)] if text else []
    return Entities(Table(read.select(*chosen, *lists), what, _FIRST_ROW))


def _ties(frame: "nw.DataFrame[Any]", user: str) -> Table:
    _require(user, frame.columns, _TIES)
    others = [name for name in frame.columns if name != user]
    if len(others) != 1:
        raise DataError(
            f"expected the column '{user}' and one with the friend's id, received {', '.join(frame.columns)}",
            path=_TIES,
        )
    return _of_columns(frame, {USER: user, FRIEND: others[0]}, _TIES)


def _series(column: "nw.Series[Any]") -> pl.Series:
    """A column as Polars has it, without pyarrow where the frame needs none."""
    if isinstance(column.dtype, nw.Datetime) and column.dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    native = column.to_native()
    if isinstance(native, pl.Series):
        return native
    if column.implementation.is_pyarrow():
        return pl.Series(column.name, native)
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
    """None for what pandas has where a value is missing; lists as they are."""
    if isinstance(value, list | tuple | set | np.ndarray):
        return [str(one) for one in value]
    return None if value is None or value != value or type(value).__name__ == "NAType" else value


def _id_kind(column: pl.Series) -> IdKind:
    """Integers, and floats that are whole (a column of pandas with a gap), go out as integers."""
    return "int" if column.dtype.is_numeric() and read_ids(column).dtype.is_integer() else "str"
