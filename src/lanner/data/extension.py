"""Extends a dataset with more events and their new users and items; known rows keep their positions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.errors import DataError


def extended(known: Dataset, more: Dataset) -> Dataset:
    """``known`` with the events of ``more``. New users and items get the rows after the known ones.

    Known users and items keep their texts and attributes. Duplicate events are not added again. Ratings,
    counts and behaviours are read as in ``known``.

    Raises:
        DataError: ``more`` has no times, and ``known`` has.
    """
    if known.interactions.timestamp is not None and more.interactions.timestamp is None:
        raise DataError("the new events have no times, and those that the model knows have", path="events")
    users, user_rows = _merge_ids(known.users, more.users)
    items, item_rows = _merge_ids(known.items, more.items)
    later = replace(more.interactions, user=user_rows[more.interactions.user], item=item_rows[more.interactions.item])
    ties = None if known.ties is None else _edges(known.ties, more.ties, user_rows, len(users))
    links = None if known.links is None else _edges(known.links, more.links, item_rows, len(items))
    dataset = replace(
        known,
        interactions=_merge_by_time(_without_known(known.interactions, later), known.interactions),
        users=users,
        items=items,
        item_catalogue=_merge_catalogues(known.item_catalogue, more.item_catalogue, item_rows),
        user_catalogue=_merge_catalogues(known.user_catalogue, more.user_catalogue, user_rows),
        ties=ties,
        links=links,
        rejected=more.rejected,
        rejected_rows=more.rejected_rows,
        warnings=more.warnings,
        has_order=known.has_order and more.has_order,
    )
    return dataset if known.feedback is None else known.feedback.apply(dataset)


def _merge_ids(known: IdMap, more: IdMap) -> tuple[IdMap, NDArray[np.int32]]:
    """All ids, and the row of each id of ``more`` among them."""
    new = [one for one in more.external if one not in known]
    ids = IdMap((*known.external, *new), known.kind if known.kind == more.kind else "str", of=known.of)
    return ids, ids.rows(more.external)


def _without_known(known: Interactions, later: Interactions) -> Interactions:
    """The events of ``later`` that are not in ``known``."""
    names = ("user", "item", "timestamp", "weight")
    there = [name for name in names if getattr(known, name) is not None and getattr(later, name) is not None]

    def rows(events: Interactions) -> NDArray[Any]:
        columns = [np.nan_to_num(getattr(events, name), nan=-1) for name in there]
        behaviour = _codes(events, known.behaviours) if known.behaviour is not None else np.zeros(len(events))
        return np.rec.fromarrays([*columns, behaviour])

    return later.take(~np.isin(rows(later), rows(known)))


def _codes(events: Interactions, names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Behaviours as codes into ``names``; new ones get the codes after them."""
    of_name = {name: code for code, name in enumerate(names)}
    codes = np.array([of_name.get(name, len(names) + place) for place, name in enumerate(events.behaviours)], np.uint8)
    return codes[np.zeros(len(events), np.uint8) if events.behaviour is None else events.behaviour]


def _merge_by_time(later: Interactions, known: Interactions) -> Interactions:
    """Both in the order of their times; without times ``later`` comes after."""
    behaviours = (*known.behaviours, *(name for name in later.behaviours if name not in known.behaviours))

    def column(name: str, of: Callable[[Interactions], Any]) -> Any:
        return None if getattr(known, name) is None else np.concatenate([of(known), of(later)])

    weight = None
    if known.weight is not None:
        weight = np.concatenate([known.weight, _default_if_none(later.weight, np.full(len(later), np.nan, np.float32))])
    one_behaviour = len(behaviours) == 1
    codes = None if one_behaviour else np.concatenate([_codes(known, behaviours), _codes(later, behaviours)])
    events = Interactions(
        np.concatenate([known.user, later.user]),
        np.concatenate([known.item, later.item]),
        column("timestamp", lambda events: events.timestamp),
        weight,
        codes,
        behaviours,
    )
    return events if events.timestamp is None else events.take(np.argsort(events.timestamp, kind="stable"))


def _default_if_none(column: Any, default: Any) -> Any:
    return default if column is None else column


def _merge_catalogues(known: Catalogue, more: Catalogue, rows: NDArray[np.int32]) -> Catalogue:
    """The combined catalogue, in row order; ``rows``: those of ``more``."""
    new = np.flatnonzero(rows >= len(known.texts))
    attributes = {
        name: _attribute(known.attributes.get(name), more.attributes.get(name), len(known.texts), new)
        for name in dict.fromkeys((*known.attributes, *more.attributes))
    }
    return Catalogue(
        (*known.texts, *(more.texts[row] for row in new)),
        (*known.titles, *(more.titles[row] for row in new)),
        attributes,
    )


def _attribute(known: Attribute | None, more: Attribute | None, num_known: int, new: NDArray[np.int64]) -> Attribute:
    """The values of the known rows, then those of ``new`` rows of ``more``. Known ranges of numbers stay."""
    if known is None:
        assert more is not None
        return replace(more, codes=_concatenate(Ragged.empty(num_known), more.codes.take(new)))
    if more is None:
        return replace(known, codes=_concatenate(known.codes, Ragged.empty(len(new))))
    said = tuple(map(str, more.edges)) if known.edges and more.edges else more.names
    names = (*known.names, *dict.fromkeys(name for name in said if known.code(name) is None))
    extended = replace(known, names=names)
    added = more.codes.take(new)
    codes = np.array([extended.code(name) for name in said], np.int32)[added.values]
    return replace(extended, codes=_concatenate(known.codes, Ragged(added.indptr, codes)))


def _concatenate(first: Ragged, then: Ragged) -> Ragged:
    """The lists of both, one after the other."""
    return Ragged(
        np.concatenate([first.indptr, first.indptr[-1] + then.indptr[1:]]), np.concatenate([first.values, then.values])
    )


def _edges(known: Ragged, more: Ragged | None, rows: NDArray[np.int32], length: int) -> Ragged:
    """The edges of both datasets. rows: those of ``more``; length: the number of users, or of items."""
    first = _concatenate(known, Ragged.empty(length - len(known)))
    if more is None:
        return first
    both = first.join(Ragged.from_pairs(rows[more.row_of_value], rows[more.values], length))
    pairs = np.unique(np.stack([both.row_of_value, both.values]), axis=1)
    return Ragged.from_pairs(pairs[0], pairs[1], length)
