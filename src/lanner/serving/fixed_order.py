"""Retrieval for a rung that lists the same items for everyone: nothing is searched, the order is known."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanner.serving.retrieval import RowSet
from lanner.serving.retrieval.snapshot import Found

_LEAST_ROOM = 1024


@dataclass(frozen=True)
class _Order:
    """rows_I, fresh_F: the rows there were at first and those that came since, best first.

    Replaced as a whole, so that a search sees one moment. The two are never made one: as much as the order of 100,000
    items, made anew for every thousand that came, left holes of two megabytes behind.
    """

    rows_I: NDArray[np.int64]
    fresh_F: NDArray[np.int64]


class FixedOrder:
    """Asked as an ``Index`` is; of a query only the last number counts, by which every score is multiplied."""

    def __init__(self, item_ID: NDArray[np.float32]) -> None:
        """item_ID: vectors that are zero but for the last number, the bias."""
        self._scores, self._num_rows = item_ID[:, -1].copy(), len(item_ID)
        """By row, with room for more; what is read on the event loop is read without letting go of the interpreter."""
        self._order = _Order(_best_first(item_ID[:, -1]), np.empty(0, np.int64))

    @property
    def memory_bytes(self) -> int:
        """Bytes held."""
        now = self._order
        return now.rows_I.nbytes + now.fresh_F.nbytes + self._scores.nbytes

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
            rows = self._first(now, k + len(denied))
        else:
            allowed = allow if isinstance(allow, RowSet) else RowSet.of(np.asarray(allow, np.int64), self._num_rows)
            rows = self._first(now, len(now.rows_I) + len(now.fresh_F))
            rows = rows[allowed.holds(rows)]
        rows = rows[~np.isin(rows, denied)][:k]
        shape = len(queries), k
        found = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        found[0][:, : len(rows)] = rows
        found[1][:, : len(rows)] = self._score(rows) * queries[:, -1:]
        return found

    def best(self, seen: Collection[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best rows that are not in ``seen``, and their scores: in a tenth of the time of ``search``."""
        listed = self._first(self._order, k + len(seen)).tolist()
        rows = np.array([row for row in listed if row not in seen][:k], np.int64)
        return rows, self._score(rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The bias behind a zero, float32 ``[n, 2]``."""
        return np.stack([np.zeros(len(rows), np.float32), self._score(rows)], axis=1)

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Items take the next rows."""
        needed = self._num_rows + len(rows)
        if needed > len(self._scores):
            self._scores = np.append(self._scores, np.zeros(needed, np.float32))
        self._scores[rows] = vectors[:, -1]
        self._num_rows = needed
        fresh = self._sorted(np.concatenate([self._order.fresh_F, rows]))
        self._order = _Order(self._order.rows_I, _in_a_room(fresh))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Items are listed no more."""
        now = self._order
        self._order = _Order(*(listed[~np.isin(listed, rows)] for listed in (now.rows_I, now.fresh_F)))

    def _first(self, now: _Order, number: int) -> NDArray[np.int64]:
        """At least the ``number`` best rows, best first, or all; of equal ones the older comes first."""
        rows, fresh = now.rows_I[:number], now.fresh_F[:number]
        if len(fresh) and (len(rows) < number or self._score(fresh[:1])[0] > self._score(rows[-1:])[0]):
            rows = self._sorted(np.concatenate([rows, fresh]))
        return rows

    def _sorted(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[_best_first(self._score(rows))]

    def _score(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._scores[rows]


def _in_a_room(fresh_F: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same in memory of few sizes: what is a little longer each time fits in no place that was left."""
    room = np.empty(max(_LEAST_ROOM, 1 << len(fresh_F).bit_length()), np.int64)
    room[: len(fresh_F)] = fresh_F
    return room[: len(fresh_F)]


def _best_first(score_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places of the scores, the largest first."""
    return np.argsort(-score_N, kind="stable")
