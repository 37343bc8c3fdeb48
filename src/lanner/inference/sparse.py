"""Histories as sparse matrices, and their product with sparse rows, on all cores."""

from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged

if TYPE_CHECKING:
    import scipy.sparse as sp


def history_matrix(history: Ragged, num_items: int, weights: NDArray[np.float32] | None = None) -> "sp.csr_matrix":
    """Weights of the distinct items of each history, float32 ``[B, num_items]``, columns sorted.

    weights: aligned with ``history.values``, None: 1 each. An item that occurs more than once counts once, with its
    largest weight.
    """
    import scipy.sparse as sp  # takes a quarter of a second, which a server that starts does not need

    data = np.ones(len(history.values), np.float32) if weights is None else weights.astype(np.float32)
    if weights is not None:
        order = np.lexsort((-data, history.values, history.row_of_value))
        rows, columns = history.row_of_value[order], history.values[order]
        repeated = np.zeros(len(order), bool)
        repeated[1:] = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
        data = data[order]
        data[repeated] = 0
        matrix = sp.csr_matrix((data, columns.copy(), history.indptr), shape=(len(history), num_items))
        matrix.sum_duplicates()
        return matrix
    matrix = sp.csr_matrix((data, history.values.copy(), history.indptr), shape=(len(history), num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def batch_matrix(users: UserBatch, num_items: int) -> "sp.csr_matrix":
    """``history_matrix`` of a batch, with its weights."""
    return history_matrix(users.history, num_items, users.weights)


def sum_of_sparse_rows(history: "sp.csr_matrix", rows_II: "sp.csr_matrix") -> NDArray[np.float32]:
    """``(history @ rows_II).toarray()``, float32 ``[B, I]``, on all cores."""
    given = (history.indptr, history.indices, history.data)
    return np.asarray(_sum_of_sparse_rows(*given, rows_II.indptr, rows_II.indices, rows_II.data, rows_II.shape[1]))


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _sum_of_sparse_rows(
    indptr: NDArray[np.signedinteger],
    indices: NDArray[np.signedinteger],
    weights: NDArray[np.float32],
    row_indptr: NDArray[np.signedinteger],
    row_indices: NDArray[np.signedinteger],
    row_values: NDArray[np.floating],
    width: int,
) -> NDArray[np.float32]:
    out = np.zeros((len(indptr) - 1, width), np.float32)
    for user in numba.prange(len(indptr) - 1):
        for position in range(indptr[user], indptr[user + 1]):
            item, weight = indices[position], weights[position]
            for entry in range(row_indptr[item], row_indptr[item + 1]):
                out[user, row_indices[entry]] += weight * row_values[entry]
    return out
