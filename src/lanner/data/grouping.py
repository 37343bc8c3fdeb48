"""Numbering and grouping by small integers, compiled: what turns columns of events into lists.

Counting touches each event a fixed number of times and is stable, where a comparison sort of ten million events costs
more than reading them from disk.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

_WORTH_A_THREAD = 500_000
"""Events that keep a core busy for longer than it takes to start a thread."""


def group(
    rows: NDArray[np.integer], values: NDArray[np.int32], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Stable counting sort of ``values`` by ``rows``: (indptr int64 ``[num_rows + 1]``, values int32 ``[E]``).

    The rows are not checked: each must lie in ``0 … num_rows − 1``.
    """
    # A share of the events a core; few events are not worth a second table of counts.
    workers = max(1, min(os.cpu_count() or 1, len(rows) // max(4 * num_rows, _WORTH_A_THREAD)))
    if workers == 1:
        return _grouped(rows, values, num_rows)
    cuts = [len(rows) * part // workers for part in range(workers + 1)]
    parts = [slice(first, last) for first, last in pairwise(cuts)]
    # NumPy asks the system for huge pages where compiled code would not: large arrays are made out here.
    counts, grouped = np.zeros((workers, num_rows), np.int64), np.empty(len(values), np.int32)
    indptr = np.zeros(num_rows + 1, np.int64)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda part, count: _count(rows[part], count), parts, counts))
        np.cumsum(counts.sum(axis=0), out=indptr[1:])
        # Events of an earlier share come first, so that the order given is kept.
        places = indptr[:-1] + np.cumsum(counts, axis=0) - counts
        list(pool.map(lambda part, place: _place(rows[part], values[part], place, grouped), parts, places))
    return indptr, grouped


def _grouped(
    rows: NDArray[np.integer], values: NDArray[np.int32], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The same in this thread: batches of training and evaluation come here at every step."""
    indptr, grouped = np.zeros(num_rows + 1, np.int64), np.empty(len(values), np.int32)
    _count(rows, indptr[1:])
    np.cumsum(indptr, out=indptr)
    _place(rows, values, indptr[:-1].copy(), grouped)
    return indptr, grouped


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(rows: NDArray[np.integer], counts: NDArray[np.int64]) -> None:
    for row in rows:
        counts[row] += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _place(
    rows: NDArray[np.integer], values: NDArray[np.int32], place: NDArray[np.int64], grouped: NDArray[np.int32]
) -> None:
    for event in range(len(rows)):
        row = rows[event]
        grouped[place[row]] = values[event]
        place[row] += 1


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
