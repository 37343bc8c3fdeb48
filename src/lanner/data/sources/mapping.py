"""Column mappings: the role of each file and column. Every reader builds on them.

A recipe in TOML has the same fields under the same names (see ``recipe.py``; examples are in ``recipes/``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.columns import plain_text, read_order
from lanner.data.sources.files import Layout, column_names, read_file
from lanner.data.tables import LINE, Entities, Keep, Table, Tables
from lanner.errors import ConfigError, DataError
from lanner.types import BEHAVIOUR, FRIEND, ITEM, RELATED, TEXT, TIMESTAMP, USER, WEIGHT

OPTIONAL = (TIMESTAMP, WEIGHT, BEHAVIOUR, "order", "partition")
"""Optional fields of an event besides user and item, by their names in ``InteractionColumns``."""
SLOT = re.compile(r"{([^{}]+)}")
_JSON_TEXT = r'"((?:[^"\\]|\\.)*)"'


@dataclass(frozen=True)
class InteractionColumns:
    """Where the events are."""

    user: str
    """Column with the user's id. Example: ``user = "userId"``"""
    item: str = ""
    """Column with the item's id. Example: ``item = "movieId"``"""
    file: str | tuple[str, ...] = ""
    """File with one event per row, or several files; each may be a pattern. A file with the columns user and item, as
    ``lanner events export`` writes it, is read by those names.
    Example: ``file = ["ratings.csv", "events-*.parquet"]``"""
    files: Mapping[str, str] = field(default_factory=dict)
    """Instead of ``file``: one file for each part of a published split.
    Example: ``files = { train = "train.csv", test = "test.csv" }``"""
    timestamp: str = ""
    """Column with the time: seconds, milliseconds, microseconds or nanoseconds since 1970, or ISO 8601.
    Example: ``timestamp = "date"``"""
    format: str = ""
    """Format of every timestamp, if it is none of those. Example: ``format = "%d/%m/%Y %H:%M"``"""
    weight: str = ""
    """Column with a rating or a count; an event may have none. Example: ``weight = "rating"``"""
    behaviour: str = ""
    """Column with what the user did; an empty cell is an ``interaction``. Example: ``behaviour = "event"``"""
    order: str = ""
    """Column with the position of the event within its user, if timestamps are missing or equal; compared
    exactly. Example: ``order = "position"``"""
    partition: str = ""
    """Column with the part of a published split that the event belongs to: train, validation or test.
    Example: ``partition = "split"``"""
    wide: tuple[str, ...] = ()
    """Instead of ``item``: columns that each stand for an item, with a value above 0 if the user has it.
    Example: ``wide = ["savings", "loan"]``"""
    minimum_weight: float | None = None
    """Events with a lower weight are rejected, as some published protocols demand.
    Example: ``minimum_weight = 3.0``"""


@dataclass(frozen=True)
class Gather:
    """Values of an entity, one per row in a separate file: tags, categories, reviews.

    They form a column of lists for texts; those named in ``attributes`` also become an attribute.
    """

    name: str
    """Name of the column of lists. Example: ``name = "tags"``"""
    file: str
    """File with one value per row. Example: ``file = "tags.csv"``"""
    key: str
    """Its column with the entity's id. Example: ``key = "movieId"``"""
    value: str
    """Its column with the value. Example: ``value = "tag"``"""
    lookup: str = ""
    """File that maps codes to values, with its columns of codes and values.
    Example: ``lookup = "tags.dat:tagID:tagValue"``"""
    most: int = 20
    """Only the values given most often to that entity, in that order. Example: ``most = 5``"""


@dataclass(frozen=True)
class EntityColumns:
    """Where items or users are listed, and how their text is composed."""

    file: str
    """File with one entity per row. Example: ``file = "movies.csv"``"""
    id: str
    """Column with the id. Example: ``id = "movieId"``"""
    title: str = ""
    """Column with the display name. Example: ``title = "title"``"""
    text: tuple[str, ...] = ()
    """Fragments of the text that the language model reads, one per line; an empty column gives an empty line.
    HTML becomes plain text. Example: ``text = ["{title}.", "By {brand}."]``"""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Columns whose values become attributes, for filters, each with its separator; ``""``: one value; ``"json"``: a
    JSON list. Example: ``attributes = { genres = "|", brand = "" }``"""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Columns whose numbers or dates each become an attribute of ranges; with the date format, ``""``: numbers, or
    dates of a Parquet file. Example: ``numbers = { birth_year = "", joined = "%d/%m/%Y" }``"""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Codes of a column in words; ``""``: no value. Example: ``words = { gender = { F = "female", "?" = "" } }``"""
    gather: tuple[Gather, ...] = ()
    """Values from separate files."""
    latest: str = ""
    """Column that decides which of several rows with the same id is the latest; default: the first row counts.
    Example: ``latest = "updated"``"""
    keep: Keep = "interacting"
    """``"listed"``: an entity without interactions belongs to the dataset too. Example: ``keep = "listed"``"""


@dataclass(frozen=True)
class TieColumns:
    """Where the social edges are."""

    file: str
    """File with one social edge, or one user with all friends, per row. Example: ``file = "friends.csv"``"""
    user: str
    """Column with the user's id. Example: ``user = "user_id"``"""
    friend: str
    """Column with the friend's id. Example: ``friend = "friend_id"``"""
    separator: str = ""
    """Separator of the friends in one cell; empty if each row is one edge. Example: ``separator = ","``"""


@dataclass(frozen=True)
class LinkColumns:
    """Where the edges between items are."""

    file: str
    """File with one edge, or one item with all related items, per row. Example: ``file = "related.csv"``"""
    item: str
    """Column with the item's id. Example: ``item = "item_id"``"""
    related: str
    """Column with the related item's id. Example: ``related = "also_bought"``"""
    separator: str = ""
    """Separator of the related items in one cell; empty if each row is one edge. Example: ``separator = "|"``"""


@dataclass(frozen=True)
class SourceMapping:
    """All the parts of one dataset."""

    name: str
    """Name of the dataset. Example: ``name = "my-shop"``"""
    interactions: InteractionColumns | None = None
    """Where the events are: a table ``[interactions]``."""
    items: EntityColumns | None = None
    """Where items are described: a table ``[items]``."""
    users: EntityColumns | None = None
    """Where users are described: a table ``[users]``."""
    ties: TieColumns | None = None
    """Where the social edges are: a table ``[ties]``."""
    links: LinkColumns | None = None
    """Where the edges between items are: a table ``[links]``."""
    layout: Layout = field(default_factory=Layout)
    """Format of delimited files: a table ``[layout]``."""
    folder: str = "."
    """Folder of the files: relative to the recipe if it starts with a dot, otherwise in ``LANNER_DATA``.
    Example: ``folder = "my-shop"``"""


def read_mapping(mapping: SourceMapping, folder: Path) -> Tables:
    """Read the files that ``mapping`` names inside ``folder``.

    Raises:
        DataError: a missing file or column, or a file of another format.
    """
    layout, events = mapping.layout, mapping.interactions
    interactions = () if events is None else _interactions(events, folder, layout)
    return Tables(
        interactions=tuple(table.read_too(_shared_columns(mapping, folder, table.path)) for table in interactions),
        items=None if mapping.items is None else _entities(mapping.items, folder, layout),
        users=None if mapping.users is None else _entities(mapping.users, folder, layout),
        ties=None if mapping.ties is None else _edges(mapping.ties, folder, layout),
        links=None if mapping.links is None else _edges(mapping.links, folder, layout),
        minimum_weight=None if events is None else events.minimum_weight,
        time_format="" if events is None else events.format,
    )


def _shared_columns(mapping: SourceMapping, folder: Path, path: Path) -> set[str]:
    """The columns that items, users and edges read from the same file."""
    found = set[str]()
    for part in (mapping.items, mapping.users):
        if part is not None:
            found.update(_named(part) if folder / part.file == path else ())
            found.update(name for one in part.gather if folder / one.file == path for name in (one.key, one.value))
    for edges in (mapping.ties, mapping.links):
        if edges is not None and folder / edges.file == path:
            found.update(_ends(edges).values())
    return found


def without_missing(mapping: SourceMapping, folder: Path) -> SourceMapping:
    """The mapping without users and edges whose files are not in ``folder``."""
    parts = {"users": mapping.users, "ties": mapping.ties, "links": mapping.links}
    gone: dict[str, Any] = {name: None for name, part in parts.items() if part and not (folder / part.file).is_file()}
    return replace(mapping, **gone)


def _interactions(events: InteractionColumns, folder: Path, layout: Layout) -> tuple[Table, ...]:
    if events.wide:
        return tuple(_unpivot(events, path, layout) for path in matching(folder, events.file))
    columns = {ours: theirs for ours in (USER, ITEM, *OPTIONAL) if (theirs := getattr(events, ours))}
    files: Mapping[str, str | tuple[str, ...]] = events.files or {"": events.file}
    return tuple(
        _events_of(columns, path, layout, part) for part, file in files.items() for path in matching(folder, file)
    )


def matching(folder: Path, names: str | tuple[str, ...]) -> list[Path]:
    """The files of ``folder`` by name or pattern, those of a pattern in the order of their names.

    Raises:
        DataError: nothing matches a pattern.
    """
    paths: list[Path] = []
    for name in (names,) if isinstance(names, str) else names:
        found = [folder / name]
        if is_pattern(name) and not found[0].exists():
            found = sorted(path for path in folder.glob(name) if path.is_file())
        if not found:
            raise DataError("no file matches this pattern", path=folder / name)
        paths += found
    return paths


def is_pattern(name: str) -> bool:
    """Whether a file name is a pattern, such as ``events-*.csv``."""
    return any(mark in name for mark in "*?[")


def _events_of(columns: Mapping[str, str], path: Path, layout: Layout, part: str) -> Table:
    if path.is_file() and columns[USER] != USER:
        names = column_names(path, layout)
        if columns[USER] not in names and {USER, ITEM} <= set(names):
            # Written by `lanner events export`, with Lanner's own names.
            known = {WEIGHT, BEHAVIOUR, *columns} & set(names)
            columns = {ours: ours for ours in (USER, ITEM, *OPTIONAL) if ours in known}
    whole = [theirs for ours, theirs in columns.items() if ours in (USER, ITEM, TIMESTAMP, "order")]
    decimals = [columns[WEIGHT]] if WEIGHT in columns else []
    read = read_file(path, columns.values(), layout, integers=whole, decimals=decimals).select(dict(columns))
    frame = read.frame.with_columns(partition=pl.lit(part)) if part else read.frame
    return replace(read, frame=frame)


def _unpivot(events: InteractionColumns, path: Path, layout: Layout) -> Table:
    """Unpivot one column per item into one row per item held (its line is its position in that long form)."""
    read = read_file(path, [events.user, *events.wide], layout)
    long = read.frame.unpivot(list(events.wide), index=events.user, variable_name=ITEM, value_name="held")
    held = long.filter(pl.col("held").cast(pl.Float64, strict=False) > 0)
    return Table(held.select(pl.col(events.user).alias(USER), ITEM), read.path, unread=read.unread)


def _entities(entities: EntityColumns, folder: Path, layout: Layout) -> Entities:
    path = folder / entities.file
    for name in entities.numbers:
        if name in entities.attributes:
            raise ConfigError(f"'{name}' is named in both attributes and numbers; name it in one of them")
    lists_in = {*_slots(entities), *entities.attributes} - {entities.id, entities.title}
    table = read_file(path, _named(entities), layout, lists=lists_in)
    frame = table.frame[_chronological_rows(table.frame[entities.latest])] if entities.latest else table.frame
    for one in entities.gather:
        frame = _gathered(frame, one, entities.id, folder, layout)
    words = entities.words.items()
    frame = frame.with_columns(pl.col(name).cast(pl.String).replace(dict(codes)) for name, codes in words)
    lists = {name: lists_of(frame[name], separator) for name, separator in entities.attributes.items()}
    frame = frame.with_columns(**lists)
    known = [pl.col(entities.id).alias("id")]
    known += [title_of(entities.title).alias("title")] if entities.title else []
    known += [compose_text(entities.text, frame.schema).alias(TEXT)] if entities.text else []
    listed = Table(frame.select(*known, *lists, *entities.numbers), path, table.first_line)
    return Entities(listed, entities.keep, bool(entities.latest), entities.numbers)


def _named(entities: EntityColumns) -> list[str]:
    """The columns read from the entities' own file."""
    gathered = {one.name for one in entities.gather}
    columns = (*entities.attributes, *entities.numbers, *entities.words, *_slots(entities))
    named = (entities.id, entities.title, entities.latest, *columns)
    return [name for name in named if name and name not in gathered]


def _slots(entities: EntityColumns) -> list[str]:
    return [name for fragment in entities.text for name in SLOT.findall(fragment)]


def _chronological_rows(column: pl.Series) -> pl.Series:
    """The rows in order of numbers or times; of texts, if the column holds anything else."""
    places = read_order(column)
    places = places if places.null_count() == column.null_count() else column
    return places.to_frame("place").with_row_index("row").sort("place", maintain_order=True)["row"]


def lists_of(column: pl.Series, separator: str) -> pl.Expr:
    """A list of trimmed values in each row, without HTML, of a column of lists or of texts."""
    one = pl.col(column.name)
    return _trimmed(_plain_lists(one)) if isinstance(column.dtype, pl.List) else split_values(one, separator)


def split_values(column: pl.Expr, separator: str) -> pl.Expr:
    """A list of trimmed values in each row, without HTML."""
    texts = column.cast(pl.String)
    if separator == "json":
        values = texts.str.extract_all(_JSON_TEXT).list.eval(
            pl.element().str.strip_prefix('"').str.strip_suffix('"').str.replace_all(r"\\(.)", "$1")
        )
        values = _plain_lists(values)
    elif separator:
        values = _plain(texts).str.split(separator)  # HTML entities end in a semicolon, which may be the separator
    else:
        values = pl.concat_list(_plain(texts))
    return _trimmed(values)


def title_of(column: str) -> pl.Expr:
    """Titles without HTML."""
    return _plain(pl.col(column)).str.strip_chars()


def _trimmed(values: pl.Expr) -> pl.Expr:
    trimmed = pl.element().str.strip_chars()
    return values.list.eval(trimmed.filter(trimmed != ""))


def _plain_lists(values: pl.Expr) -> pl.Expr:
    """``plain_text`` of all values at once: in ``list.eval`` it would be called for each row."""

    def plain(lists: pl.Series) -> pl.Series:
        frame = lists.cast(pl.List(pl.String)).to_frame("value").with_row_index("row")
        flat = frame.filter(pl.col("value").list.len() > 0).explode("value")
        flat = flat.with_columns(plain_text(flat["value"]).alias("value"))
        plain_lists = flat.group_by("row", maintain_order=True).agg("value")
        return frame.select("row").join(plain_lists, on="row", how="left", maintain_order="left")["value"]

    return values.map_batches(plain, return_dtype=pl.List(pl.String))


def _plain(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.String).map_batches(plain_text, return_dtype=pl.String)


def compose_text(fragments: tuple[str, ...], schema: pl.Schema) -> pl.Expr:
    """One text per row from ``fragments`` whose slots name columns; a fragment with an empty slot is an empty line."""
    lines = [_fragment(one, schema).str.replace_all(r"\s*\n\s*", " ") for one in fragments]
    text = pl.concat_str([line.fill_null("") for line in lines], separator=FIELD_SEPARATOR)
    return pl.when(pl.any_horizontal([line.is_not_null() for line in lines])).then(text)


def _fragment(fragment: str, schema: pl.Schema) -> pl.Expr:
    """The fragment with its slots filled; null where a slot is empty."""
    cells = []
    for name in SLOT.findall(fragment):
        column = pl.col(name).list.join(", ") if isinstance(schema[name], pl.List) else _plain(pl.col(name))
        filled = column.str.strip_chars()
        cells.append(pl.when(filled != "").then(filled))
    return pl.format(SLOT.sub("{}", fragment), *cells) if cells else pl.lit(fragment)


def _gathered(frame: pl.DataFrame, one: Gather, key: str, folder: Path, layout: Layout) -> pl.DataFrame:
    """``frame`` with a column of lists: the values given most often to each entity first."""
    rows = read_file(folder / one.file, [one.key, one.value], layout).frame
    rows = rows.select(pl.col(one.key).cast(pl.String).alias("key"), pl.col(one.value).cast(pl.String).alias("value"))
    if one.lookup:
        rows = rows.with_columns(value=_lookup_values(rows["value"], one.lookup, folder, layout))
    counted = (
        rows.with_columns(_plain(pl.col("value")))
        .drop_nulls()
        .group_by("key", "value")
        .len()
        .sort(["key", "len", "value"], descending=[False, True, False])
    )
    lists = counted.group_by("key", maintain_order=True).agg(pl.col("value").head(one.most).alias(one.name))
    joined = frame.with_columns(pl.col(key).cast(pl.String).alias("key")).join(
        lists, on="key", how="left", maintain_order="left"
    )
    return joined.drop("key")


def _lookup_values(codes: pl.Series, lookup: str, folder: Path, layout: Layout) -> pl.Series:
    try:
        file, code, meaning = lookup.split(":")
    except ValueError:
        raise ConfigError(f"lookup = '{lookup}' is not of the form 'file:code column:meaning column'") from None
    table = read_file(folder / file, [code, meaning], layout).frame
    return codes.replace_strict(table[code].cast(pl.String), table[meaning].cast(pl.String), default=None)


def _ends(edges: TieColumns | LinkColumns) -> dict[str, str]:
    """The columns with both ids of an edge, by their names in the table."""
    if isinstance(edges, TieColumns):
        return {USER: edges.user, FRIEND: edges.friend}
    return {ITEM: edges.item, RELATED: edges.related}


def _edges(edges: TieColumns | LinkColumns, folder: Path, layout: Layout) -> Table:
    columns = _ends(edges)
    read = read_file(folder / edges.file, columns.values(), layout, integers=columns.values()).select(columns)
    if not edges.separator:
        return read
    numbered, other = read.frame.with_row_index(LINE, read.first_line), list(columns)[1]
    lists = numbered.with_columns(pl.col(other).str.split(edges.separator)).explode(other)
    return Table(lists.filter(~pl.col(other).str.strip_chars().is_in(["", "None"])), read.path, read.first_line)
