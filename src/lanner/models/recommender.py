"""The interface of every recommender: fit, then export to one scoring model for inference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.inference.explain import Explanation
from lanner.inference.ranker import RankedScorer, Ranker, TextReader, padded, queries_of
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.sparse import history_matrix

_T = TypeVar("_T")


@dataclass(frozen=True)
class Recommendations:
    """items: int32 ``[B, K]`` rows, best first, −1 where fewer than K can be ranked. scores: float32 ``[B, K]``."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]


class Recommender(ABC):
    """Fit once, then score any user from a history: users are never looked up by identity alone."""

    name: ClassVar[str]

    dataset: Dataset
    """What the model was fitted on; set by ``fit`` and by ``load_state``."""

    shortfall: str = ""
    """One line on why the last ``fit`` could not train its parameters; empty: it could, or there are none."""

    @abstractmethod
    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn from ``dataset``. ``validation`` is used for early stopping only, if the model has it.

        Raises:
            DataError: the dataset holds nothing to learn from.
        """

    def refit(self, dataset: Dataset) -> Self:
        """Refit on ``dataset``, all events of which ``fit`` saw a part, with the choices validated there."""
        return self.fit(dataset)

    def update(self, dataset: Dataset) -> Self:
        """Add events without training: closed forms are re-solved, trained parameters stay.

        dataset: all events; its first users and items are those of ``self.dataset``, later ones are new.
        """
        return self.fit(dataset)

    @abstractmethod
    def export(self) -> ScoringModel:
        """The inference form of a fitted model."""

    @abstractmethod
    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What a bundle stores for further training: named arrays, and settings that JSON can hold."""

    @abstractmethod
    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        """The inverse of ``state``; ``self`` was built with default arguments."""

    @cached_property
    def scoring_model(self) -> ScoringModel:
        """``export()``, cached until the model is refitted."""
        return self.export()

    @cached_property
    def ranker(self) -> Ranker:
        """Ranks all items of the dataset."""
        return Ranker(self.scoring_model, reader=self.reader)

    @property
    def reader(self) -> TextReader | None:
        """Reader of profiles and query texts; None for a model that reads none."""
        return None

    @cached_property
    def scorer(self) -> RankedScorer:
        """The exported model in the form that evaluation needs."""
        return RankedScorer(self.scoring_model, None if self.reader is None else self.reader.features)

    @property
    def num_items(self) -> int:
        """Number of items that can be ranked."""
        return self.dataset.num_items

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for every user of the batch, float32 ``[B, num_items]``; higher is better."""
        return self.scorer.score(users)

    def rank(
        self, users: UserBatch, k: int, excluded: Ragged, candidates: NDArray[np.int32] | Ragged | None
    ) -> NDArray[np.int32]:
        """The best k items of each user, int32 ``[B, k]`` padded with −1; see ``evaluation.protocol``."""
        return self.scorer.rank(users, k, excluded, candidates)

    def recommend(self, users: UserBatch, k: int = 10, exclude_seen: bool = True) -> Recommendations:
        """The k best items of each user.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, received {k}")
        return Recommendations(*padded(self.ranker.rank(queries_of(users, k, exclude_seen=exclude_seen)), k))

    def explain(self, users: UserBatch, item: int) -> Explanation:
        """The contributions that add up to the score of ``item`` for the one user of the batch.

        Raises:
            ValueError: the batch does not hold exactly one user, or ``item`` is not a row of the dataset.
        """
        if len(users) != 1:
            raise ValueError(f"explain takes one user at a time, received {len(users)}")
        if not 0 <= item < self.dataset.num_items:
            raise ValueError(f"item row {item} is outside 0 … {self.dataset.num_items - 1}")
        return self.ranker.explain(queries_of(users)[0], np.array([item]))[0]

    def similar(self, item: int, k: int = 10) -> Recommendations:
        """The k items ranked highest for a user whose whole history is ``item``; one row, ``item`` itself excluded."""
        return self.recommend(UserBatch(Ragged.from_lists([[item]])), k)

    def _fitted(self, dataset: Dataset) -> Self:
        """Keep the dataset, and invalidate earlier exports."""
        for made in ("scoring_model", "ranker", "scorer"):
            self.__dict__.pop(made, None)
        self.dataset = dataset
        return self


def item_popularity(dataset: Dataset) -> NDArray[np.float32]:
    """How many users chose each item, float32 ``[I]``."""
    distinct = history_matrix(dataset.histories, dataset.num_items)
    return np.bincount(distinct.indices, minlength=dataset.num_items).astype(np.float32)


def below(prefix: str, named: Mapping[str, _T]) -> dict[str, _T]:
    """The entries whose names start with ``prefix``, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
