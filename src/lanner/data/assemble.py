"""Assembles raw frames into a frozen dataset; unusable rows are rejected and counted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.columns import (
    SECOND,
    TIME_FORMATS,
    are_placeholders,
    encode,
    nanoseconds,
    number_ids,
    positions,
    read_ids,
    read_order,
    read_times,
    read_weights,
    without_placeholders,
)
from lanner.data.ids import IdMap
from lanner.data.interactions import EVENT_COLUMNS, Dataset, Interactions
from lanner.data.ordering import sort_by
from lanner.data.ragged import Ragged
from lanner.data.ranges import ranged
from lanner.data.rejects import Fault, Rejects
from lanner.data.tables import LINE, Entities, Table, Tables
from lanner.errors import DataError
from lanner.types import BEHAVIOUR, FRIEND, ITEM, REASON, RELATED, TEXT, TIMESTAMP, USER, WEIGHT, ExternalId

ID, TITLE, ORDER, PARTITION = "id", "title", "order", "partition"
_PARTS = ("train", "validation", "test")
_BEHAVIOUR = "interaction"
"""Behaviour of an event whose file names none."""
_TIME_HINT = f"known: {TIME_FORMATS}; name another with interactions.format in a recipe, such as '%d/%m/%Y %H:%M'"
_ADVICE = {
    WEIGHT: (r"^\s*-?\d+,\d+\s*$", "write decimals with a point: 1.5"),
    # Three letters or more: PM is not a time zone.
    TIMESTAMP: (r":\d\d(\.\d+)? ?[A-Za-z][A-Za-z_/]{2,}\s*$", "write an offset in place of the zone's name: +01:00"),
}
"""By column: patterns of unsupported formats, and advice on what to do about them."""
_PART_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}


def assemble(tables: Tables) -> Dataset:
    """Validate the rows, number the ids, order the events, and attach texts, attributes and edges.

    Raises:
        DataError: a file without a single usable row.
    """
    rejects = Rejects()
    events = _events(tables, rejects)
    warnings = _rejection_warnings(tables.interactions, rejects, "events")
    users, user_rows = number_ids(events[USER])
    items, item_rows = number_ids(events[ITEM])
    user_ids, user_catalogue, unknown_users = _catalogue(tables.users, users, USER, rejects)
    item_ids, item_catalogue, unknown_items = _catalogue(tables.items, items, ITEM, rejects)
    ties, lost_ties = _edges(tables.ties, "tie", (USER, FRIEND), user_ids, rejects)
    links, lost_links = _edges(tables.links, "link", (ITEM, RELATED), item_ids, rejects)
    return Dataset(
        interactions=_interactions(events, user_rows, item_rows),
        users=user_ids,
        items=item_ids,
        item_catalogue=item_catalogue,
        user_catalogue=user_catalogue,
        ties=ties,
        links=links,
        rejected=rejects.counts(),
        rejected_rows=rejects.frame(),
        warnings=(
            *_unread_warnings(tables.interactions),
            *warnings,
            *_placeholder_warnings(events[USER], USER),
            *_placeholder_warnings(events[ITEM], ITEM),
            *unknown_users,
            *unknown_items,
            *lost_ties,
            *lost_links,
        ),
        unread=tuple(dict.fromkeys(name for table in tables.interactions for name in table.unread)),
        has_order=TIMESTAMP in events.columns or ORDER in events.columns,
    )


def _events(tables: Tables, rejects: Rejects) -> pl.DataFrame:
    if not tables.interactions:
        return pl.DataFrame(schema={USER: pl.String, ITEM: pl.String})
    _check_columns(tables.interactions)
    given = [_without_nan(table) for table in tables.interactions]
    read = [(table, _read(table, tables.time_format)) for table in given]
    usable = [rejects.split(*_faults(before, after, tables)) for before, after in read]
    kept = [frame.select(pl.exclude(f"^({LINE}|raw .*)$")) for frame in usable]
    if len({frame.schema.get(TIMESTAMP) for frame in kept}) > 1:
        kept = [frame.with_columns(nanoseconds(frame[TIMESTAMP]).alias(TIMESTAMP)) for frame in kept]
    # If one file has numeric ids and another has text ids, all are texts.
    events = pl.concat(kept, how="diagonal_relaxed")
    return events.with_columns(pl.col(BEHAVIOUR).fill_null(_BEHAVIOUR)) if BEHAVIOUR in events.columns else events


def _without_nan(table: Table) -> Table:
    """Null for NaN, which libraries without nullable floats write for missing values."""
    frame = table.frame
    nans = [column.name for column in frame if column.dtype.is_float() and column.is_nan().any()]
    return replace(table, frame=frame.with_columns(pl.col(nans).fill_nan(None))) if nans else table


def _check_columns(tables: Sequence[Table]) -> None:
    """Raise ``DataError`` if only some of the files have times, an order or parts of a split."""
    for name in (TIMESTAMP, ORDER, PARTITION):
        having = [table for table in tables if name in table.frame.columns]
        for table in tables if having else ():
            if name not in table.frame.columns:
                problem = f"no such column, but {having[0].path.name} has one; the files of one dataset must agree"
                raise DataError(problem, path=table.path, field=name)


def _rejection_warnings(tables: Sequence[Table], rejects: Rejects, what: str) -> list[str]:
    """One line on the rejected rows, with the first of each kind; empty if there are none. what: what the rows are."""
    counts, rejected = rejects.counts(), rejects.frame()
    kinds = []
    for reason, count in counts.items():
        _, file, line, record = rejected.row(rejected[REASON].index_of(reason) or 0)
        name = reason.split()[1]
        cell = str(json.loads(record).get(f"raw {name}") or "").strip()
        hint = _advice(pl.Series(name, [cell]))
        advice = f"; {hint}" if hint else ""
        kinds.append(f"{count:,} {reason} ({file}, {tables[0].unit} {line}{f': {cell}' if cell else ''}{advice})")
    rows = sum(table.frame.height for table in tables)
    return [f"{sum(counts.values()):,} of {rows:,} {what} were rejected: {', '.join(kinds)}"] if counts else []


def _placeholder_warnings(ids: pl.Series, kind: str) -> list[str]:
    """One line on the events whose user or item id looks like a missing value; it may be a name."""
    held = ids.filter(are_placeholders(ids)) if ids.dtype == pl.String else ids.clear()
    if held.is_empty():
        return []
    shown = ", ".join(held.unique(maintain_order=True).head(3))
    return [f"events whose {kind} id looks like a missing value ({shown}): {len(held):,}; leave such cells empty"]


def _unread_warnings(tables: Sequence[Table]) -> list[str]:
    """A line for each unread column whose name resembles a standard one, in the first file that has it."""
    files = {name: (table.path.name, meant) for table in reversed(tables) for name, meant in table.unread.items()}
    near = [(file, name, meant) for name, (file, meant) in files.items() if meant]
    return [f"{file}: column '{name}' is not read; did you mean '{meant}'?" for file, name, meant in near]


def _read(table: Table, time_format: str) -> pl.DataFrame:
    """The columns as values, null where a cell cannot be read."""
    readers: dict[str, Callable[[pl.Series], pl.Series]] = {
        USER: read_ids,
        ITEM: read_ids,
        TIMESTAMP: partial(read_times, form=time_format, table=table),
        WEIGHT: read_weights,
        ORDER: read_order,
        BEHAVIOUR: _behaviours,
        LINE: lambda column: column,
    }
    for column in table.frame:
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            problem = f"a column of {column.dtype} values, expected one string or number per row"
            raise DataError(problem, path=table.path, field=table.column(column.name))
    read = [readers.get(column.name, _text)(column).alias(column.name) for column in table.frame]
    return pl.DataFrame(read)


def _behaviours(column: pl.Series) -> pl.Series:
    return _text(column).replace("", None).fill_null(_BEHAVIOUR)


def _text(column: pl.Series) -> pl.Series:
    return column.cast(pl.String)


def _faults(table: Table, read: pl.DataFrame, tables: Tables) -> tuple[Table, list[Fault]]:
    """The table of values, with the raw cells that could not be read, and all possible faults of its rows."""
    raw = [table.frame[name].alias(f"raw {name}") for name in read.columns if read[name].null_count()]
    faults, least = [], tables.minimum_weight
    time_hint = f"interactions.format is '{tables.time_format}'" if tables.time_format else _TIME_HINT
    for series in read:
        name, value, cell = series.name, pl.col(series.name), pl.col(f"raw {series.name}")
        if series.null_count():
            if name == WEIGHT:
                raw = [without_placeholders(one) if one.name == f"raw {name}" else one for one in raw]
            empty = cell.cast(pl.String).fill_null("").str.strip_chars() == ""
            what = f"{name} id" if name in (USER, ITEM) else name
            # An event without a rating is valid.
            faults += [] if name == WEIGHT else [Fault(f"missing {what}", name, empty)]
            unreadable = Fault(f"unreadable {what}", name, value.is_null() & ~empty)
            hint = time_hint if name == TIMESTAMP else unreadable.hint
            faults.append(replace(unreadable, hint=_advice(table.frame[name]) or hint))
        if name == WEIGHT:
            faults.append(Fault("weight is NaN or infinite", name, ~value.is_finite()))
            if least is not None:
                faults.append(Fault(f"weight below {least:g}", name, value < least, damning=False))
    return replace(table, frame=pl.DataFrame([*read, *raw])), faults


def _advice(column: pl.Series) -> str:
    """Advice if any cell of the column is in an unsupported format; else empty."""
    pattern, hint = _ADVICE.get(column.name, ("", ""))
    return hint if hint and column.dtype == pl.String and column.str.contains(pattern).any() else ""


def _interactions(events: pl.DataFrame, user_rows: NDArray[np.int32], item_rows: NDArray[np.int32]) -> Interactions:
    behaviour, behaviours = _codes(events, BEHAVIOUR, ("interaction",))
    partition, partitions = _parts(events)
    times = events[TIMESTAMP].to_numpy() if TIMESTAMP in events.columns else None
    # An event from a file without weights has none.
    weights = events[WEIGHT].fill_null(np.nan).to_numpy() if WEIGHT in events.columns else None
    place = events[ORDER] if ORDER in events.columns else None
    interactions = Interactions(user_rows, item_rows, times, weights, behaviour, behaviours, partition, partitions)
    # Time is the last key, hence the primary one; the position within a user only breaks ties.
    if place is not None:
        exact = place if place.dtype in (pl.Int32, pl.Int64) else place.rank("dense").cast(pl.Int64)
        interactions = _sorted(interactions, exact.to_numpy())
    if interactions.timestamp is not None:
        # Kept as narrow as it was read while it is moved.
        interactions = _sorted(interactions, interactions.timestamp)
        scale = SECOND if np.asarray(interactions.timestamp).dtype == np.int32 else 1
        in_nanoseconds = np.multiply(np.asarray(interactions.timestamp), scale, dtype=np.int64)
        interactions = replace(interactions, timestamp=in_nanoseconds)
    return interactions


def _sorted(interactions: Interactions, keys: NDArray[np.integer]) -> Interactions:
    """The events in ascending order of ``keys``."""
    columns = {name: column for name in EVENT_COLUMNS if (column := getattr(interactions, name)) is not None}
    ordered = sort_by(keys, list(columns.values()))
    if ordered is None:
        return interactions
    changed: dict[str, Any] = dict(zip(columns, ordered, strict=True))
    return replace(interactions, **changed)


def _codes(
    events: pl.DataFrame, name: str, absent: tuple[str, ...]
) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
    if name not in events.columns:
        return None, absent
    names, codes = encode(events[name])
    if len(names) > 256:
        raise DataError(
            f"{len(names)} different values, at most 256 are expected; is this the right column?", field=name
        )
    return codes.astype(np.uint8), names


def _parts(events: pl.DataFrame) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
    """Partition codes with the names in the order train, validation, test."""
    codes, names = _codes(events, PARTITION, ())
    if codes is None:
        return None, names
    plain = [_PART_NAMES.get(name.lower(), name.lower()) for name in names]
    strange = sorted(set(plain) - set(_PARTS))
    if strange:
        raise DataError(f"unknown part '{strange[0]}' of a split; write one of {', '.join(_PARTS)}", field=PARTITION)
    present = tuple(part for part in _PARTS if part in plain)
    return np.array([present.index(one) for one in plain], np.uint8)[codes], present


def _catalogue(
    entities: Entities | None, seen: list[ExternalId], kind: str, rejects: Rejects
) -> tuple[IdMap, Catalogue, list[str]]:
    """Ids (those seen first, then those only listed, if kept), what is known about each, and warnings."""
    if entities is None:
        ids = IdMap(seen, of=kind)
        return ids, Catalogue.blank(ids.external), []
    listed = _listed(entities, kind, rejects)
    unmatched = _unmatched_warnings(entities, listed[ID], seen, kind)
    if entities.keep == "listed":
        seen = [*seen, *listed[ID].filter(~listed[ID].is_in(seen)).sort().to_list()]
    elif (idle := ~listed[ID].is_in(seen)).any():
        reason = pl.lit(f"{kind} listed but in no interaction").alias(REASON)
        rejects.keep(listed.filter(idle).with_columns(reason), entities.table.path)
    ids = IdMap(seen, of=kind)
    names = pl.DataFrame({ID: pl.Series(seen, dtype=pl.String)})
    known = names.join(listed, on=ID, how="left", maintain_order="left")
    catalogue, unread = _describe_entities(known, entities)
    return ids, catalogue, [*entities.warnings, *unmatched, *unread]


def _unmatched_warnings(entities: Entities, listed: pl.Series, seen: list[ExternalId], kind: str) -> list[str]:
    """One line if the file describes fewer than half of the ids in the events; if almost none: different id schemes?"""
    occurring = pl.Series(seen, dtype=pl.String)
    is_known = occurring.is_in(listed.implode())
    matched = int(is_known.sum())
    if 2 * matched >= len(seen):
        return []
    summary = f"{entities.table.path.name} describes {matched:,} of the {len(seen):,} {kind}s that have events"
    unmatched = listed.filter(~listed.is_in(occurring.implode()))
    if 10 * matched >= min(len(seen), len(listed)) or not len(unmatched):
        return [summary]
    unknown = occurring.filter(~is_known)[0]
    examples = f"it lists {len(listed):,} ids, such as '{unmatched[0]}'; the events have '{unknown}'"
    return [f"{summary} ({examples}); are these the same ids?"]


def _listed(entities: Entities, kind: str, rejects: Rejects) -> pl.DataFrame:
    """One row per id, id as String, with the column ``line``."""
    table, missing = entities.table, Fault(f"{kind} listed without an id", ID, pl.col(ID).is_null())
    frame = table.frame.with_columns(read_ids(table.frame[ID]).cast(pl.String).alias(ID))
    frame = rejects.split(replace(table, frame=frame.with_row_index(LINE, table.first_line)), [missing])
    if entities.latest_last:
        return frame.unique(ID, keep="last", maintain_order=True)
    repeated = frame.filter(~pl.col(ID).is_first_distinct()).with_columns(pl.lit(f"{kind} listed twice").alias(REASON))
    if repeated.height:
        rejects.keep(repeated, table.path)
    return frame.unique(ID, keep="first", maintain_order=True)


def _describe_entities(known: pl.DataFrame, entities: Entities) -> tuple[Catalogue, list[str]]:
    """Texts, titles and attributes of the rows of ``known``, in that order, and a line on non-numeric cells."""
    texts = known[TEXT].fill_null("") if TEXT in known.columns else pl.repeat("", known.height, eager=True)
    titles = known[ID]
    if TITLE in known.columns:
        titles = known.select(pl.when(pl.col(TITLE) != "").then(TITLE).otherwise(ID)).to_series()
    lists = [name for name, dtype in known.schema.items() if isinstance(dtype, pl.List)]
    attributes, warnings = {name: _attribute(known[name]) for name in lists}, []
    for name, date_format in entities.numbers.items():
        attributes[name], unread = ranged(known[name], date_format)
        if unread is not None:
            what = f"a date like '{date_format}'" if date_format else "a number"
            file = entities.table.path.name
            warnings.append(f"{file}: '{unread}' in the column '{name}' is not {what}; it has no effect")
    return Catalogue(tuple(texts.to_list()), tuple(titles.to_list()), attributes), warnings


def _attribute(held: pl.Series) -> Attribute:
    """Distinct values, and for each row the codes of its values, each once, in the given order."""
    pairs = pl.DataFrame({"row": pl.arange(0, len(held), eager=True), "value": held}).explode("value")
    pairs = pairs.filter(pl.col("value").is_not_null() & (pl.col("value") != "")).unique(maintain_order=True)
    names, codes = encode(pairs["value"])
    return Attribute(names, Ragged.from_pairs(pairs["row"].to_numpy(), codes, len(held)))


def _edges(
    table: Table | None, what: str, ends: tuple[str, str], known: IdMap, rejects: Rejects
) -> tuple[Ragged | None, list[str]]:
    """Friends of each user, or related items of each item, as given: an edge in one direction is kept in one.

    ends: the columns with both ids; what: how an edge is called in findings. Also returns a line on the rejected ones,
    if any.
    """
    if table is None:
        return None, []
    one, other = ends
    names = pl.Series(known.external, dtype=pl.String)
    ids = table.frame.with_columns(read_ids(table.frame[name]).cast(pl.String).alias(name) for name in ends)
    rows = [positions(ids[name], names).cast(pl.Int64).alias(f"{name} row") for name in ends]
    unknown = pl.any_horizontal(pl.col(f"{one} row", f"{other} row").is_null())
    faults = [
        Fault(f"{what} without an id", other, pl.any_horizontal(pl.col(ends).is_null())),
        Fault(f"{what} to an unknown {one}", other, unknown, damning=False),
        Fault(
            f"{what} to oneself" if one == USER else f"{what} to itself",
            other,
            pl.col(one) == pl.col(other),
            damning=False,
        ),
        Fault(f"{what} given twice", other, ~pl.struct(ends).is_first_distinct(), damning=False),
    ]
    lost = Rejects()
    pairs = lost.split(replace(table, frame=ids.with_columns(rows)), faults)
    rejects.frames += lost.frames
    edges = Ragged.from_pairs(pairs[f"{one} row"].to_numpy(), pairs[f"{other} row"].to_numpy(), len(known))
    return edges, _rejection_warnings([table], lost, f"{what}s")
