"""Item-item neighbours by weighted co-occurrence, in bounded memory."""

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


def item_neighbours(
    matrix_UI: sp.csr_matrix,
    *,
    neighbours: int,
    user_scale: NDArray[np.float32],
    row_scale: NDArray[np.float32],
    column_scale: NDArray[np.float32],
    shrinkage: float = 0.0,
    keep_self: bool = False,
) -> sp.csr_matrix:
    """The ``neighbours`` largest entries of each row of ``S``, float32 csr ``[I, I]``, columns sorted.

    With ``M`` the 0/1 matrix, ``u`` the user scales ``[U]``, ``r`` and ``c`` the item scales ``[I]``, all positive::

        G = diag(r) Mᵀ diag(u) M diag(c)        S = G / (1 + shrinkage · r cᵀ)

    Cosine with shrinkage ``|i ∩ j| / (√(|i| |j|) + shrinkage)`` is u = 1, r = c = degree^−½. Memory: 8 bytes times
    items × neighbours for the result, and 8 bytes times items per thread.
    """
    width = min(neighbours, matrix_UI.shape[1])
    by_item = matrix_UI.tocsc()
    columns, values = _strongest(
        by_item.indptr, by_item.indices, matrix_UI.indptr, matrix_UI.indices,
        user_scale, row_scale, column_scale, shrinkage, keep_self, width,
        numba.get_num_threads(),
    )  # fmt: skip
    kept = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    found = sp.csr_matrix((values[kept], columns[kept], indptr), shape=(matrix_UI.shape[1],) * 2)
    found.sort_indices()
    return found


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _strongest(
    item_indptr: NDArray[np.signedinteger],
    item_users: NDArray[np.signedinteger],
    user_indptr: NDArray[np.signedinteger],
    user_items: NDArray[np.signedinteger],
    user_scale: NDArray[np.floating],
    row_scale: NDArray[np.floating],
    column_scale: NDArray[np.floating],
    shrinkage: float,
    keep_self: bool,
    width: int,
    num_threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    num_items = len(item_indptr) - 1
    columns = np.full((num_items, width), -1, np.int32)
    values = np.zeros((num_items, width), np.float32)
    for thread in numba.prange(num_threads):
        total = np.zeros(num_items, np.float32)
        touched = np.empty(num_items, np.int32)
        # Items are dealt round-robin: degrees often decrease with the row, and threads should get equal shares.
        for item in range(thread, num_items, num_threads):
            count = 0
            for position in range(item_indptr[item], item_indptr[item + 1]):
                user = item_users[position]
                for place in range(user_indptr[user], user_indptr[user + 1]):
                    other = user_items[place]
                    if other == item and not keep_self:
                        continue
                    if total[other] == 0:
                        touched[count] = other
                        count += 1
                    total[other] += user_scale[user]
            found = np.empty(count, np.float32)
            for place in range(count):
                other = touched[place]
                scale = row_scale[item] * column_scale[other]
                found[place] = total[other] * scale / (1 + shrinkage * scale)
                total[other] = 0
            _keep_largest(found, touched[:count], columns[item], values[item])
    return columns, values


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _keep_largest(
    found: NDArray[np.float32], owners: NDArray[np.int32], columns: NDArray[np.int32], values: NDArray[np.float32]
) -> None:
    """Copy the ``len(columns)`` largest of ``found`` with their owners; among equal values the first ones."""
    width = len(columns)
    if len(found) <= width:
        columns[: len(found)] = owners
        values[: len(found)] = found
        return
    least = np.partition(found, len(found) - width)[len(found) - width]
    spare = width - np.sum(found > least)
    kept = 0
    for place in range(len(found)):
        if found[place] == least:
            if spare == 0:
                continue
            spare -= 1
        if found[place] >= least:
            columns[kept] = owners[place]
            values[kept] = found[place]
            kept += 1
