"""Ridge regression of each item on its own neighbourhood: EASE at a cost that grows with the neighbourhood only.

For the target item j with neighbourhood N (the items nearest to it by co-occurrence, and by text where there is a
prior)::

    b_N = (G_NN + λI + D_N)⁻¹ (R_Nj + P_Nj)

G = XᵀX is the Gram matrix of the histories, R = XᵀY the regression targets (Y = X; past → future where order
matters), P a prior in units of co-occurrences (similar texts), D the diagonal of EDLAE's dropout. With N all
items, Y = X and P = 0, this is the ridge of which EASE (Steck, WWW 2019) is the form with a zero diagonal; the
neighbourhoods are those of fsSLIM (Ning & Karypis, ICDM 2011), the prior that of L3AE (Moon et al., CIKM 2025).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

_DENSE_ITEMS = 10_000
"""Largest catalogue with dense products: those of histories are seldom sparse enough for sparse ones to pay off."""
_TOLERANCE, _MAX_STEPS = 1e-5, 100
"""Of conjugate gradients: relative residual, and matrix products before falling back to a factorisation."""
_Product: TypeAlias = sp.csr_matrix | NDArray[np.float32]


@dataclass(frozen=True)
class LocalRidge:
    """The regressions before they are solved: everything that does not depend on ridge, dropout and prior.

    past: X, csr ``[S, I]``. right: R, one row for each of T targets, csr or dense ``[T, I]``. near: pattern of the
    neighbourhoods without the prior, csr ``[T, I]``. targets: rows of the items.
    """

    past: sp.csr_matrix
    right: _Product
    near: sp.csr_matrix
    targets: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        past: sp.csr_matrix,
        future: sp.csr_matrix,
        neighbours: int,
        targets: NDArray[np.int64] | None = None,
    ) -> "LocalRidge":
        """Each target on the ``neighbours`` items with the largest cosine in its column of R = ``past``ᵀ ``future``.

        past, future: ``[S, I]`` each. targets: rows of the items, ascending; None: all.
        """
        past = sp.csr_matrix(past, dtype=np.float32)
        wanted = sp.csc_matrix(future, dtype=np.float32)
        if targets is None:
            targets = np.arange(past.shape[1])
        else:
            wanted = wanted[:, targets]
        right = _product(wanted, past)
        length_I = 1 / np.sqrt(np.maximum(_diagonal(past), 1))
        return cls(past, right, _nearest(right, length_I.astype(np.float32), targets, neighbours), targets)

    def solve(self, ridge: float, *, dropout: float = 0.0, prior: sp.csr_matrix | None = None) -> sp.csr_matrix:
        """Weights of each history item (row) for each target (column), float32 csr ``[I, T]``; none for itself.

        Args:
            ridge: λ, above 0.
            dropout: probability p of EDLAE, which adds p / (1 − p) of the diagonal (Steck, NeurIPS 2020).
            prior: ``[I, I]``, added to the regression targets; its entries join the neighbourhoods.
        """
        near = self.near
        if prior is not None:
            by_target = sp.csr_matrix(prior.tocsc()[:, self.targets].T, dtype=np.float32)
            near = _without_own(_pattern(near) + _pattern(by_target), self.targets)
        near.sort_indices()
        wanted = _entries(self.right, near)
        if prior is not None:
            wanted += _entries(by_target, near)
        gram = self._gram
        dense, sparse = (gram, _EMPTY_SPARSE) if isinstance(gram, np.ndarray) else (_EMPTY_DENSE, gram)
        extra = np.float32(ridge) + np.float32(dropout / (1 - dropout)) * _diagonal(self.past)
        arrays = (sparse.indptr.astype(np.int64), sparse.indices, sparse.data)
        with threadpool_limits(1):  # LAPACK's threads would compete with the threads over items
            values = _solve(
                dense, *arrays, near.indptr.astype(np.int64), near.indices, wanted, extra, numba.get_num_threads()
            )
        return sp.csr_matrix((values, near.indices, near.indptr), shape=near.shape).T.tocsr().sorted_indices()

    @cached_property
    def _gram(self) -> _Product:
        return _product(self.past.tocsc(), self.past)


_EMPTY_DENSE, _EMPTY_SPARSE = np.empty((0, 0), np.float32), sp.csr_matrix((0, 0), dtype=np.float32)
"""Placeholder for the Gram matrix in its other form (dense or sparse)."""


def _product(left: sp.csc_matrix, right: sp.csr_matrix) -> _Product:
    """``left``ᵀ ``right``, dense where the catalogue is small; ``[T, I]`` of ``[S, T]`` and ``[S, I]``."""
    num_items = right.shape[1]
    if num_items > _DENSE_ITEMS:
        return sp.csr_matrix(left.T @ right).sorted_indices()
    out_TI = np.zeros((left.shape[1], num_items), np.float32)
    arrays = (left.indptr, left.indices, left.data, right.indptr, right.indices, right.data)
    _add_products(*arrays, out_TI, numba.get_num_threads())
    return out_TI


def _diagonal(past: sp.csr_matrix) -> NDArray[np.float32]:
    """Diagonal of the Gram matrix."""
    return np.asarray(np.bincount(past.indices, np.square(past.data), past.shape[1]), np.float32)


def _nearest(right: _Product, length_I: NDArray[np.float32], targets: NDArray[np.int64], count: int) -> sp.csr_matrix:
    """Pattern of the ``count`` items with the largest cosine to each target, itself excluded, csr ``[T, I]``."""
    if isinstance(right, sp.csr_matrix):
        cosines = _without_own(right, targets)
        cosines.data *= length_I[cosines.indices]  # the target's own norm does not change the order
        return strongest(cosines, count)
    columns = np.full((len(right), min(count, len(length_I))), -1, np.int32)
    _find_nearest(right, length_I, targets, columns, numba.get_num_threads())
    kept = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return sp.csr_matrix((np.ones(indptr[-1], np.float32), columns[kept], indptr), shape=right.shape)


def _entries(matrix: _Product, pattern: sp.csr_matrix) -> NDArray[np.float32]:
    """Values of ``matrix`` where ``pattern`` has an entry, in the order of its entries."""
    if not isinstance(matrix, sp.csr_matrix):
        rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
        return np.asarray(matrix[rows, pattern.indices])
    out = np.zeros(pattern.nnz, np.float32)
    _pick(pattern.indptr, pattern.indices, matrix.indptr, matrix.indices, matrix.data, matrix.shape[1], out)
    return out


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
    """The matrix without each target row's entry for itself."""
    entries = matrix.tocoo()
    off = targets[entries.row] != entries.col
    return sp.csr_matrix((entries.data[off], (entries.row[off], entries.col[off])), shape=matrix.shape)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _mark_weak(indptr: NDArray[np.int64], sizes: NDArray[np.float32], count: int, kept: NDArray[np.bool_]) -> None:
    for row in range(len(indptr) - 1):
        first, last = indptr[row], indptr[row + 1]
        if last - first > count:
            own = sizes[first:last]
            least = np.partition(own, len(own) - count)[len(own) - count]
            spare = count - np.sum(own > least)
            for place in range(first, last):
                if sizes[place] == least and spare > 0:
                    spare -= 1
                elif sizes[place] <= least:
                    kept[place] = False


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _add_products(
    indptr: NDArray[np.signedinteger],
    rows: NDArray[np.signedinteger],
    values: NDArray[np.float32],
    row_indptr: NDArray[np.signedinteger],
    row_items: NDArray[np.signedinteger],
    row_values: NDArray[np.float32],
    out_TI: NDArray[np.float32],
    num_threads: int,
) -> None:
    for thread in numba.prange(num_threads):
        # Distributed round-robin: popular items, whose rows are long, often come first.
        for target in range(thread, len(out_TI), num_threads):
            for entry in range(indptr[target], indptr[target + 1]):
                row, value = rows[entry], values[entry]
                for other in range(row_indptr[row], row_indptr[row + 1]):
                    out_TI[target, row_items[other]] += value * row_values[other]


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _find_nearest(
    right_TI: NDArray[np.float32],
    length_I: NDArray[np.float32],
    targets: NDArray[np.int64],
    columns: NDArray[np.int32],
    num_threads: int,
) -> None:
    """Fill in the items with the largest ``right · length`` of each target, ascending; padded with −1."""
    for thread in numba.prange(num_threads):
        for target in range(thread, len(right_TI), num_threads):
            cosine_I = right_TI[target] * length_I
            cosine_I[targets[target]] = 0
            found = np.flatnonzero(cosine_I)
            width = columns.shape[1]
            if len(found) > width:
                own = cosine_I[found]
                least = np.partition(own, len(own) - width)[len(own) - width]
                spare = width - np.sum(own > least)
                place = 0
                for item in found:
                    if cosine_I[item] < least or (cosine_I[item] == least and spare == 0):
                        continue
                    if cosine_I[item] == least:
                        spare -= 1
                    columns[target, place] = item
                    place += 1
            else:
                columns[target, : len(found)] = found


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _pick(
    indptr: NDArray[np.signedinteger],
    items: NDArray[np.signedinteger],
    other_indptr: NDArray[np.signedinteger],
    other_items: NDArray[np.signedinteger],
    other_values: NDArray[np.float32],
    num_items: int,
    out: NDArray[np.float32],
) -> None:
    place = np.full(num_items, -1, np.int64)
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            place[items[entry]] = entry
        for entry in range(other_indptr[row], other_indptr[row + 1]):
            if place[other_items[entry]] >= 0:
                out[place[other_items[entry]]] = other_values[entry]
        for entry in range(indptr[row], indptr[row + 1]):
            place[items[entry]] = -1


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _solve(
    dense_gram: NDArray[np.float32],
    gram_indptr: NDArray[np.int64],
    gram_items: NDArray[np.int32],
    gram_values: NDArray[np.float32],
    near_indptr: NDArray[np.int64],
    near_items: NDArray[np.int32],
    wanted: NDArray[np.float32],
    extra_I: NDArray[np.float32],
    num_threads: int,
) -> NDArray[np.float32]:
    num_targets = len(near_indptr) - 1
    values = np.zeros(near_indptr[num_targets], np.float32)
    for thread in numba.prange(num_threads):
        place = np.full(len(extra_I), -1, np.int32)
        for target in range(thread, num_targets, num_threads):
            first, last = near_indptr[target], near_indptr[target + 1]
            near = near_items[first:last]
            if len(near) == 0:
                continue
            system = np.zeros((len(near), len(near)), np.float32)
            if len(dense_gram):
                for row in range(len(near)):
                    for column in range(row, len(near)):
                        system[row, column] = system[column, row] = dense_gram[near[row], near[column]]
            else:
                place[near] = np.arange(len(near), dtype=np.int32)
                for row in range(len(near)):
                    for entry in range(gram_indptr[near[row]], gram_indptr[near[row] + 1]):
                        if place[gram_items[entry]] >= 0:
                            system[row, place[gram_items[entry]]] = gram_values[entry]
                place[near] = -1
            for row in range(len(near)):
                system[row, row] += extra_I[near[row]]
            if not _conjugate_gradients(system, wanted[first:last], values[first:last]):
                values[first:last] = np.linalg.solve(system, wanted[first:last])
    return values


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _conjugate_gradients(system: NDArray[np.float32], wanted: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
    """Solve a positive definite system into ``found``, which starts at 0; False if it does not converge in time.

    Preconditioned by the diagonal. The ridge keeps the condition number low, so a few tens of matrix products are
    enough, a fraction of the cost of a factorisation.
    """
    inverse = 1 / np.diag(system)
    residual = wanted.copy()
    step = inverse * residual
    product = np.empty_like(step)
    goal = _TOLERANCE * _TOLERANCE * np.dot(wanted, wanted)
    size = np.dot(residual, step)
    for _ in range(_MAX_STEPS):
        if np.dot(residual, residual) <= goal:
            return True
        np.dot(system, step, product)
        length = size / np.dot(step, product)
        found += length * step
        residual -= length * product
        before, size = size, np.dot(residual, inverse * residual)
        step = inverse * residual + (size / before) * step
    return False
