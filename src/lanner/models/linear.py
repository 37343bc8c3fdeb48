"""Shared by closed-form models: the training matrix, and item-item rows pruned to the strongest entries."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.errors import DataError
from lanner.inference.scoring_model import ScoringModel, SparseRows, tie_break
from lanner.inference.sparse import history_matrix
from lanner.models.recommender import item_popularity

_ROWS_AT_ONCE = 512


def training_matrix(dataset: Dataset) -> sp.csr_matrix:
    """Ones where a user chose an item, float32 ``[num_users, num_items]``.

    Raises:
        DataError: the dataset holds no interaction.
    """
    if not len(dataset.histories.values):
        raise DataError("the dataset has no interactions; there is nothing to learn from")
    return history_matrix(dataset.histories, dataset.num_items)


def strongest_entries(matrix_II: NDArray[np.float32], neighbours: int) -> SparseRows:
    """The ``neighbours`` entries of largest absolute value in each row; ``lost``: the share that was pruned."""
    count = min(neighbours, matrix_II.shape[1])
    items, values, lost, total = [], [], 0.0, 0.0
    for first in range(0, len(matrix_II), _ROWS_AT_ONCE):
        block = matrix_II[first : first + _ROWS_AT_ONCE]
        size = np.abs(block)
        chosen = np.sort(np.argpartition(-size, count - 1, axis=1)[:, :count], axis=1)
        kept = np.take_along_axis(block, chosen, axis=1)
        total += float(size.sum(dtype=np.float64))
        lost += float(size.sum(dtype=np.float64) - np.abs(kept).sum(dtype=np.float64))
        items.append(chosen.astype(np.int32).ravel())
        values.append(kept.ravel())
    indptr = np.arange(len(matrix_II) + 1, dtype=np.int64) * count
    return SparseRows(indptr, np.concatenate(items), np.concatenate(values), max(0.0, lost) / total if total else 0.0)


def item_to_item_model(dataset: Dataset, item_to_item: SparseRows) -> ScoringModel:
    """The model that sums the rows of a history's items."""
    popularity_I, nothing = item_popularity(dataset), np.zeros((dataset.num_items, 0), np.float32)
    bias_I = tie_break(popularity_I, float(np.max(item_to_item.values, initial=0)))
    return ScoringModel(nothing, nothing, bias_I, popularity_I, normalises=False, item_to_item=item_to_item)
