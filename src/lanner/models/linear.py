"""What models that are linear in the history share: sparse histories, their products, and parts of a score."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import DataError
from lanner.models.recommender import Explanation, Recommender, ScorePart

if TYPE_CHECKING:
    import scipy.sparse as sp


def history_matrix(history: Ragged, num_items: int) -> "sp.csr_matrix":
    """Ones where a history holds an item, float32 ``[B, num_items]``, columns sorted; repeats count once."""
    import scipy.sparse as sp  # takes a quarter of a second, which a server that starts does not need

    ones = np.ones(len(history.values), np.float32)
    matrix = sp.csr_matrix((ones, history.values.copy(), history.indptr), shape=(len(history), num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def training_matrix(dataset: Dataset) -> "sp.csr_matrix":
    """Ones where a user met an item, float32 ``[num_users, num_items]``.

    Raises:
        DataError: the dataset holds no interaction.
    """
    if not len(dataset.interactions):
        raise DataError("the dataset holds no interactions; there is nothing to learn from")
    return history_matrix(dataset.histories, dataset.num_items)


def sum_of_rows(history: "sp.csr_matrix", rows_IK: NDArray[np.float32]) -> NDArray[np.float32]:
    """``history @ rows_IK``, float32 ``[B, K]``, on all cores."""
    return np.asarray(_sum_of_rows(history.indptr, history.indices, rows_IK))


def sum_of_sparse_rows(history: "sp.csr_matrix", rows_II: "sp.csr_matrix") -> NDArray[np.float32]:
    """``(history @ rows_II).toarray()``, float32 ``[B, I]``, on all cores."""
    parts = (history.indptr, history.indices, rows_II.indptr, rows_II.indices, rows_II.data, rows_II.shape[1])
    return np.asarray(_sum_of_sparse_rows(*parts))


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _sum_of_rows(
    indptr: NDArray[np.signedinteger], indices: NDArray[np.signedinteger], rows_IK: NDArray[np.float32]
) -> NDArray[np.float32]:
    out = np.zeros((len(indptr) - 1, rows_IK.shape[1]), np.float32)
    for user in numba.prange(len(indptr) - 1):
        for position in range(indptr[user], indptr[user + 1]):
            item = indices[position]
            # A loop, not a slice: it is three times faster, having no temporary rows.
            for column in range(rows_IK.shape[1]):
                out[user, column] += rows_IK[item, column]
    return out


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _sum_of_sparse_rows(
    indptr: NDArray[np.signedinteger],
    indices: NDArray[np.signedinteger],
    row_indptr: NDArray[np.signedinteger],
    row_indices: NDArray[np.signedinteger],
    row_values: NDArray[np.floating],
    width: int,
) -> NDArray[np.float32]:
    out = np.zeros((len(indptr) - 1, width), np.float32)
    for user in numba.prange(len(indptr) - 1):
        for position in range(indptr[user], indptr[user + 1]):
            item = indices[position]
            for entry in range(row_indptr[item], row_indptr[item + 1]):
                out[user, row_indices[entry]] += row_values[entry]
    return out


class LinearRecommender(Recommender):
    """A recommender whose score is a sum over the history, so that each summand is a reason."""

    @abstractmethod
    def weights(self, history: NDArray[np.int32], item: int) -> NDArray[np.float32]:
        """What each item of ``history`` ``[L]`` adds to the score of ``item``, float32 ``[L]``."""

    def explain(self, users: UserBatch, item: int) -> Explanation:
        """One part of kind ``history`` for each distinct item of the history, largest first.

        Raises:
            ValueError: the batch does not hold exactly one user, or ``item`` is no row of the dataset.
        """
        check_explained(users, item, self.dataset.num_items)
        history = np.unique(users.history[0])
        weights = self.weights(history, item)
        order = np.argsort(-weights, kind="stable")
        parts = tuple(ScorePart("history", int(history[place]), float(weights[place])) for place in order)
        return Explanation(item, sum(part.value for part in parts), parts)


def check_explained(users: UserBatch, item: int, num_items: int) -> None:
    """Refuse what has no explanation; raises ``ValueError``."""
    if len(users) != 1:
        raise ValueError(f"explain takes one user at a time, received {len(users)}")
    if not 0 <= item < num_items:
        raise ValueError(f"item row {item} is outside 0 … {num_items - 1}")
