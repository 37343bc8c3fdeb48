"""Sorting by small integers, compiled: the three kernels that turn columns of events into lists.

Counting and radix sorts touch each event a fixed number of times and are stable, where a comparison sort of ten
million events costs more than reading them from disk.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_DIGIT = 11
"""Bits sorted at a time: 2,048 counters stay inside the first-level cache."""


def group(
    rows: NDArray[np.integer], values: NDArray[np.int32], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Stable counting sort of ``values`` by ``rows``: (indptr int64 ``[num_rows + 1]``, values int32 ``[E]``).

    The rows are not checked: each must lie in ``0 … num_rows − 1``.
    """
    # NumPy asks the system for huge pages where compiled code would not: large arrays are made out here.
    indptr, grouped = np.zeros(num_rows + 1, np.int64), np.empty(len(values), np.int32)
    _group(rows, values, indptr, grouped)
    return indptr, grouped


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _group(
    rows: NDArray[np.integer], values: NDArray[np.int32], indptr: NDArray[np.int64], grouped: NDArray[np.int32]
) -> None:
    for row in rows:
        indptr[row + 1] += 1
    for row in range(len(indptr) - 1):
        indptr[row + 1] += indptr[row]
    place = indptr[:-1].copy()
    for event in range(len(rows)):
        row = rows[event]
        grouped[place[row]] = values[event]
        place[row] += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _radix_order(
    keys: NDArray[np.integer],
    low: int,
    bits: int,
    index_bits: int,
    words: NDArray[np.uint64],
    other: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Stable order of ``keys``, all within ``low … low + 2**bits − 1``; key and position travel in one word."""
    for event in range(len(keys)):
        words[event] = (np.uint64(keys[event] - low) << np.uint64(index_bits)) | np.uint64(event)
    mask = np.uint64((1 << _DIGIT) - 1)
    for shift in range(index_bits, index_bits + bits, _DIGIT):
        place = np.zeros((1 << _DIGIT) + 1, np.int64)
        for word in words:
            place[((word >> np.uint64(shift)) & mask) + np.uint64(1)] += 1
        place = np.cumsum(place)
        for word in words:
            digit = (word >> np.uint64(shift)) & mask
            other[place[digit]] = word
            place[digit] += 1
        words, other = other, words
    for event in range(len(words)):
        words[event] &= np.uint64((1 << index_bits) - 1)
    return words.view(np.int64)


def stable_order(keys: NDArray[np.integer]) -> NDArray[np.int64] | None:
    """Positions that sort ``keys``, equal keys in the order given; None where they are sorted already."""
    if len(keys) < 2 or bool(np.all(keys[:-1] <= keys[1:])):
        return None
    low, high = int(keys.min()), int(keys.max())
    bits, index_bits = (high - low).bit_length(), len(keys).bit_length()
    if bits + index_bits > 64 or bits > 4 * _DIGIT:
        return np.argsort(keys, kind="stable")
    words, other = np.empty(len(keys), np.uint64), np.empty(len(keys), np.uint64)
    order: NDArray[np.int64] = _radix_order(keys.astype(np.int64, copy=False), low, bits, index_bits, words, other)
    return order


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number(ids: NDArray[np.integer], low: int, rank: NDArray[np.int32], rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Distinct ids in rising order; ``rank`` starts as zeros over the span, ``rows`` is filled."""
    for one in ids:
        rank[one - low] = 1
    distinct = np.empty(rank.sum(), np.int64)
    seen = 0
    for offset in range(len(rank)):
        if rank[offset]:
            distinct[seen] = low + offset
            rank[offset] = seen
            seen += 1
    for event in range(len(ids)):
        rows[event] = rank[ids[event] - low]
    return distinct


def number_integers(ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Distinct ids in rising order, and the position of each id among them, int32 ``[E]``."""
    if len(ids) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    low, high = int(ids.min()), int(ids.max())
    # A table over the span beats sorting while it is not much larger than the column itself.
    if high - low < max(4 * len(ids), 1 << 16):
        rank, rows = np.zeros(high - low + 1, np.int32), np.empty(len(ids), np.int32)
        return _number(ids, low, rank, rows), rows
    distinct, inverse = np.unique(ids, return_inverse=True)
    return distinct.astype(np.int64, copy=False), inverse.astype(np.int32)
