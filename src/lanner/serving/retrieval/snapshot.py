"""An index at one moment: nothing in it ever changes, so that it is searched without a lock."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.ranking import top_k
from lanner.serving.retrieval.candidates import Candidates
from lanner.serving.retrieval.fresh import Fresh
from lanner.serving.retrieval.plan import Measured, Plan
from lanner.serving.retrieval.row_set import RowSet, bar_unset, count_bits, listed_bits, passing
from lanner.serving.retrieval.vectors import Vectors, score_listed

_SCORES_AT_ONCE = 1 << 24
"""Scores of an exact scan that are held at a time."""
_SPARSE = 128
"""Of so many items one is listed where searching each listed row among the items' is as quick as asking all of them."""

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows or positions int64 ``[B, k]`` padded with −1, scores float32 ``[B, k]`` padded with −inf, best first."""


@dataclass(frozen=True)
class Base:
    """What was built in one go. Its items have positions 0 … P − 1."""

    plan: Plan
    vectors: Vectors
    candidates: Candidates | None
    """None: every item is scored."""
    row_P: NDArray[np.int64] | None
    """Rows of the items, ascending; None: positions are rows."""

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ``positions``; −1 stays −1."""
        if self.row_P is None or not len(self.row_P):
            return positions
        return np.where(positions < 0, -1, self.row_P[positions])

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of those ``rows`` that the base holds, in their order."""
        held = rows[self.holds(rows)]
        return held if self.row_P is None else np.searchsorted(self.row_P, held)

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``rows`` has a position."""
        if self.row_P is None:
            return rows < self.vectors.shape[0]
        places = np.searchsorted(self.row_P, rows)
        held = places < len(self.row_P)
        held[held] = self.row_P[places[held]] == rows[held]
        return held

    def bits(self, listed: RowSet) -> NDArray[np.uint8]:
        """A bit for each position whose row is ``listed``; those beyond the last position mean nothing."""
        items = self.vectors.shape[0]
        if self.row_P is None:
            return listed.first_bytes((items + 7) >> 3)
        if _SPARSE * listed.count < items:
            return RowSet.of(self.positions(listed.rows()), items).bits
        return _packed(listed.holds(self.row_P))

    @property
    def memory_bytes(self) -> int:
        stored = [*self.vectors.arrays.values(), *([] if self.row_P is None else [self.row_P])]
        return sum(array.nbytes for array in stored) + (self.candidates.memory_bytes if self.candidates else 0)


@dataclass(frozen=True)
class Snapshot:
    """A base, what has since left it, and what has come."""

    base: Base
    effort: int
    """efSearch of ``hnsw``, cells probed of ``ivf-pq``."""
    alive: NDArray[np.uint8]
    """A bit for each position of the base, the lowest of a byte first; cleared where the item left or was changed."""
    fresh: Fresh
    num_rows: int
    """1 + the largest row that was ever held."""
    measured: Measured | None = None
    """None: never, or the effort has been set by hand since."""

    @classmethod
    def of(cls, base: Base, effort: int, num_rows: int) -> Self:
        """A base that nothing has happened to."""
        items, dimensions = base.vectors.shape
        alive = _packed(np.ones(items, np.bool_))
        return cls(base, effort, alive, Fresh.none(dimensions), num_rows)

    @cached_property
    def num_alive(self) -> int:
        """Items of the base that are neither removed nor changed."""
        return count_bits(self.alive)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Every row that can be found, int64 ``[I]``, in no order."""
        return np.concatenate([self.base.rows(listed_bits(self.alive, self.num_alive)), self.fresh.row_F])

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``rows`` can be found."""
        positions = self.base.positions(rows)
        standing = positions[(self.alive[positions >> 3] >> (positions & 7)) & 1 == 1]
        return np.isin(rows, self.base.rows(standing)) | self.fresh.holds(rows)

    def without(self, rows: NDArray[np.int64]) -> Self:
        """The index after ``rows`` are gone."""
        positions, alive = self.base.positions(rows), self.alive
        if len(positions):
            gone = np.zeros(self.base.vectors.shape[0], np.bool_)
            gone[positions] = True
            alive = alive & ~_packed(gone)
        return replace(self, alive=alive, fresh=self.fresh.without(rows))

    def with_vectors(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> Self:
        """The index after ``rows`` ``[n]`` have ``vectors`` ``[n, D]``, whatever they had before."""
        cleared = self.without(rows)
        return replace(
            cleared,
            fresh=cleared.fresh.followed_by(rows, vectors),
            num_rows=max(self.num_rows, int(rows.max(initial=-1)) + 1),
        )

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 ``[n, D]`` of ``rows`` as they are kept; of an item that has left, the base's, or zeros."""
        is_fresh = self.fresh.holds(rows)
        is_based = ~is_fresh & self.base.holds(rows)
        found = np.zeros((len(rows), self.base.vectors.shape[1]), np.float32)
        found[is_based] = self.base.vectors.decode(self.base.positions(rows[is_based]))
        order = np.argsort(self.fresh.row_F)
        found[is_fresh] = self.fresh.vectors_FD[order[np.searchsorted(self.fresh.row_F, rows[is_fresh], sorter=order)]]
        return found

    def contents(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every row, ascending int64 ``[I]``, and its vector as it is kept float32 ``[I, D]``."""
        standing = listed_bits(self.alive, self.num_alive)
        rows = np.concatenate([self.base.rows(standing), self.fresh.row_F])
        order = np.argsort(rows)
        vectors = np.empty((len(rows), self.base.vectors.shape[1]), np.float32)
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        vectors[place[: len(standing)]] = self.base.vectors.decode(standing)
        vectors[place[len(standing) :]] = self.fresh.vectors_FD
        return rows[order], vectors

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        allow: RowSet | None = None,
        deny: RowSet | None = None,
        *,
        exact: bool = False,
    ) -> Found:
        """The ``k`` best rows of each query; arguments as ``Index.search``, already checked.

        exact: every item that passes is scored.
        """
        bits, count = self._passing(allow, deny)
        wanted = min(k, count)
        positions, scores = self._search_base(queries_BD, wanted, bits, count, exact)
        rows = self.base.rows(positions)
        if len(self.fresh):
            rows, scores = self._merge_fresh(queries_BD, k, rows, scores, allow, deny)
        if rows.shape[1] == k:
            return rows, scores
        found = np.full((len(queries_BD), k), -1, np.int64), np.full((len(queries_BD), k), -np.inf, np.float32)
        found[0][:, : rows.shape[1]], found[1][:, : rows.shape[1]] = rows, scores
        return found

    def _passing(self, allow: RowSet | None, deny: RowSet | None) -> tuple[NDArray[np.uint8], int]:
        """The positions that filters leave, as bits, and how many they are."""
        if allow is None and deny is None:
            return self.alive, self.num_alive
        bits = self.base.bits
        return passing(self.alive, None if allow is None else bits(allow), None if deny is None else bits(deny))

    def _search_base(
        self, queries_BD: NDArray[np.float32], wanted: int, bits: NDArray[np.uint8], count: int, exact: bool
    ) -> Found:
        items, candidates = self.base.vectors.shape[0], self.base.candidates
        if exact or candidates is None or not wanted:
            return self._scan(queries_BD, wanted, bits, count)
        share = count / items
        if candidates.cost(wanted, self.effort, share) >= count:
            return self._scan(queries_BD, wanted, bits, count)
        selected = None if count == items else bits
        positions = candidates.find(queries_BD, wanted, self.effort, selected, share)
        dry = np.flatnonzero((positions < 0).any(axis=1))
        positions, scores = self._rescore(queries_BD, positions, wanted)
        if len(dry):
            positions[dry], scores[dry] = self._scan(queries_BD[dry], wanted, bits, count)
        return positions, scores

    def _scan(self, queries_BD: NDArray[np.float32], wanted: int, bits: NDArray[np.uint8], count: int) -> Found:
        """The best among all positions that pass, every one of them scored."""
        vectors = self.base.vectors
        items = vectors.shape[0]
        # To pick vectors out takes longer than to read past those that do not pass, unless these are many.
        listed = listed_bits(bits, count) if 4 * count <= items else None
        at_once = max(1, _SCORES_AT_ONCE // max(items if listed is None else count, 1))
        found = []
        for start in range(0, len(queries_BD), at_once):
            block = queries_BD[start : start + at_once]
            scores = vectors.score(block) if listed is None else score_listed(vectors, block, listed)
            if listed is None and count < items:
                bar_unset(bits, scores)
            found.append(top_k(scores, wanted))
        nothing = np.empty((0, wanted), np.int32), np.empty((0, wanted), np.float32)
        places, values = found[0] if len(found) == 1 else map(np.concatenate, zip(nothing, *found, strict=True))
        return (places.astype(np.int64) if listed is None else _taken(listed[None], places)), values

    def _rescore(self, queries_BD: NDArray[np.float32], positions: NDArray[np.int64], wanted: int) -> Found:
        """The best of the candidates ``positions`` ``[B, n]`` by their kept vectors."""
        places, values = top_k(self.base.vectors.score_own(queries_BD, positions), wanted)
        return _taken(positions, places), values

    def _merge_fresh(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        allow: RowSet | None,
        deny: RowSet | None,
    ) -> Found:
        row_F, vectors_FD = self.fresh.row_F, self.fresh.vectors_FD
        for listed, may_pass in ((allow, True), (deny, False)):
            if listed is not None:
                passing = listed.holds(row_F) == may_pass
                row_F, vectors_FD = row_F[passing], vectors_FD[passing]
        places, values = top_k(queries_BD @ vectors_FD.T, min(k, len(row_F)))
        all_rows = np.concatenate([rows, row_F[places]], axis=1)
        all_scores = np.concatenate([scores, values], axis=1)
        places, values = top_k(all_scores, min(k, all_scores.shape[1]))
        return _taken(all_rows, places), values


def _taken(values: NDArray[np.int64], places: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.int64]:
    """``values`` at ``places`` of each line; −1 where the place is −1."""
    chosen = np.take_along_axis(values, np.maximum(places, 0).astype(np.int64), axis=1) if values.size else places
    return np.where(places < 0, -1, chosen).astype(np.int64)


def _packed(listed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(listed, bitorder="little")
