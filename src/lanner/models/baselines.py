"""The two baselines that every other model must beat: random and popularity."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.inference.scoring_model import ScoringModel, popularity_model
from lanner.models.bounds import check_numbers
from lanner.models.linear import training_matrix
from lanner.models.recommender import Recommender, item_popularity

_DIMENSIONS = 64
"""Dimensions of the random vectors: enough that different histories get lists with little overlap."""


@dataclass(frozen=True)
class RandomConfig:
    """A random ranking, the same at every call."""

    seed: int = 0
    """Random seed of the ranking."""

    def __post_init__(self) -> None:
        check_numbers(self, "random", at_least_0=("seed",))


@dataclass(frozen=True)
class PopularityConfig:
    """Popularity has no settings."""


class _Baseline(Recommender):
    """A model whose only state is its settings."""

    config: RandomConfig | PopularityConfig

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        training_matrix(dataset)
        return self._fitted(dataset)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config = type(self.config)(**settings)
        return self._fitted(dataset)


class RandomRecommender(_Baseline):
    """Products of random vectors: a ranking that depends on the history and the seed, and on nothing learned."""

    name: ClassVar[str] = "random"
    config: RandomConfig

    def __init__(self, config: RandomConfig | None = None) -> None:
        self.config = config or RandomConfig()

    def export(self) -> ScoringModel:
        popularity_I = item_popularity(self.dataset)
        draw = np.random.default_rng(self.config.seed).standard_normal
        source_ID, target_ID = draw((2, len(popularity_I), _DIMENSIONS), np.float32)
        # Unit length, or the longest vectors would lead every list; and the rarest item of a history decides,
        # or users who share popular items would get the same list.
        target_ID /= np.linalg.norm(target_ID, axis=1, keepdims=True)
        source_ID /= np.square(1 + popularity_I)[:, None]
        return ScoringModel(source_ID, target_ID, np.zeros_like(popularity_I), popularity_I, (_DIMENSIONS,))


class PopularityRecommender(_Baseline):
    """The same scores for everyone: how many users chose the item."""

    name: ClassVar[str] = "popularity"

    def __init__(self, config: PopularityConfig | None = None) -> None:
        self.config = config or PopularityConfig()

    def export(self) -> ScoringModel:
        return popularity_model(item_popularity(self.dataset))
