"""Ridge regression of each item on its own neighbourhood: EASE at the cost of its neighbours.

For the target item j with neighbourhood N (the items nearest to it by co-occurrence, and by text where there is a
prior)::

    b_N = (G_NN + λI + D_N)⁻¹ (R_Nj + P_Nj)

G is the Gram matrix of the histories, R what is regressed on (G itself; past → future where the order counts), P a
prior in units of co-occurrences (texts that are alike), D the diagonal of EDLAE's dropout. With N all items, R = G and
P = 0, this is the ridge of which EASE (Steck, WWW 2019) is the form with a zero diagonal; the neighbourhoods are those
of fsSLIM (Ning & Karypis, ICDM 2011), the prior that of L3AE (Moon et al., CIKM 2025).
"""

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

_DENSE_ITEMS = 10_000
"""Largest catalogue whose Gram matrix is unpacked: picking entries from long sparse rows takes ten times as long."""


@dataclass(frozen=True)
class LocalRidge:
    """The regressions before they are solved: what all choices of ridge, dropout and prior have in common.

    gram: symmetric csr ``[I, I]``. right_by_target: a row for each of the T targets, which it is regressed on, csr
    ``[T, I]``. near: pattern of the neighbourhoods, without a prior's, csr ``[T, I]``. targets: rows of the items.
    """

    gram: sp.csr_matrix
    right_by_target: sp.csr_matrix
    near: sp.csr_matrix
    targets: NDArray[np.int64]

    @classmethod
    def of(
        cls, gram: sp.csr_matrix, right: sp.csr_matrix, neighbours: int, targets: NDArray[np.int64] | None = None
    ) -> "LocalRidge":
        """Each target on the ``neighbours`` items of the largest cosine in ``right``, whose column it is.

        targets: rows of the items, rising; None: all.
        """
        if targets is None:
            targets = np.arange(gram.shape[0])
        length_I = (1 / np.sqrt(np.maximum(gram.diagonal(), 1))).astype(np.float32)
        right_by_target = right.tocsc()[:, targets].T.tocsr().astype(np.float32).sorted_indices()
        cosines = right_by_target.copy()
        cosines.data *= length_I[cosines.indices] * np.repeat(length_I[targets], np.diff(cosines.indptr))
        near = _without_own(strongest(cosines, neighbours + 1), targets)
        return cls(gram.tocsr().astype(np.float32).sorted_indices(), right_by_target, near, targets)

    def solve(self, ridge: float, *, dropout: float = 0.0, prior: sp.csr_matrix | None = None) -> sp.csr_matrix:
        """Weights of each history item (row) for each target (column), float32 csr ``[I, T]``, none for itself.

        Args:
            ridge: λ, above 0.
            dropout: probability p of EDLAE, which adds p / (1 − p) of the diagonal (Steck, NeurIPS 2020).
            prior: ``[I, I]``, added to what is regressed on; its entries join the neighbourhoods.
        """
        near, right_by_target = self.near, self.right_by_target
        if prior is not None:
            by_target = prior.tocsc()[:, self.targets].T.tocsr().astype(np.float32)
            near = _without_own(_pattern(near) + _pattern(by_target), self.targets)
            right_by_target = (right_by_target + by_target).sorted_indices()
        parts = (self.gram, right_by_target, near.sorted_indices())
        flat = [array for one in parts for array in (one.indptr.astype(np.int64), one.indices, one.data)]
        extra = np.float32(ridge) + np.float32(dropout / (1 - dropout)) * self.gram.diagonal().astype(np.float32)
        with threadpool_limits(1):  # LAPACK's threads would compete with those that deal out the items
            values = _solve(self._dense, *flat[:8], extra, numba.get_num_threads())
        return sp.csr_matrix((values, flat[7], flat[6]), shape=near.shape).T.tocsr().sorted_indices()

    @cached_property
    def _dense(self) -> NDArray[np.float32]:
        """The Gram matrix where it may be unpacked, else nothing."""
        fits = self.gram.shape[0] <= _DENSE_ITEMS
        return np.asarray(self.gram.toarray(), np.float32) if fits else np.empty((0, 0), np.float32)


def strongest(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """The ``count`` entries of largest absolute value in each row; a copy."""
    matrix = matrix.tocsr().astype(np.float32)
    indptr, kept = matrix.indptr, np.ones(matrix.nnz, np.bool_)
    _mark_weak(indptr.astype(np.int64), np.abs(matrix.data), count, kept)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(indptr))[kept]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))])
    return sp.csr_matrix((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)


def _pattern(matrix: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(matrix.nnz, np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _without_own(matrix: sp.csr_matrix, targets: NDArray[np.int64]) -> sp.csr_matrix:
    """Without the entry that each target, a row, has for itself."""
    entries = matrix.tocoo()
    off = targets[entries.row] != entries.col
    return sp.csr_matrix((entries.data[off], (entries.row[off], entries.col[off])), shape=matrix.shape)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _mark_weak(indptr: NDArray[np.int64], sizes: NDArray[np.float32], count: int, kept: NDArray[np.bool_]) -> None:
    for row in range(len(indptr) - 1):
        first, last = indptr[row], indptr[row + 1]
        if last - first > count:
            order = np.argsort(sizes[first:last])
            for place in order[: last - first - count]:
                kept[first + place] = False


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _solve(
    dense_gram: NDArray[np.float32],
    gram_indptr: NDArray[np.int64],
    gram_items: NDArray[np.int32],
    gram_values: NDArray[np.float32],
    right_indptr: NDArray[np.int64],
    right_items: NDArray[np.int32],
    right_values: NDArray[np.float32],
    near_indptr: NDArray[np.int64],
    near_items: NDArray[np.int32],
    extra_I: NDArray[np.float32],
    num_threads: int,
) -> NDArray[np.float32]:
    num_targets = len(near_indptr) - 1
    values = np.zeros(near_indptr[num_targets], np.float32)
    for thread in numba.prange(num_threads):
        place = np.full(len(extra_I), -1, np.int32)
        # Dealt round-robin: popular items, whose rows are long, often come first.
        for target in range(thread, num_targets, num_threads):
            first, last = near_indptr[target], near_indptr[target + 1]
            near = near_items[first:last]
            if len(near) == 0:
                continue
            place[near] = np.arange(len(near), dtype=np.int32)
            system = np.zeros((len(near), len(near)), np.float32)
            for row in range(len(near)):
                if len(dense_gram):
                    for column in range(len(near)):
                        system[row, column] = dense_gram[near[row], near[column]]
                else:
                    for entry in range(gram_indptr[near[row]], gram_indptr[near[row] + 1]):
                        if place[gram_items[entry]] >= 0:
                            system[row, place[gram_items[entry]]] = gram_values[entry]
                system[row, row] += extra_I[near[row]]
            wanted = np.zeros(len(near), np.float32)
            for entry in range(right_indptr[target], right_indptr[target + 1]):
                if place[right_items[entry]] >= 0:
                    wanted[place[right_items[entry]]] = right_values[entry]
            values[first:last] = np.linalg.solve(system, wanted)
            place[near] = -1
    return values
