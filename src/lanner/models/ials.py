"""iALS: weighted matrix factorisation (Hu, Koren & Volinsky, ICDM 2008), trained by the package ``implicit``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import optional_module
from lanner.inference.scoring_model import FoldIn, ScoringModel, tie_break
from lanner.models.bounds import check_numbers
from lanner.models.linear import training_matrix
from lanner.models.recommender import Recommender, item_popularity


@dataclass(frozen=True)
class IALSConfig:
    """Sizes and weights of the factorisation."""

    factors: int = 128
    """Embedding size: latent factors of a user and of an item."""
    regularisation: float = 1.0
    """L2 penalty on the factors."""
    alpha: float = 10.0
    """Confidence of an event; a missing event has confidence 1."""
    iterations: int = 15
    """Number of alternating iterations: solve for the users, then for the items."""
    seed: int = 0
    """Random seed of the initial factors."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "ials",
            at_least_1=("factors", "iterations"),
            at_least_0=("seed",),
            above_0=("regularisation", "alpha"),
        )


class IALS(Recommender):
    """score = x · y_i; x is solved from the history at scoring time, so anonymous users are scored like any other.

    x = (YᵀY + (α − 1) Σ_{i ∈ history} y_i y_iᵀ + λI)⁻¹ α Σ_{i ∈ history} y_i, the training objective.
    """

    name: ClassVar[str] = "ials"

    def __init__(self, config: IALSConfig | None = None) -> None:
        self.config = config or IALSConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn the item factors.

        Raises:
            DataError: the dataset holds no interaction. MissingExtraError: the package ``implicit`` is not installed.
        """
        matrix = training_matrix(dataset)
        als = optional_module("implicit.cpu.als", "implicit", "baselines", "training iALS")
        config = self.config
        # implicit runs its own threads, each of which calls BLAS.
        with threadpool_limits(1, "blas"):
            trained = als.AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularisation,
                alpha=config.alpha,
                iterations=config.iterations,
                random_state=config.seed,
            )
            trained.fit(matrix, show_progress=False)
        self._item_ID = np.ascontiguousarray(trained.item_factors, np.float32)
        return self._fitted(dataset)

    def export(self) -> ScoringModel:
        popularity_I = item_popularity(self.dataset)
        item_ID = self._item_ID
        gram_DD = item_ID.T @ item_ID + self.config.regularisation * np.eye(item_ID.shape[1], dtype=np.float32)
        # A single weighted event counts at most 1, which gives a score of about a squared factor norm.
        largest = float(np.square(item_ID).sum(axis=1).max(initial=0))
        return ScoringModel(
            item_ID,
            item_ID,
            tie_break(popularity_I, largest),
            popularity_I,
            (item_ID.shape[1],),
            normalises=False,
            fold_in=FoldIn(gram_DD, self.config.alpha),
        )

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {"item_factors": self._item_ID}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config, self._item_ID = IALSConfig(**settings), arrays["item_factors"]
        return self._fitted(dataset)
