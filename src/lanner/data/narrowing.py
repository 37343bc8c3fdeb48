"""Restricted evaluation of held-out users: rank few items instead of all."""

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import DataError


def sampled_negatives(held_out: HeldOut, num_items: int, number: int = 99, seed: int = 0) -> HeldOut:
    """Rank each user's positives among ``number`` items that are neither positive nor excluded.

    Negatives are distinct and drawn uniformly; a user with fewer such items gets all of them.
    """
    taken = held_out.positives.join(held_out.excluded)
    negatives = Ragged(*_draw(taken.indptr, taken.values, num_items, number, np.random.default_rng(seed)))
    return replace(held_out, candidates=held_out.positives.join(negatives))


def rated_only(held_out: HeldOut, threshold: float) -> HeldOut:
    """Rank only each user's rated held-out items; those rated at least ``threshold`` are relevant.

    Users without a relevant item are left out.

    Raises:
        DataError: there are no ratings.
    """
    if held_out.ratings is None:
        raise DataError("ranking rated items needs ratings, and the held-out events have none")
    rated = held_out.rated_items
    liked = held_out.ratings >= threshold
    relevant = Ragged.from_pairs(rated.row_of_value[liked], rated.values[liked], len(held_out))
    excluded = held_out.excluded
    if held_out.rated is not None:
        # Hidden negative items are excluded from lists of all items, but are candidates here.
        excluded = Ragged.from_lists([np.setdiff1d(excluded[row], rated[row]) for row in range(len(rated))])
    narrowed = replace(
        held_out, positives=relevant, candidates=rated, excluded=excluded, ratings=held_out.ratings[liked], rated=None
    )
    return narrowed.take(np.flatnonzero(relevant.lengths))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _draw(
    indptr: NDArray[np.int64], taken: NDArray[np.int32], num_items: int, number: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """``number`` items of each row that are not ``taken``, or all such: (indptr, values)."""
    num_rows = len(indptr) - 1
    drawn_indptr = np.zeros(num_rows + 1, np.int64)
    drawn = np.empty(num_rows * number, np.int32)
    last_row_to_take = np.full(num_items, -1, np.int64)
    end = 0
    for row in range(num_rows):
        free = num_items
        for item in taken[indptr[row] : indptr[row + 1]]:
            free -= last_row_to_take[item] != row
            last_row_to_take[item] = row
        stop = end + min(free, number)
        while end < stop:  # taken items are redrawn
            item = rng.integers(0, num_items)
            if last_row_to_take[item] != row:
                last_row_to_take[item] = row
                drawn[end] = item
                end += 1
        drawn_indptr[row + 1] = end
    return drawn_indptr, drawn[:end]
