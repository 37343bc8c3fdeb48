"""Nearest neighbours of items by text, by cosine of their features.

Features are long (hundreds of dimensions) and catalogues may be large, so candidates are found in a PCA projection and
only those are compared in full.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.ranking import top_k
from lanner.inference.tables import Int8Rows, take

_DIRECTIONS = 32
_SAMPLED = 20_000
_ROWS_AT_ONCE = 65_536
_COMPARED = 8192
"""Up to this many items, all are compared in full; above, at least 512 candidates, and 8 per requested neighbour."""


@dataclass(frozen=True)
class TextNeighbours:
    """features_IF: features of every item. short_FS: principal directions. short_IS: float32, projected items."""

    features_IF: Int8Rows
    short_FS: NDArray[np.float32]
    short_IS: NDArray[np.float32]

    @classmethod
    def of(cls, features_IF: Int8Rows) -> Self:
        """Computes the principal directions from a sample of the items."""
        items = len(features_IF.scale)
        sample = take(features_IF, np.random.default_rng(0).permutation(items)[:_SAMPLED])
        short_FS = np.linalg.eigh(sample.T.astype(np.float64) @ sample)[1][:, ::-1][:, :_DIRECTIONS].astype(np.float32)
        short_IS = np.empty((items, short_FS.shape[1]), np.float32)
        for first in range(0, items, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            short_IS[rows] = take(features_IF, rows) @ short_FS
        return cls(features_IF, np.ascontiguousarray(short_FS), short_IS)

    def __len__(self) -> int:
        return len(self.features_IF.scale)

    def features(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Features of some items, float32 ``[n, F]``."""
        return take(self.features_IF, rows)

    def nearest(
        self, features_F: NDArray[np.float32], k: int, among_I: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items nearest to ``features_F``: rows and cosines ``[k]``, nearest first.

        Fewer than k if ``among_I`` leaves fewer. Features have unit length in each block, so inner products serve as
        cosines.
        """
        among = len(self) if among_I is None else int(np.count_nonzero(among_I))
        if among <= _COMPARED:
            rows = np.arange(len(self)) if among_I is None else np.flatnonzero(among_I)
        else:
            short_I = self.short_IS @ (features_F @ self.short_FS)
            if among_I is not None and among < len(self):
                short_I[~among_I] = -np.inf
            found = top_k(short_I[None], max(512, 8 * k))[0][0]
            rows = found[found >= 0].astype(np.int64)
        cosines = self.features(rows) @ features_F
        best = np.argsort(-cosines, kind="stable")[:k]
        return rows[best], cosines[best]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored, by name."""
        codes, scale = self.features_IF.codes, self.features_IF.scale
        return {"codes": codes, "scale": scale, "directions": self.short_FS, "short": self.short_IS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``arrays``."""
        return cls(Int8Rows(arrays["codes"], arrays["scale"]), arrays["directions"], arrays["short"])
