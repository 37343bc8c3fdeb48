"""Retrieval for a rung that lists the same items for everyone: nothing is searched, the order is known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanner.serving.retrieval import RowSet
from lanner.serving.retrieval.snapshot import Found


@dataclass(frozen=True)
class _Order:
    """rows_I: best first. score_R: by row. Replaced as a whole, so that a search sees one moment."""

    rows_I: NDArray[np.int64]
    score_R: NDArray[np.float32]


class FixedOrder:
    """Asked as an ``Index`` is; of a query only the last number counts, by which every score is multiplied."""

    def __init__(self, item_ID: NDArray[np.float32]) -> None:
        """item_ID: vectors that are zero but for the last number, the bias."""
        self._order = _Order(_best_first(item_ID[:, -1]), item_ID[:, -1].copy())

    @property
    def memory_bytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in vars(self._order).values())

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allow: ArrayLike | RowSet | None = None,
        deny: ArrayLike | None = None,
    ) -> Found:
        """As ``Index.search``."""
        now = self._order
        denied = np.zeros(0, np.int64) if deny is None else np.asarray(deny, np.int64)
        if allow is None:
            # What is denied can cost no more places than it has rows.
            rows = now.rows_I[: k + len(denied)]
        else:
            allowed = allow if isinstance(allow, RowSet) else RowSet.of(np.asarray(allow, np.int64), len(now.score_R))
            rows = now.rows_I[allowed.holds(now.rows_I)]
        rows = rows[~np.isin(rows, denied)][:k]
        shape = len(queries), k
        found = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        found[0][:, : len(rows)] = rows
        found[1][:, : len(rows)] = now.score_R[rows] * queries[:, -1:]
        return found

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The bias behind a zero, float32 ``[n, 2]``."""
        return np.stack([np.zeros(len(rows), np.float32), self._order.score_R[rows]], axis=1)

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Items take the next rows."""
        now, best = self._order, _best_first(vectors[:, -1])
        # Scores rise towards the front, so their negatives are sorted; of equal ones the older item comes first.
        places = np.searchsorted(-now.score_R[now.rows_I], -vectors[best, -1], side="right")
        self._order = _Order(np.insert(now.rows_I, places, rows[best]), np.append(now.score_R, vectors[:, -1]))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Items are listed no more."""
        now = self._order
        self._order = _Order(now.rows_I[~np.isin(now.rows_I, rows)], now.score_R)


def _best_first(score_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places of the scores, the largest first."""
    return np.argsort(-score_N, kind="stable")
