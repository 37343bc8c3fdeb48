"""iALS: weighted matrix factorisation (Hu, Koren & Volinsky, ICDM 2008), trained by the package ``implicit``."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.errors import ConfigError, MissingExtraError
from lanner.models.linear import history_matrix, training_matrix
from lanner.models.recommender import Recommender

_USERS_PER_BLOCK = 64
"""Systems D × D that a thread holds at a time."""


@dataclass(frozen=True)
class IALSConfig:
    """Sizes and weights of the factorisation."""

    factors: int = 128
    """Dimensions of a user and of an item."""
    regularisation: float = 1.0
    """Weight of the squared length of every factor."""
    alpha: float = 10.0
    """Confidence in an event; an absent event has confidence 1."""
    iterations: int = 15
    """Rounds of solving for the users, then for the items."""
    seed: int = 0
    """Of the first random factors."""

    def __post_init__(self) -> None:
        if self.factors < 1 or self.iterations < 1:
            raise ConfigError("ials.factors and ials.iterations must be at least 1")
        if not (self.regularisation > 0 and self.alpha > 0):
            raise ConfigError("ials.regularisation and ials.alpha must be above 0")


class IALS(Recommender):
    """score = x · y_i; x is solved for anew from the history, so that strangers are scored like anyone.

    x = (YᵀY + (α − 1) Σ_{i ∈ history} y_i y_iᵀ + λI)⁻¹ α Σ_{i ∈ history} y_i, the objective of the training.
    """

    name: ClassVar[str] = "ials"

    def __init__(self, config: IALSConfig | None = None) -> None:
        self.config = config or IALSConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn the item factors.

        Raises:
            DataError: the dataset holds no interaction.
            MissingExtraError: the package ``implicit`` is not installed.
        """
        matrix = training_matrix(dataset)
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError:
            raise MissingExtraError("implicit", "baselines", "training iALS") from None
        config = self.config
        # implicit has threads of its own, and calls BLAS from each of them.
        with threadpool_limits(1, "blas"):
            trained = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularisation,
                alpha=config.alpha,
                iterations=config.iterations,
                random_state=config.seed,
            )
            trained.fit(matrix, show_progress=False)
        self._set(np.ascontiguousarray(trained.item_factors, np.float32), dataset)
        return self

    def _set(self, item_ID: NDArray[np.float32], dataset: Dataset) -> None:
        self._item_ID, self.dataset = item_ID, dataset
        self._gram = item_ID.T @ item_ID + self.config.regularisation * np.eye(item_ID.shape[1], dtype=np.float32)

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        return self._fold_in(history_matrix(users.history, self.dataset.num_items)) @ self._item_ID.T

    def _fold_in(self, history: sp.csr_matrix) -> NDArray[np.float32]:
        """User factors, float32 ``[B, D]``."""
        blocks = [history[start : start + _USERS_PER_BLOCK] for start in range(0, history.shape[0], _USERS_PER_BLOCK)]
        # Many small systems: BLAS gains nothing from threads within one, much is gained from threads across them.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as threads:
            solved = list(threads.map(self._solve, blocks))
        return np.concatenate([np.empty((0, self._item_ID.shape[1]), np.float32), *solved])

    def _solve(self, history: sp.csr_matrix) -> NDArray[np.float32]:
        system_BDD = np.repeat(self._gram[None], history.shape[0], axis=0)
        for user, (start, end) in enumerate(zip(history.indptr[:-1], history.indptr[1:], strict=True)):
            met_LD = self._item_ID[history.indices[start:end]]
            system_BDD[user] += (self.config.alpha - 1) * (met_LD.T @ met_LD)
        target_BD = self.config.alpha * np.asarray(history @ self._item_ID)
        solved: NDArray[np.float32] = np.linalg.solve(system_BDD, target_BD[:, :, None])[:, :, 0]
        return solved

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {"item_factors": self._item_ID}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config = IALSConfig(**settings)
        self._set(arrays["item_factors"], dataset)
        return self
