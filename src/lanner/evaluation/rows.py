"""Compiled loops over rows of scores and lists of relevant items."""

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.data.ragged import Ragged


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def find_hits(items: NDArray[np.int32], indptr: NDArray[np.int64], relevant: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each of ``items`` ``[U, K]`` is in ``relevant[indptr[u] : indptr[u + 1]]``; bool ``[U, K]``."""
    hits = np.zeros(items.shape, np.bool_)
    for row in range(items.shape[0]):
        for item in relevant[indptr[row] : indptr[row + 1]]:
            for place in range(items.shape[1]):
                hits[row, place] |= items[row, place] == item
    return hits


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def areas_under_curve(
    scores: NDArray[np.float32], indptr: NDArray[np.int64], relevant: NDArray[np.int32]
) -> NDArray[np.float64]:
    """AUC: probability that a relevant item scores above an irrelevant one, ties counting half; float64 ``[B]``.

    Scores of −inf or NaN are not ranked: irrelevant ones are ignored, relevant ones count as beaten. NaN for a user
    without irrelevant items.
    """
    areas = np.full(len(scores), np.nan)
    for row in range(len(scores)):
        mine = relevant[indptr[row] : indptr[row + 1]]
        line = scores[row].copy()
        own = line[mine]
        line[mine] = -np.inf
        own = np.sort(own[own > -np.inf])
        won, others = 0.0, 0
        for score in line:
            if score > -np.inf:
                others += 1
                above = len(own) - np.searchsorted(own, score, side="right")
                level = len(own) - np.searchsorted(own, score, side="left") - above
                won += above + 0.5 * level
        if others and len(mine):
            areas[row] = won / (others * len(mine))
    return areas


def squared_and_absolute_errors(
    scores: NDArray[np.float32], rated: Ragged, ratings: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared and mean absolute error over each user's rated items, float64 ``[B]`` each; NaN without ratings."""
    rows, counts = rated.row_of_value, np.where(rated.lengths, rated.lengths, np.nan)
    errors = scores[rows, rated.values].astype(np.float64) - ratings
    return np.bincount(rows, errors**2, len(counts)) / counts, np.bincount(rows, np.abs(errors), len(counts)) / counts
