"""What the items' texts say, while items come and go: the nearest to the words of a search."""

import numpy as np
from numpy.typing import NDArray

from lanner.models.request_form import take
from lanner.models.text_neighbours import TextNeighbours
from lanner.serving.growing import GrowingCodes

_ROWS_AT_ONCE = 4096
"""Unpacked to be compared."""


class LiveTexts:
    """The bundle's texts and those that came since. One thread changes them at a time; others may search meanwhile."""

    def __init__(self, texts: TextNeighbours) -> None:
        self._base = texts
        self._later = GrowingCodes(len(texts.short_FS))
        self._alive_I = np.ones(len(texts), bool)
        self._all_alive = True
        self._gone_later: frozenset[int] = frozenset()

    def add(self, features_F: NDArray[np.float32]) -> None:
        """What the item of the next row says."""
        self._later.append(features_F[None])

    def remove(self, row: int) -> None:
        """An item is found no more."""
        if row >= len(self._base):
            self._gone_later |= {row - len(self._base)}
        else:
            self._all_alive = False
            self._alive_I[row] = False

    def nearest(self, features_F: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of at most k items, nearest first."""
        rows, cosines = self._base.nearest(features_F, k, None if self._all_alive else self._alive_I)
        gone = list(self._gone_later)  # before the rows: what goes meanwhile may have come meanwhile
        later = self._later.rows
        if not len(later.codes):
            return rows, cosines
        near = np.concatenate(
            [
                take(later, slice(first, first + _ROWS_AT_ONCE)) @ features_F
                for first in range(0, len(later.codes), _ROWS_AT_ONCE)
            ]
        )
        near[gone] = -np.inf
        rows, cosines = np.concatenate([rows, np.arange(len(near)) + len(self._base)]), np.concatenate([cosines, near])
        best = np.argsort(-cosines, kind="stable")[:k]
        best = best[np.isfinite(cosines[best])]
        return rows[best], cosines[best]
