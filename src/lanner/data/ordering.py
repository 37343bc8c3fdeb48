"""Putting columns in the order of one of them, on every core: the slowest step between a file and a graph.

Sorting positions and then gathering each column waits on memory once for every event and column. Here the events are
first dealt into buckets by the leading bits of their key (writing to 512 places at a time), and each
bucket, which fits the cache, is then sorted and its columns are put in order there.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_MOST_BUCKETS_BITS = 9
_EVENTS_A_BUCKET_BITS = 13
_MOST_EVENTS = 2**31 - 1
_DIGIT = 11
"""Bits sorted at a time inside a bucket: 2,048 counters stay in the first-level cache."""


def sort_by(keys: NDArray[np.integer], columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Each of ``columns`` (``[E]``) in rising order of ``keys`` (``[E]``), equal keys in the order given.

    None where ``keys`` rise already, so that nobody copies for nothing.
    """
    if len(keys) < 2 or bool(np.all(keys[:-1] <= keys[1:])):
        return None
    low, high = int(keys.min()), int(keys.max())
    bits = (high - low).bit_length()
    top = max(0, min(_MOST_BUCKETS_BITS, len(keys).bit_length() - _EVENTS_A_BUCKET_BITS, bits))
    # Inside a bucket the rest of the key and the place of the event travel in one word.
    if bits - top > 32 or len(keys) > _MOST_EVENTS:
        order = np.argsort(keys, kind="stable")
        return [column[order] for column in columns]
    return _in_buckets(keys, columns, low, bits - top, 1 << top)


def _in_buckets(
    keys: NDArray[np.integer], columns: Sequence[NDArray[Any]], low: int, shift: int, buckets: int
) -> list[NDArray[Any]]:
    workers = os.cpu_count() or 1
    cuts = [len(keys) * part // workers for part in range(workers + 1)]
    parts = [slice(first, last) for first, last in pairwise(cuts)]
    with ThreadPoolExecutor(workers) as pool:

        def each(work: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
            return list(pool.map(work, *arguments))

        counts = np.array(each(lambda part: _count(keys[part], low, shift, buckets), parts))
        ends = np.cumsum(counts.sum(axis=0))
        starts = np.concatenate([[0], ends])
        # A part's events of a bucket follow those of the parts before it: the order given is kept.
        places = starts[:-1] + np.cumsum(counts, axis=0) - counts

        def deal(column: NDArray[Any]) -> NDArray[Any]:
            dealt = np.empty_like(column)
            for_part = lambda part, place: _deal(keys[part], low, shift, place, _bits(column[part]), _bits(dealt))  # noqa: E731
            each(for_part, parts, places)
            return dealt

        order, dealt_keys = np.empty(len(keys), np.int32), deal(keys)
        shares = np.searchsorted(starts, cuts)
        runs = [starts[first : last + 1] for first, last in pairwise(shares) if last > first]
        largest = int(counts.sum(axis=0).max())
        each(lambda run: _order(dealt_keys, low, shift, run, order, largest), runs)

        def put(column: NDArray[Any]) -> NDArray[Any]:
            dealt = dealt_keys if column is keys else deal(column)
            each(lambda run: _put(_bits(dealt), run, order, largest), runs)
            return dealt

        return [put(column) for column in columns]


def _bits(column: NDArray[Any]) -> NDArray[np.unsignedinteger]:
    """The same memory as unsigned integers: moving them needs no more than their width."""
    return column.view(f"u{column.dtype.itemsize}")


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(keys: NDArray[np.integer], low: int, shift: int, buckets: int) -> NDArray[np.int64]:
    counts = np.zeros(buckets + 1, np.int64)
    for key in keys:
        counts[np.uint64(np.int64(key) - low) >> np.uint64(shift)] += 1
    return counts[:buckets]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _deal(
    keys: NDArray[np.integer],
    low: int,
    shift: int,
    first: NDArray[np.int64],
    column: NDArray[np.unsignedinteger],
    dealt: NDArray[np.unsignedinteger],
) -> None:
    """Write each value to the next free place of its bucket; ``first`` ``[buckets]`` are the first places."""
    place = first.astype(np.uint64)
    for event in range(len(keys)):
        bucket = np.uint64(np.int64(keys[event]) - low) >> np.uint64(shift)
        dealt[place[bucket]] = column[event]
        place[bucket] += np.uint64(1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _order(
    keys: NDArray[np.integer], low: int, shift: int, starts: NDArray[np.int64], order: NDArray[np.int32], largest: int
) -> None:
    """Stable order inside each bucket ``starts[b] : starts[b + 1]``, as places counted from its start."""
    words, other = np.empty(largest, np.uint64), np.empty(largest, np.uint64)
    rest = (np.uint64(1) << np.uint64(shift)) - np.uint64(1)
    mask = np.uint64((1 << _DIGIT) - 1)
    for bucket in range(len(starts) - 1):
        start, size = starts[bucket], starts[bucket + 1] - starts[bucket]
        for event in range(size):
            key = np.uint64(np.int64(keys[start + event]) - low) & rest
            words[event] = (key << np.uint64(32)) | np.uint64(event)
        for low_bit in range(32, 32 + shift, _DIGIT):
            place = np.zeros(1 << _DIGIT, np.uint32)
            for event in range(size):
                place[(words[event] >> np.uint64(low_bit)) & mask] += np.uint32(1)
            before = np.uint32(0)
            for digit in range(1 << _DIGIT):
                before, place[digit] = before + place[digit], before
            for event in range(size):
                digit = (words[event] >> np.uint64(low_bit)) & mask
                other[place[digit]] = words[event]
                place[digit] += np.uint32(1)
            words, other = other, words
        for event in range(size):
            order[start + event] = np.int32(words[event] & np.uint64(0xFFFFFFFF))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put(
    column: NDArray[np.unsignedinteger], starts: NDArray[np.int64], order: NDArray[np.int32], largest: int
) -> None:
    """Put each bucket of ``column`` in ``order``, in place."""
    scratch = np.empty(largest, column.dtype)
    for bucket in range(len(starts) - 1):
        start, size = starts[bucket], starts[bucket + 1] - starts[bucket]
        for event in range(size):
            scratch[event] = column[start + order[start + event]]
        column[start : start + size] = scratch[:size]
