"""Grouping and numbering whole columns by counting: linear in the number of events."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def group(
    rows: NDArray[np.integer], values: NDArray[np.int32], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Stable counting sort of ``values`` by ``rows``: (indptr int64 ``[num_rows + 1]``, values int32 ``[E]``).

    The rows are not checked: each must lie in ``0 … num_rows − 1``.
    """
    indptr, grouped = np.zeros(num_rows + 1, np.int64), np.empty(len(values), np.int32)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=indptr[1:])
    _scatter(rows, values, indptr[:-1].copy(), grouped)
    return indptr, grouped


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scatter(
    rows: NDArray[np.integer], values: NDArray[np.int32], place: NDArray[np.int64], grouped: NDArray[np.int32]
) -> None:
    for event in range(len(rows)):
        row = rows[event]
        grouped[place[row]] = values[event]
        place[row] += 1


def number_integers(ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Distinct ids in ascending order, and the position of each id among them, int32 ``[E]``."""
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    # A table over the range of ids beats sorting unless it is much larger than the column itself.
    if high - low < max(4 * len(ids), 1 << 16):
        places = ids - low
        present = np.zeros(high - low + 1, np.bool_)
        present[places] = True
        return np.flatnonzero(present) + low, (np.cumsum(present, dtype=np.int32) - 1)[places]
    distinct, inverse = np.unique(ids, return_inverse=True)
    return distinct.astype(np.int64, copy=False), inverse.astype(np.int32)
