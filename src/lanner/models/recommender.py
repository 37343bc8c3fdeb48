"""The contract every recommender keeps, whatever is inside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ranking import top_k
from lanner.data.split import HeldOut
from lanner.errors import LannerError

_T = TypeVar("_T")

PartKind = Literal["history", "friend", "text", "profile", "popularity", "head"]


@dataclass(frozen=True)
class ScorePart:
    """One summand of a score. ``row``: an item row (history), the place of a field (text); −1: none."""

    kind: PartKind
    row: int
    value: float


@dataclass(frozen=True)
class Explanation:
    """Why one item has its score: ``score`` equals the sum of the parts' values."""

    item: int
    score: float
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True)
class Recommendations:
    """items: int32 ``[B, K]`` rows, best first, −1 where fewer than K can be ranked. scores: float32 ``[B, K]``."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]


class Recommender(ABC):
    """Fit once, then score anyone from a history: users are never looked up by identity alone."""

    name: ClassVar[str]

    dataset: Dataset
    """What the model was fitted on; set by ``fit`` and by ``load_state``."""

    @abstractmethod
    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn from ``dataset``. ``validation`` is used for early stopping only, where the model has any.

        Raises:
            DataError: the dataset holds nothing to learn from.
        """

    @abstractmethod
    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for every user of the batch, float32 ``[B, num_items]``; higher is better."""

    @abstractmethod
    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What a bundle must keep: named arrays, and settings that JSON can hold."""

    @abstractmethod
    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        """The inverse of ``state``; ``self`` was built with no arguments but its defaults."""

    def recommend(self, users: UserBatch, k: int = 10, exclude_seen: bool = True) -> Recommendations:
        """The k best items of each user.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, received {k}")
        scores = self.score(users)
        if exclude_seen:
            scores[users.history.row_of_value, users.history.values] = -np.inf
        items, values = top_k(scores, k)
        return Recommendations(items, values)

    def explain(self, users: UserBatch, item: int) -> Explanation:
        """The parts that the score of ``item`` for the one user of the batch is the sum of.

        Raises:
            LannerError: the model has no additive parts to show.
        """
        raise LannerError(f"the model '{self.name}' cannot explain its scores")

    def similar(self, item: int, k: int = 10) -> Recommendations:
        """The k items scored highest for a user whose whole history is ``item``; one row, ``item`` itself left out."""
        from lanner.data.ragged import Ragged

        return self.recommend(UserBatch(Ragged.from_lists([[item]])), k)


def below(prefix: str, named: Mapping[str, _T]) -> dict[str, _T]:
    """The entries whose names begin with ``prefix``, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
