"""Histories as sparse matrices, and their product with sparse rows."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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

    weights: aligned with ``history.values``, None: 1 each. Repeated items count once, with their largest weight.
    """
    import scipy.sparse as sp  # slow import (0.25 s), avoided at server startup

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


def shares_of(users: UserBatch, num_items: int) -> "sp.csr_matrix":
    """The same, each user's weights divided by their sum."""
    history = batch_matrix(users, num_items)
    totals = np.asarray(history.sum(axis=1)).ravel()
    history.data /= np.repeat(np.where(totals > 0, totals, 1), np.diff(history.indptr)).astype(np.float32)
    return history


def recency_weights(lengths: NDArray[np.int64], recency: float) -> NDArray[np.float32]:
    """e^(−recency · age) of the entries of histories, oldest first; the newest of each has age 0."""
    ends = np.cumsum(lengths)
    age = np.repeat(ends, lengths) - 1 - np.arange(lengths.sum())
    return np.asarray(np.exp(-recency * age), np.float32)


def aged(users: UserBatch, recency: float) -> UserBatch:
    """Users whose history entries weigh so many times as much; see ``recency_weights``."""
    if recency == 0:
        return users
    weights = recency_weights(users.history.lengths, recency)
    return replace(users, weights=weights if users.weights is None else weights * users.weights)


def sum_of_sparse_rows(history: "sp.csr_matrix", rows_II: "sp.csr_matrix") -> NDArray[np.float32]:
    """``(history @ rows_II).toarray()``, float32 ``[B, I]``, multi-threaded."""
    out_BI = np.zeros((history.shape[0], rows_II.shape[1]), np.float32)
    workers = numba.get_num_threads()
    share = -(-len(out_BI) // workers) or 1
    with ThreadPoolExecutor(workers) as pool:
        list(
            pool.map(
                lambda n: add_sparse_rows(history, rows_II, out_BI[n : n + share], n), range(0, len(out_BI), share)
            )
        )
    return out_BI


def add_sparse_rows(
    history: "sp.csr_matrix", rows_II: "sp.csr_matrix", out_NI: NDArray[np.float32], first: int = 0
) -> None:
    """Add ``history[first : first + N] @ rows_II`` to ``out_NI`` ``[N, I]`` on this thread, without Python's lock."""
    given = (history.indptr[first : first + len(out_NI) + 1], history.indices, history.data)
    _add_sparse_rows(*given, rows_II.indptr, rows_II.indices, rows_II.data, out_NI)


def add_weighted_rows(
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    indptr: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    out_I: NDArray[np.float32],
) -> None:
    """Add the weighted sum of some rows of a CSR matrix to ``out_I`` ``[I]``."""
    _add_sparse_rows(np.array([0, len(rows)]), rows, weights, indptr, items, values, out_I[None])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_sparse_rows(
    indptr: NDArray[np.signedinteger],
    indices: NDArray[np.signedinteger],
    weights: NDArray[np.float32],
    row_indptr: NDArray[np.signedinteger],
    row_indices: NDArray[np.signedinteger],
    row_values: NDArray[np.floating],
    out: NDArray[np.float32],
) -> None:
    for user in range(len(out)):
        for position in range(indptr[user], indptr[user + 1]):
            item, weight = indices[position], weights[position]
            for entry in range(row_indptr[item], row_indptr[item + 1]):
                out[user, row_indices[entry]] += weight * row_values[entry]
