"""ItemKNN: the items most often chosen together (Deshpande & Karypis, "Item-based top-N recommendation", 2004)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.graph.neighbours import item_neighbours
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.models.bounds import check_numbers
from lanner.models.linear import item_to_item_model, training_matrix
from lanner.models.recommender import Recommender


@dataclass(frozen=True)
class ItemKNNConfig:
    """Cosine between items, over the users who chose both."""

    neighbours: int = 100
    """Number of most similar items kept for each item."""
    shrinkage: float = 10.0
    """Added to the denominator of the cosine, so that similarities based on few users count less."""

    def __post_init__(self) -> None:
        check_numbers(self, "item_knn", at_least_1=("neighbours",), at_least_0=("shrinkage",))


class ItemKNN(Recommender):
    """score(u, j) = Σ_{i ∈ history(u) ∩ N(j)} |i ∩ j| / (√(|i| |j|) + shrinkage), N(j) the top neighbours of j."""

    name: ClassVar[str] = "item-knn"

    def __init__(self, config: ItemKNNConfig | None = None) -> None:
        self.config = config or ItemKNNConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        matrix = training_matrix(dataset)
        scale = np.maximum(np.bincount(matrix.indices, minlength=dataset.num_items), 1).astype(np.float32) ** -0.5
        similar = item_neighbours(
            matrix,
            neighbours=self.config.neighbours,
            user_scale=np.ones(dataset.num_users, np.float32),
            row_scale=scale,
            column_scale=scale,
            shrinkage=self.config.shrinkage,
        )
        # Row j holds the neighbours of the target j; histories are the rows of the transpose.
        self._from_history = SparseRows.of(similar.T.tocsr())
        return self._fitted(dataset)

    def export(self) -> ScoringModel:
        return item_to_item_model(self.dataset, self._from_history)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        kept = self._from_history
        return {"indptr": kept.indptr, "items": kept.items, "similarities": kept.values}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config = ItemKNNConfig(**settings)
        self._from_history = SparseRows(arrays["indptr"], arrays["items"], arrays["similarities"])
        return self._fitted(dataset)
