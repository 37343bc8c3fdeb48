"""Column mappings: which file and column plays which part. Every reader ends here.

A recipe in TOML has the same fields under the same names (see ``recipe.py``; examples are in ``recipes/``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.sources.files import Layout, read_file
from lanner.data.tables import LINE, Entities, Keep, Table, Tables
from lanner.errors import ConfigError
from lanner.types import BEHAVIOUR, FRIEND, ITEM, TEXT, TIMESTAMP, USER, WEIGHT

OPTIONAL = (TIMESTAMP, WEIGHT, BEHAVIOUR, "order", "partition")
"""What may be known of an event besides who and what, as ``InteractionColumns`` calls it."""
SLOT = re.compile(r"{([^{}]+)}")
_JSON_TEXT = r'"((?:[^"\\]|\\.)*)"'


@dataclass(frozen=True)
class InteractionColumns:
    """Where the events are."""

    user: str
    item: str = ""
    file: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """Instead of ``file``: one file for each part of a published split, ``{train = "train.csv", …}``."""
    timestamp: str = ""
    weight: str = ""
    behaviour: str = ""
    order: str = ""
    """Column with the place of the event inside its user, where there are no timestamps."""
    partition: str = ""
    """Column with the part of a published split that the event belongs to."""
    wide: tuple[str, ...] = ()
    """Instead of ``item``: columns that are an item each, with a value above 0 where the user has it."""
    minimum_weight: float | None = None
    """Events below are set aside, where a published protocol demands it."""


@dataclass(frozen=True)
class Gather:
    """Values for an entity that lie one a row in a file of their own: tags, categories."""

    name: str
    file: str
    key: str
    value: str
    lookup: str = ""
    """File that says what the values mean, as ``file:code column:meaning column``."""
    most: int = 20
    """Only the values given most often to that entity, in that order."""


@dataclass(frozen=True)
class EntityColumns:
    """Where items or users are listed, and how their text is put together."""

    file: str
    id: str
    title: str = ""
    text: tuple[str, ...] = ()
    """Fragments such as ``"By {brand}."``, a line each; one whose column is empty is an empty line."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Columns whose values become attributes, each with its separator; ``""``: one value; ``"json"``: a JSON list."""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Codes of a column in words, ``{gender = {F = "female"}}``."""
    gather: tuple[Gather, ...] = ()
    latest: str = ""
    """Column by which the last of several rows of one id is chosen; without it the first row counts."""
    keep: Keep = "interacting"
    """``"listed"``: an entity without interactions belongs to the dataset too."""


@dataclass(frozen=True)
class TieColumns:
    """Where the social ties are."""

    file: str
    user: str
    friend: str
    separator: str = ""
    """Between the friends in one cell; empty where each row is one tie."""


@dataclass(frozen=True)
class SourceMapping:
    """All the parts of one dataset."""

    name: str
    interactions: InteractionColumns | None = None
    items: EntityColumns | None = None
    users: EntityColumns | None = None
    ties: TieColumns | None = None
    layout: Layout = field(default_factory=Layout)
    folder: str = "."


def read_mapping(mapping: SourceMapping, folder: Path) -> Tables:
    """Read the files that ``mapping`` names inside ``folder``.

    Raises:
        DataError: a file or column that is not there, or a file that is not what it says.
    """
    layout, events = mapping.layout, mapping.interactions
    return Tables(
        interactions=() if events is None else _interactions(events, folder, layout),
        items=None if mapping.items is None else _entities(mapping.items, folder, layout),
        users=None if mapping.users is None else _entities(mapping.users, folder, layout),
        ties=None if mapping.ties is None else _ties(mapping.ties, folder, layout),
        minimum_weight=None if events is None else events.minimum_weight,
    )


def without_missing(mapping: SourceMapping, folder: Path) -> SourceMapping:
    """The mapping without users and ties whose files are not in ``folder``."""
    parts = {"users": mapping.users, "ties": mapping.ties}
    gone: dict[str, Any] = {name: None for name, part in parts.items() if part and not (folder / part.file).is_file()}
    return replace(mapping, **gone)


def _interactions(events: InteractionColumns, folder: Path, layout: Layout) -> tuple[Table, ...]:
    if events.wide:
        return (_unpivot(events, folder, layout),)
    columns = {ours: theirs for ours in (USER, ITEM, *OPTIONAL) if (theirs := getattr(events, ours))}
    files = events.files or {"": events.file}
    return tuple(_events_of(columns, folder / file, layout, part) for part, file in files.items())


def _events_of(columns: Mapping[str, str], path: Path, layout: Layout, part: str) -> Table:
    whole = [theirs for ours, theirs in columns.items() if ours in (USER, ITEM, TIMESTAMP, "order")]
    decimals = [columns[WEIGHT]] if WEIGHT in columns else []
    read = read_file(path, columns.values(), layout, integers=whole, decimals=decimals).select(dict(columns))
    frame = read.frame.with_columns(partition=pl.lit(part)) if part else read.frame
    return Table(frame, read.path, read.first_line)


def _unpivot(events: InteractionColumns, folder: Path, layout: Layout) -> Table:
    """Columns that are items each, to one row for each item held (its line is its place in that long form)."""
    read = read_file(folder / events.file, [events.user, *events.wide], layout)
    long = read.frame.unpivot(list(events.wide), index=events.user, variable_name=ITEM, value_name="held")
    held = long.filter(pl.col("held").cast(pl.Float64, strict=False) > 0)
    return Table(held.select(pl.col(events.user).alias(USER), ITEM), read.path)


def _entities(entities: EntityColumns, folder: Path, layout: Layout) -> Entities:
    path = folder / entities.file
    slots = [name for fragment in entities.text for name in SLOT.findall(fragment)]
    gathered = {one.name for one in entities.gather}
    named = [entities.id, entities.title, entities.latest, *entities.attributes, *entities.words, *slots]
    table = read_file(path, [name for name in named if name and name not in gathered], layout)
    frame = table.frame.sort(entities.latest, maintain_order=True) if entities.latest else table.frame
    for one in entities.gather:
        frame = _gathered(frame, one, entities.id, folder, layout)
    words = entities.words.items()
    frame = frame.with_columns(pl.col(name).cast(pl.String).replace(dict(codes)) for name, codes in words)
    lists = {name: split_values(pl.col(name), separator) for name, separator in entities.attributes.items()}
    frame = frame.with_columns(**lists)
    columns = [pl.col(entities.id).alias("id")]
    columns += [pl.col(entities.title).cast(pl.String).alias("title")] if entities.title else []
    columns += [compose_text(entities.text, frame.schema).alias(TEXT)] if entities.text else []
    listed = Table(frame.select(*columns, *lists, *gathered), path, table.first_line)
    return Entities(listed, entities.keep, bool(entities.latest))


def split_values(column: pl.Expr, separator: str) -> pl.Expr:
    """A list of trimmed values in each row."""
    texts = column.cast(pl.String)
    if separator == "json":
        values = texts.str.extract_all(_JSON_TEXT).list.eval(
            pl.element().str.strip_prefix('"').str.strip_suffix('"').str.replace_all(r"\\(.)", "$1")
        )
    elif separator:
        values = texts.str.split(separator)
    else:
        values = pl.concat_list(texts)
    return values.list.eval(pl.element().str.strip_chars().filter(pl.element().str.strip_chars() != ""))


def compose_text(fragments: tuple[str, ...], schema: pl.Schema) -> pl.Expr:
    """One text a row from ``fragments`` whose slots name columns; a fragment with an empty slot is an empty line."""
    lines = [_fragment(one, schema).str.replace_all(r"\s*\n\s*", " ") for one in fragments]
    text = pl.concat_str([line.fill_null("") for line in lines], separator=FIELD_SEPARATOR)
    return pl.when(pl.any_horizontal([line.is_not_null() for line in lines])).then(text)


def _fragment(fragment: str, schema: pl.Schema) -> pl.Expr:
    """The fragment with its slots filled; null where a slot is empty."""
    cells = []
    for name in SLOT.findall(fragment):
        column = pl.col(name).list.join(", ") if isinstance(schema[name], pl.List) else pl.col(name).cast(pl.String)
        filled = column.str.strip_chars()
        cells.append(pl.when(filled != "").then(filled))
    return pl.format(SLOT.sub("{}", fragment), *cells) if cells else pl.lit(fragment)


def _gathered(frame: pl.DataFrame, one: Gather, key: str, folder: Path, layout: Layout) -> pl.DataFrame:
    """``frame`` with a column of lists: the values given most often to each entity first."""
    rows = read_file(folder / one.file, [one.key, one.value], layout).frame
    rows = rows.select(pl.col(one.key).cast(pl.String).alias("key"), pl.col(one.value).cast(pl.String).alias("value"))
    if one.lookup:
        rows = rows.with_columns(value=_looked_up(rows["value"], one.lookup, folder, layout))
    counted = (
        rows.drop_nulls().group_by("key", "value").len().sort(["key", "len", "value"], descending=[False, True, False])
    )
    lists = counted.group_by("key", maintain_order=True).agg(pl.col("value").head(one.most).alias(one.name))
    joined = frame.with_columns(pl.col(key).cast(pl.String).alias("key")).join(
        lists, on="key", how="left", maintain_order="left"
    )
    return joined.drop("key")


def _looked_up(codes: pl.Series, lookup: str, folder: Path, layout: Layout) -> pl.Series:
    try:
        file, code, meaning = lookup.split(":")
    except ValueError:
        raise ConfigError(f"lookup = '{lookup}' is not of the form 'file:code column:meaning column'") from None
    table = read_file(folder / file, [code, meaning], layout).frame
    return codes.replace_strict(table[code].cast(pl.String), table[meaning].cast(pl.String), default=None)


def _ties(ties: TieColumns, folder: Path, layout: Layout) -> Table:
    columns = {USER: ties.user, FRIEND: ties.friend}
    read = read_file(folder / ties.file, columns.values(), layout, integers=columns.values()).select(columns)
    if not ties.separator:
        return read
    numbered = read.frame.with_row_index(LINE, read.first_line)
    lists = numbered.with_columns(pl.col(FRIEND).str.split(ties.separator)).explode(FRIEND)
    return Table(lists.filter(~pl.col(FRIEND).str.strip_chars().is_in(["", "None"])), read.path, read.first_line)
