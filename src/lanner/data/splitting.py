"""Ways to split a dataset in three. Each labels every event and passes the labels to one builder."""

import math
from contextlib import suppress
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut, Split
from lanner.errors import ConfigError, DataError

_TRAIN, _VALIDATION, _TEST = 0, 1, 2
_PARTS = ("train", "validation", "test")
Labels = NDArray[np.uint8]
"""uint8 ``[E]``: the part of each event."""


def automatic(dataset: Dataset, test: float = 0.2, validation: float = 0.1, seed: int = 0) -> Split:
    """By time if events have times and that leaves something to train on and to test, else at random.

    Raises:
        ConfigError: a share outside 0 … 1. DataError: nothing could be held out.
    """
    if dataset.has_times:
        with suppress(DataError):
            return global_time(dataset, test, validation)
    return random_ratio(dataset, test, validation, seed)


def random_ratio(dataset: Dataset, test: float = 0.2, validation: float = 0.1, seed: int = 0) -> Split:
    """Of each user's distinct items, a random share ``test``; of what remains, a share ``validation``.

    All events of one user with one item go to the same part. Counts are rounded to the nearest whole number and one
    item of each user stays in training.

    Raises:
        ConfigError: a share outside 0 … 1. DataError: nothing could be held out.
    """
    _check_shares(test=test, validation=validation)
    labels = _label_pairs(dataset, np.ones(len(dataset.interactions), bool), test, validation, seed)
    return _build(f"random-{100 * (1 - test):.0f}-{100 * test:.0f}", dataset, labels)


def leave_last_out(dataset: Dataset, exclude: Literal["seen", "nothing"] = "seen") -> Split:
    """Each user's last event is for testing, the one before for validation.

    A user with two events has no validation event; a user with one has neither.

    exclude: ``"seen"``: items the user has seen are not ranked, and a last event with such an item is not evaluated,
    since among unseen items it would be found too easily. ``"nothing"``: every item is ranked and every last event is
    evaluated, including repeats. Published figures are of either kind (P5 and TIGER exclude nothing).

    Raises:
        DataError: the order of events is unknown, or no user has two.
    """
    if not dataset.has_order:
        raise DataError("leave-last-out needs the order of events, and this dataset has none; use the split 'random'")
    users = dataset.interactions.user
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users, minlength=dataset.num_users)
    from_end = np.empty(len(users), np.int64)
    from_end[order] = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(users))
    labels = np.zeros(len(users), np.uint8)
    labels[(from_end == 0) & (counts[users] >= 2)] = _TEST
    labels[(from_end == 1) & (counts[users] >= 3)] = _VALIDATION
    if exclude == "nothing":
        return _build("leave-last-out-all-items", dataset, labels, repeats=True, exclude_seen=False)
    return _build("leave-last-out", dataset, labels)


def global_time(dataset: Dataset, test: float = 0.2, validation: float = 0.1) -> Split:
    """The latest share ``test`` of all events; of what remains, the latest share ``validation``.

    Simultaneous events stay together, on the earlier side. Test items that the user has seen before are not
    evaluated. Users without earlier events stay in, with an empty history.

    Raises:
        ConfigError: a share outside 0 … 1. DataError: events carry no timestamps, or nothing could be held out.
    """
    _check_shares(test=test, validation=validation)
    times = dataset.interactions.timestamp
    if times is None or not len(times):
        raise DataError("a global time split needs timestamps, and this dataset has none; use the split 'random'")
    labels = np.zeros(len(times), np.uint8)
    labels[times > _cutoff_time(times, (1 - test) * (1 - validation))] = _VALIDATION
    labels[times > _cutoff_time(times, 1 - test)] = _TEST
    return _build("global-time", dataset, labels)


def _cutoff_time(times: NDArray[np.int64], share: float) -> np.int64:
    """The time up to which ``share`` of the events, and any simultaneous ones, happened.

    np.quantile would round nanoseconds to the nearest float64.
    """
    place = max(math.ceil(share * len(times) - 1e-9) - 1, 0)
    last: np.int64 = np.partition(times, place)[place]
    return last


def cold_items(
    dataset: Dataset,
    share: float = 0.2,
    validation_share: float = 0.1,
    seed: int = 0,
    among: Literal["cold", "all"] = "cold",
) -> Split:
    """A random ``share`` of the items that occur, with all their events; of the others, ``validation_share``.

    Neither kind occurs in training. ``among="cold"`` ranks test items among the test-cold items and validation items
    among the validation-cold ones; ``"all"`` ranks them among all items, except that the test-cold ones do not exist
    yet at validation.

    Raises:
        ConfigError: a share outside 0 … 1. DataError: nothing could be held out.
    """
    _check_shares(share=share, validation_share=validation_share)
    occurring = np.flatnonzero(np.bincount(dataset.interactions.item))
    shuffled = np.random.default_rng(seed).permutation(occurring)
    num_test = round(share * len(occurring))
    num_validation = round(validation_share * (len(occurring) - num_test))
    label_of_item = np.zeros(dataset.num_items, np.uint8)
    label_of_item[shuffled[:num_test]] = _TEST
    label_of_item[shuffled[num_test : num_test + num_validation]] = _VALIDATION
    every = np.arange(dataset.num_items, dtype=np.int32)
    candidates = (every[label_of_item == _VALIDATION], every[label_of_item == _TEST])
    if among == "all":
        candidates = (every[label_of_item != _TEST], every)
    name = "cold-items" if among == "cold" else "cold-items-among-all"
    return _build(name, dataset, label_of_item[dataset.interactions.item], candidates=candidates)


def published(dataset: Dataset, validation: float = 0.1, seed: int = 0) -> Split:
    """The split published with the dataset.

    If it has no validation part, a share ``validation`` of each user's training items is taken, as in
    ``random_ratio``. Test items count as positives even if they also occur in training, as published.

    Raises:
        ConfigError: a share outside 0 … 1. DataError: the dataset came without a split, or without a test part.
    """
    _check_shares(validation=validation)
    events = dataset.interactions
    if events.partition is None or "test" not in events.partitions:
        raise DataError(f"no published split: parts are {events.partitions or 'none'}; use the split 'random'")
    code_of_part = np.array([_PARTS.index(part) for part in events.partitions], np.uint8)
    labels = code_of_part[events.partition]
    if "validation" not in events.partitions:
        labels = np.maximum(labels, _label_pairs(dataset, labels == _TRAIN, 0.0, validation, seed))
    return _build("published", dataset, labels, repeats=True)


def check_seed(seed: Any) -> None:
    """Raises ``ConfigError`` for an invalid seed."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, received {seed!r}")


def _check_shares(**shares: Any) -> None:
    for name, share in shares.items():
        is_number = isinstance(share, Real) and not isinstance(share, bool)
        if not (is_number and 0 <= share < 1):
            received = share if is_number else repr(share)
            raise ConfigError(f"{name} must be at least 0 and below 1, received {received}")


def _label_pairs(dataset: Dataset, chosen: NDArray[np.bool_], test: float, validation: float, seed: int) -> Labels:
    """Random labels, user by user, for the distinct pairs among the ``chosen`` events; the others get 0."""
    events = dataset.interactions
    keys = events.user[chosen].astype(np.int64) * dataset.num_items + events.item[chosen]
    pairs, pair_of_event = np.unique(keys, return_inverse=True)
    users = pairs // max(dataset.num_items, 1)
    counts = np.bincount(users, minlength=dataset.num_users)
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), users))
    place = np.empty(len(pairs), np.int64)
    place[order] = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    num_test = _rounded_share(counts, test)
    num_validation = _rounded_share(counts - num_test, validation)
    label_of_pair = np.where(place < (num_test + num_validation)[users], _VALIDATION, _TRAIN)
    label_of_pair[place < num_test[users]] = _TEST
    labels = np.zeros(len(chosen), np.uint8)
    labels[chosen] = label_of_pair[pair_of_event]
    return labels


def _rounded_share(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The share of each count to the nearest whole number, leaving at least one."""
    rounded: NDArray[np.int64] = np.minimum(np.floor(counts * share + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
    return rounded


def _build(
    name: str,
    dataset: Dataset,
    labels: Labels,
    *,
    repeats: bool = False,
    exclude_seen: bool = True,
    candidates: tuple[NDArray[np.int32], NDArray[np.int32]] | tuple[None, None] = (None, None),
) -> Split:
    train, refit = _part(dataset, labels == _TRAIN), _part(dataset, labels != _TEST)
    validation = _hold_out(dataset, labels == _VALIDATION, train, repeats, exclude_seen, candidates[0])
    test = _hold_out(dataset, labels == _TEST, refit, repeats, exclude_seen, candidates[1])
    if not len(test) or not len(train.histories.values):
        raise DataError(
            f"the split '{name}' of {len(labels)} events leaves {len(train.histories.values)} for training and "
            f"{len(test)} users to test; give more data or another share"
        )
    return Split(name, train, refit, validation, test, labels)


def _part(dataset: Dataset, events: NDArray[np.bool_]) -> Dataset:
    """The dataset as it was when only ``events`` had happened: later opinions of a user are unknown."""
    part = dataset.with_interactions(dataset.interactions.take(events))
    return part if dataset.feedback is None else dataset.feedback.apply(part)


def _hold_out(
    dataset: Dataset,
    hidden: NDArray[np.bool_],
    known: Dataset,
    repeats: bool,
    exclude_seen: bool,
    candidates: NDArray[np.int32] | None,
) -> HeldOut:
    """The ``hidden`` events as targets, given ``known``; for an item hidden twice, the last event counts.

    Negative feedback is no target: those items are excluded like items seen before. repeats: items seen before
    are targets as well.
    """
    seen = _distinct(np.sort(_pair_keys(known)))
    events = _part(dataset, hidden).interactions
    hidden_keys = _pair_keys(dataset)[hidden]
    # np.unique gives the first of equal keys, which from the end is the last event.
    keys, from_end = np.unique(hidden_keys[::-1], return_index=True)
    if not repeats:
        fresh = np.isin(keys, seen, assume_unique=True, invert=True)
        keys, from_end = keys[fresh], from_end[fresh]
    last = len(hidden_keys) - 1 - from_end
    positive = np.ones(len(keys), bool) if events.confidence is None else events.confidence[last] > 0
    excluded = np.union1d(np.setdiff1d(seen, keys, assume_unique=True), keys[~positive])
    excluded = excluded if exclude_seen else excluded[:0]
    user = keys // max(dataset.num_items, 1)
    rows = _distinct(user[positive])

    def lists(some: NDArray[np.int64]) -> Ragged:
        return Ragged.from_pairs(*np.divmod(some, max(dataset.num_items, 1)), dataset.num_users).take(rows)

    ratings, rated = None, None
    if events.weight is not None:
        ratings_of_keys = events.weight[last]
        is_rated = np.isfinite(ratings_of_keys) & np.isin(user, rows)
        ratings = ratings_of_keys[is_rated]
        rated = None if (is_rated == positive).all() else lists(keys[is_rated])
    return HeldOut(
        rows=rows,
        users=known.user_batch(rows),
        positives=lists(keys[positive]),
        excluded=lists(excluded),
        candidates=candidates,
        ratings=ratings,
        rated=rated,
        items=dataset.items,
        user_ids=dataset.users,
    )


def _distinct(ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value once. np.unique would hash, which is many times slower than sorting for keys like these."""
    once: NDArray[np.int64] = ascending[np.diff(ascending, prepend=-1) != 0]
    return once


def _pair_keys(dataset: Dataset) -> NDArray[np.int64]:
    """One number for each event's pair of user and item, int64 ``[E]``."""
    keys: NDArray[np.int64] = dataset.interactions.user.astype(np.int64) * dataset.num_items + dataset.interactions.item
    return keys
