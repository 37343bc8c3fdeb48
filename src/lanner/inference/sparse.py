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


def attribute_matrix(values: Ragged, kind_A: NDArray[np.int32]) -> "sp.csr_matrix":
    """Values of the attributes of each user, float32 ``[B, A]``: those of one attribute share a weight of 1.

    kind_A: the attribute of each value.
    """
    matrix = history_matrix(values, len(kind_A))
    key = np.repeat(np.arange(len(values)), np.diff(matrix.indptr)) * (int(kind_A.max(initial=0)) + 1)
    key += kind_A[matrix.indices]
    matrix.data = (1 / np.bincount(key)[key]).astype(np.float32) if len(key) else matrix.data
    return matrix


def with_attributes(history_BI: "sp.csr_matrix", attribute_BA: "sp.csr_matrix", num_columns: int) -> "sp.csr_matrix":
    """Histories and attributes in one matrix, ``[B, num_columns]``: items, then attribute values, then pairs of both.

    num_columns: I + A, or with the pairs I + A + A·I; that of value a and item i is column I + A + a·I + i.
    """
    import scipy.sparse as sp

    known = [history_BI, attribute_BA]
    (users, num_items), num_values = history_BI.shape, attribute_BA.shape[1]
    if num_columns > num_items + num_values:
        lengths, owner = np.diff(history_BI.indptr), np.repeat(np.arange(users), np.diff(attribute_BA.indptr))
        repeats = lengths[owner]
        value = np.repeat(np.arange(len(owner)), repeats)
        ends = np.cumsum(repeats)
        item = np.arange(len(value)) - np.repeat(ends - repeats, repeats) + history_BI.indptr[owner[value]]
        columns = attribute_BA.indices[value].astype(np.int64) * num_items + history_BI.indices[item]
        weights = attribute_BA.data[value] * history_BI.data[item]
        indptr = np.concatenate([[0], np.cumsum(lengths * np.diff(attribute_BA.indptr))])
        known.append(sp.csr_matrix((weights, columns, indptr), shape=(users, num_values * num_items)))
    return sp.csr_matrix(sp.hstack(known, format="csr"), dtype=np.float32)


def recency_weights(lengths: NDArray[np.int64], recency: float) -> NDArray[np.float32]:
    """e^(−recency · age) of the entries of histories, oldest first; the newest of each has age 0."""
    ends = np.cumsum(lengths)
    age = np.repeat(ends, lengths) - 1 - np.arange(lengths.sum())
    return np.asarray(np.exp(-recency * age), np.float32)


def aged(users: UserBatch, recency: float) -> UserBatch:
    """Users with history weights multiplied by ``recency_weights``."""
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
    """Add ``history[first : first + N] @ rows_II`` to ``out_NI`` ``[N, I]`` on this thread, without the GIL."""
    given = (history.indptr[first : first + len(out_NI) + 1], history.indices, history.data)
    _add_sparse_rows(*given, rows_II.indptr, rows_II.indices, rows_II.data, out_NI)


def add_weighted_rows(
    rows: NDArray[np.int64],
    weights: NDArray[np.floating],
    indptr: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.number],
    out_I: NDArray[np.floating],
) -> None:
    """Add the weighted sum of some rows of a CSR matrix to ``out_I`` ``[I]``."""
    _add_sparse_rows(np.array([0, len(rows)]), rows, weights, indptr, items, values, out_I[None])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_sparse_rows(
    indptr: NDArray[np.signedinteger],
    indices: NDArray[np.signedinteger],
    weights: NDArray[np.floating],
    row_indptr: NDArray[np.signedinteger],
    row_indices: NDArray[np.signedinteger],
    row_values: NDArray[np.number],
    out: NDArray[np.floating],
) -> None:
    for user in range(len(out)):
        for position in range(indptr[user], indptr[user + 1]):
            item, weight = indices[position], weights[position]
            for entry in range(row_indptr[item], row_indptr[item + 1]):
                out[user, row_indices[entry]] += weight * row_values[entry]
