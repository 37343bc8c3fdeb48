"""The two models that every other must beat: chance and popularity."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.models.linear import check_explained, history_matrix, training_matrix
from lanner.models.recommender import Explanation, Recommender, ScorePart


@dataclass(frozen=True)
class RandomConfig:
    """Chance, the same at every call."""

    seed: int = 0
    """Another seed, another order."""


class RandomRecommender(Recommender):
    """Uniform scores in [0, 1) drawn from (seed, items of the history, item): no matter who else is in the batch."""

    name: ClassVar[str] = "random"

    def __init__(self, config: RandomConfig | None = None) -> None:
        self.config = config or RandomConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        training_matrix(dataset)
        self.dataset = dataset
        return self

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        history = history_matrix(users.history, self.dataset.num_items)
        return np.asarray(_uniform(np.uint64(self.config.seed), history.indptr, history.indices, history.shape[1]))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config, self.dataset = RandomConfig(**settings), dataset
        return self


@dataclass(frozen=True)
class PopularityConfig:
    """Popularity has nothing to choose."""


class PopularityRecommender(Recommender):
    """The same scores for everyone: how many users met the item."""

    name: ClassVar[str] = "popularity"

    def __init__(self, config: PopularityConfig | None = None) -> None:
        self.config = config or PopularityConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        self._users_of_item = np.asarray(training_matrix(dataset).sum(axis=0), np.float32).ravel()
        self.dataset = dataset
        return self

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        return np.tile(self._users_of_item, (len(users), 1))

    def explain(self, users: UserBatch, item: int) -> Explanation:
        """One part of kind ``popularity``: the number of users; raises ``ValueError`` for several users."""
        check_explained(users, item, self.dataset.num_items)
        score = float(self._users_of_item[item])
        return Explanation(item, score, (ScorePart("popularity", -1, score),))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {"users_of_item": self._users_of_item}, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config, self._users_of_item, self.dataset = PopularityConfig(**settings), arrays["users_of_item"], dataset
        return self


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _mix(word: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the answer hangs on every bit of ``word``."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _uniform(
    seed: np.uint64, indptr: NDArray[np.signedinteger], indices: NDArray[np.signedinteger], num_items: int
) -> NDArray[np.float32]:
    step = np.uint64(0x9E3779B97F4A7C15)
    out = np.empty((len(indptr) - 1, num_items), np.float32)
    for user in numba.prange(len(indptr) - 1):
        key = _mix(seed + step)
        for position in range(indptr[user], indptr[user + 1]):
            key = _mix(key ^ (np.uint64(indices[position]) + step))
        for item in range(num_items):
            out[user, item] = np.float32(_mix(key + np.uint64(item + 1) * step) >> np.uint64(40)) / np.float32(1 << 24)
    return out
