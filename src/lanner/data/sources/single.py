"""One file of interactions, or several, with standard column names."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from lanner.data.columns import read_ids
from lanner.data.sources.files import EMPTY, JSON_SUFFIXES, Layout, column_names, data_suffix
from lanner.data.sources.mapping import OPTIONAL, EntityColumns, InteractionColumns, SourceMapping, read_mapping
from lanner.data.tables import Entities, Table, Tables
from lanner.errors import DataError, nearest
from lanner.types import BEHAVIOUR, ITEM, TEXT, TIMESTAMP, USER, WEIGHT

_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", *JSON_SUFFIXES)
_HEADERLESS = {
    "u.data": Layout("\t", columns={"u.data": (USER, ITEM, WEIGHT, TIMESTAMP)}),
    "ratings.dat": Layout("::", quote=False, columns={"ratings.dat": (USER, ITEM, WEIGHT, TIMESTAMP)}),
}
"""Files of MovieLens that have no header line, by name."""
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    USER: (("user", "user_id"), ("userid", "uid", "customer_id", "customerid", "visitorid")),
    ITEM: (
        ("item", "item_id"),
        ("itemid", "iid", "movie_id", "movieid", "product_id", "productid", "article_id", "sku"),
    ),
    TIMESTAMP: (("timestamp",), ("time", "ts", "datetime", "date", "event_time")),
    WEIGHT: (("weight", "rating"), ("stars", "score", "count")),
    BEHAVIOUR: (("behaviour", "behavior"), ("event", "event_type", "action")),
    "order": (("order",),),
    "partition": (("partition",),),
    "title": (("title",), ("item_title", "item_name", "product_name", "movie_title")),
    TEXT: (("description",), ("item_description", "product_description", "plot", "overview", "abstract")),
}
"""Standard column names, case-insensitive; the second group counts if the file has none of the first."""

_MIN_SIMILARITY = 0.82
"""Minimum similarity, see ``nearest``, for a column name to count as a misspelling."""


def detect(path: Path) -> bool:
    """Whether this is a file (not a folder) that may hold a table."""
    return path.is_file() and (data_suffix(path) in _SUFFIXES or path.name in _HEADERLESS)


def read(path: Path) -> Tables:
    """The interactions, and item texts if the events carry titles or descriptions.

    Raises:
        DataError: no column for user or item, or two columns for the same role.
    """
    layout = _HEADERLESS.get(path.name, Layout())
    names = column_names(path, layout)
    found = {role: name for role, groups in NAMES.items() if (name := _find_column(groups, names, path, role))}
    for needed in (USER, ITEM):
        if not names:
            raise DataError(EMPTY, path=path, line=1)
        if needed not in found:
            advice = "rename a column, or name it in a recipe (.toml) as interactions." + needed
            if all(re.fullmatch(r"[\d.\s:;,|-]+", name) for name in names):
                advice = "the first line looks like a row; name the columns in a recipe (.toml) as layout.columns"
            problem = f"no such column; the file has {', '.join(names)}; {advice}"
            raise DataError(problem, path=path, line=1, field=needed)
    known: dict[str, Any] = {name: found[name] for name in OPTIONAL if name in found}
    events = InteractionColumns(found[USER], found[ITEM], path.name, **known)
    title, text = found.get("title", ""), found.get(TEXT, "")
    fragments = tuple(f"{{{name}}}{end}" for name, end in ((title, "."), (text, "")) if name)
    items = EntityColumns(path.name, found[ITEM], title, fragments) if fragments else None
    tables = read_mapping(SourceMapping(path.stem, events, items, layout=layout), path.parent)
    beside = unread(names, found.values(), NAMES.keys() - found.keys())
    interactions = tuple(replace(table, unread=beside) for table in tables.interactions)
    return replace(tables, interactions=interactions, items=None if tables.items is None else _once(tables.items))


def unread(names: Sequence[str], read: Collection[str], missing: Collection[str]) -> dict[str, str]:
    """The unread columns, each with the standard name of a missing role that may be meant, or ''."""
    usual = [name for role in sorted(missing) for group in NAMES[role] for name in group]
    meant = {}
    for name in (name for name in names if name not in read):
        # 'raitng' is near 'rating'; 'country' is as near 'count', but two letters longer.
        likely = [one for one in usual if abs(len(one) - len(name)) < 2]
        meant[name] = nearest(name.lower(), likely, _MIN_SIMILARITY) or ""
    return meant


def read_all(paths: Sequence[Path]) -> Tables:
    """Several such files as one dataset: events in the order of the files, each item as the last file describes it."""
    tables = [read(path) for path in paths]
    listed = [one.items for one in tables if one.items is not None]
    interactions = tuple(table for one in tables for table in one.interactions)
    if not listed:
        return Tables(interactions)
    frames = [one.table.frame.with_columns(pl.col("id").cast(pl.String)) for one in listed]
    return Tables(interactions, _once(Entities(Table(pl.concat(frames, how="diagonal"), listed[0].table.path))))


def _once(items: Entities) -> Entities:
    """Each item once: the last of its rows with a title or a description."""
    described = pl.any_horizontal(pl.col("^(title|text)$").fill_null("") != "") & pl.col("id").is_not_null()
    frame = items.table.frame.filter(described).unique("id", keep="last", maintain_order=True)
    # White space around an id is stripped, or it would be a second id; few rows are left by now.
    frame = frame.with_columns(read_ids(frame["id"]).alias("id")).filter(pl.col("id").is_not_null())
    frame = frame.unique("id", keep="last", maintain_order=True)
    return replace(items, table=replace(items.table, frame=frame))


def _find_column(groups: Sequence[Sequence[str]], names: Sequence[str], path: Path, role: str) -> str | None:
    """The column with one of the names of the first group that occurs.

    Raises:
        DataError: two columns have names of that group.
    """
    for group in groups:
        found = [name for name in names if name.lower() in group]
        if len(found) > len(set(found)):
            raise DataError("two columns have this name; rename one", path=path, line=1, field=found[0])
        if len(found) > 1:
            part = f"interactions.{role}" if role in (USER, ITEM, *OPTIONAL) else f"items.{role}"
            problem = f"'{found[0]}' and '{found[1]}' both look like the {role}; choose with {part} in a recipe (.toml)"
            raise DataError(problem, path=path, line=1, field=found[0])
        if found:
            return found[0]
    return None
