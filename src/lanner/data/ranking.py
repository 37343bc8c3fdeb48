"""Top-k of score rows: the ranking rule shared by serving, recommendation and evaluation."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray

_CHUNK = 64
"""Columns that are compared with the k-th best at once; a multiple of the widest vector register."""
_SCORES_WORTH_A_THREAD = 1 << 18

MAXIMUM_K = 10_000
"""Longest list of an evaluation, which holds those of all users in memory."""


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Best k columns of each row: items int32 ``[B, k]``, scores float32 ``[B, k]``, best first.

    Ties go to the lower column. Columns scored −inf or NaN are never returned; missing entries have item −1
    and score −inf. Every score is read once; large blocks are distributed over the cores.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    items, values = np.full((len(scores), k), -1, np.int32), np.full((len(scores), k), -np.inf, np.float32)
    workers = min(len(scores), max(1, scores.size // _SCORES_WORTH_A_THREAD))
    if workers > 1:
        workers = min(workers, numba.get_num_threads())
    if k and workers == 1:
        _select(scores, items, values)
    elif k:
        # Plain threads rather than numba's own, which are neither reentrant nor fork-safe.
        parts = [np.array_split(array, workers) for array in (scores, items, values)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(_select, *parts))
    return items, values


class BestSoFar:
    """Incremental top-k of rows whose scores come a range of columns at a time, so that a range is ranked while it is
    in the cache; ranges ascend. Otherwise like ``top_k``, but on the calling thread."""

    def __init__(self, rows: int, k: int) -> None:
        """k: at least 1."""
        # Heaps, the root of each the worst of its k; −inf until the heap is full, so that one comparison rejects
        # −inf, NaN and lower scores.
        self._items, self._values = np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32)

    def offer(self, scores: NDArray[np.float32], first: int) -> None:
        """Scores of the columns from ``first`` on, float32 ``[rows, n]`` in C order."""
        _update_heaps(scores, first, self._items, self._values)

    def lists(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items int32 and scores float32 ``[rows, k]``, best first; nothing may be offered afterwards."""
        _sort(self._items, self._values)
        return self._items, self._values


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _select(scores: NDArray[np.float32], items: NDArray[np.int32], values: NDArray[np.float32]) -> None:
    """Fill ``items`` and ``values`` ``[B, k]``, which hold −1 and −inf."""
    _update_heaps(scores, 0, items, values)
    _sort(items, values)


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _update_heaps(
    scores: NDArray[np.float32], first: int, items: NDArray[np.int32], values: NDArray[np.float32]
) -> None:
    for row in range(scores.shape[0]):
        line, best, score = scores[row], items[row], values[row]
        for start in range(0, len(line), _CHUNK):
            chunk = line[start : start + _CHUNK]
            if len(chunk) < _CHUNK or _any_above(chunk, score[0]):
                for place in range(len(chunk)):
                    if chunk[place] > score[0]:
                        _sift_down(best, score, len(score), first + start + place, chunk[place])


@numba.njit(nogil=True, cache=True, boundscheck=False, inline="always")  # type: ignore[untyped-decorator]
def _any_above(chunk: NDArray[np.float32], bar: float) -> bool:
    """Whether one of ``_CHUNK`` scores is above ``bar``; of fixed length and without a branch, it becomes SIMD."""
    found = np.int32(0)
    for place in range(_CHUNK):
        found |= np.int32(chunk[place] > bar)
    return bool(found)


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _sift_down(items: NDArray[np.int32], values: NDArray[np.float32], size: int, item: int, value: float) -> None:
    """Replace the root of the heap ``[:size]`` and sift the new entry down below everything worse."""
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and _worse(values[child + 1], items[child + 1], values[child], items[child]):
            child += 1
        if not _worse(values[child], items[child], value, item):
            break
        values[hole], items[hole] = values[child], items[child]
        hole = child
    values[hole], items[hole] = value, item


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _worse(value: float, item: int, other_value: float, other_item: int) -> bool:
    return value < other_value or (value == other_value and item > other_item)


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _sort(items: NDArray[np.int32], values: NDArray[np.float32]) -> None:
    """Heaps to lists, best first (heapsort): the worst is moved to the end until nothing is left."""
    for row in range(len(items)):
        best, score = items[row], values[row]
        for last in range(len(best) - 1, 0, -1):
            item, value = best[last], score[last]
            best[last], score[last] = best[0], score[0]
            _sift_down(best, score, last, item, value)
