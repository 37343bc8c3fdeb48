"""EASE: the best linear map from histories to histories with an empty diagonal (Steck, WWW 2019)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import DataError
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.models.bounds import check_numbers
from lanner.models.linear import item_to_item_model, strongest_entries, training_matrix
from lanner.models.recommender import Recommender

_ITEMS_PER_BLOCK = 512
_MIB = 1 << 20


@dataclass(frozen=True)
class EASEConfig:
    """Ridge penalty, pruning and a memory limit."""

    regularisation: float = 500.0
    """Ridge penalty λ, added to the diagonal of the Gram matrix; larger for datasets with more events per item."""
    neighbours: int = 2000
    """Number of largest weights kept in each row of the item-to-item matrix."""
    memory_limit_mib: int = 4096
    """Refuse to start if the dense items × items float32 matrix would need more MiB than this."""

    def __post_init__(self) -> None:
        check_numbers(self, "ease", at_least_1=("neighbours", "memory_limit_mib"), above_0=("regularisation",))


class EASE(Recommender):
    """score = history · B with B = I − P diag(P)⁻¹ and P = (XᵀX + λI)⁻¹; X the users × items 0/1 matrix.

    Memory: one float32 items × items matrix, inverted in place, and blocks of 512 of its rows.
    """

    name: ClassVar[str] = "ease"

    def __init__(self, config: EASEConfig | None = None) -> None:
        self.config = config or EASEConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn the item-to-item matrix.

        Raises:
            DataError: no interactions, or so many items that the matrix would exceed ``memory_limit_mib``.
        """
        matrix = training_matrix(dataset)
        needed = 4 * dataset.num_items**2 / _MIB
        if needed > self.config.memory_limit_mib:
            raise DataError(
                f"EASE needs {needed:.0f} MiB for {dataset.num_items} items and may take "
                f"{self.config.memory_limit_mib} MiB; raise ease.memory_limit_mib or choose a sparse model such as "
                "graph-filter"
            )
        self._item_to_item = strongest_entries(_ease(matrix, self.config.regularisation), self.config.neighbours)
        return self._fitted(dataset)

    def export(self) -> ScoringModel:
        return item_to_item_model(self.dataset, self._item_to_item)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        kept = self._item_to_item
        arrays: dict[str, NDArray[Any]] = {"indptr": kept.indptr, "items": kept.items, "weights": kept.values}
        return arrays, {**asdict(self.config), "lost": kept.lost}

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        chosen = dict(settings)
        self._item_to_item = SparseRows(arrays["indptr"], arrays["items"], arrays["weights"], chosen.pop("lost"))
        self.config = EASEConfig(**chosen)
        return self._fitted(dataset)


def _ease(matrix_UI: sp.csr_matrix, regularisation: float) -> NDArray[np.float32]:
    """B, float32 ``[I, I]``."""
    inverse = inverse_of(_gram(matrix_UI, regularisation))
    inverse /= -inverse.diagonal().copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def _gram(matrix_UI: sp.csr_matrix, regularisation: float) -> NDArray[np.float32]:
    """XᵀX + λI, float32 ``[I, I]``, filled in blocks: its sparse form could be twice the dense one."""
    by_item = matrix_UI.T.tocsr()
    gram = np.empty((by_item.shape[0],) * 2, np.float32)
    for start in range(0, len(gram), _ITEMS_PER_BLOCK):
        block = slice(start, start + _ITEMS_PER_BLOCK)
        gram[block] = (by_item[block] @ matrix_UI).toarray()
    gram[np.diag_indices_from(gram)] += np.float32(regularisation)
    return gram


def inverse_of(symmetric: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of a positive definite matrix, in its own memory (Cholesky, then LAPACK's potri).

    Raises:
        DataError: not positive definite in float32.
    """
    # LAPACK is column-major: a symmetric matrix equals its transpose, which is in Fortran order.
    factor, failed = lapack.spotrf(symmetric.T, lower=1, overwrite_a=1, clean=0)
    inverse, failed = lapack.spotri(factor, lower=1, overwrite_c=1) if not failed else (factor, failed)
    if failed:
        raise DataError(
            "the Gram matrix cannot be inverted in float32; raise the ridge penalty, such as ease.regularisation"
        )
    full: NDArray[np.float32] = inverse.T
    for start in range(0, len(full), _ITEMS_PER_BLOCK):
        end = min(start + _ITEMS_PER_BLOCK, len(full))
        corner = np.triu(full[start:end, start:end])
        full[start:end, start:end] = corner + np.triu(corner, 1).T
        full[end:, start:end] = full[start:end, end:].T
    return full
