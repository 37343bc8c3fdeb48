"""Compression steps from the full model to smaller ones, each evaluated on validation and kept if within the budget.

Settings are evaluated on a copy of the model that never saw the validation events, then applied to the model itself.
Both are scoring models, evaluated with the production ranker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lanner.compression.reduce import can_shorten, fewer_dimensions, fewer_neurons
from lanner.data.interactions import UserBatch
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.evaluation.protocol import evaluate
from lanner.inference.ranker import RankedScorer
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows, multiply, take

QUALITY = "ndcg_at_10"
_SHARES = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75)
"""Shares of the dimensions, tried in ascending order."""
_NEURON_SHARES = (0.25, 0.5, 0.75)
_SAMPLED_USERS = 20_000
"""Number of sampled users from which the directions of variance are estimated."""

Read = Callable[[Sequence[str]], NDArray[np.float32]]
"""From profile texts to features ``[B, F]``."""


@dataclass(frozen=True)
class Budget:
    """Quality budget and objective of compression."""

    max_ndcg_loss: float = 0.005
    """Maximum relative loss of validation ndcg@10 against the full variant, from 0 to below 1."""
    target: str = "latency"
    """``latency`` or ``size``: what the best variant within the budget minimises."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_ndcg_loss < 1:
            raise ConfigError(f"max_ndcg_loss is {self.max_ndcg_loss}, it must be at least 0 and less than 1")
        if self.target not in ("latency", "size"):
            raise ConfigError(f"target is '{self.target}', it must be 'latency' or 'size'")


@dataclass(frozen=True)
class Step:
    """One compression step: its validation quality, and whether it is within the budget."""

    name: str
    ndcg_at_10: float
    relative_loss: float
    kept: bool


class Evaluator:
    """Validation ndcg@10 of scoring models, relative to the full model."""

    def __init__(self, full: ScoringModel, validation: HeldOut, read: Read | None, max_loss: float) -> None:
        self._validation, self._max_loss = validation, max_loss
        self.steps: list[Step] = []
        self._full = self._quality(full, read)
        self.steps.append(Step("full", self._full, 0.0, True))

    def step(self, name: str, model: ScoringModel, read: Read | None) -> Step:
        """Evaluate a model, record the step, and decide whether it is within the budget."""
        quality = self._quality(model, read)
        loss = 1 - quality / self._full if self._full > 0 else 0.0
        self.steps.append(Step(name, quality, loss, loss <= self._max_loss))
        return self.steps[-1]

    def _quality(self, model: ScoringModel, read: Read | None) -> float:
        return float(evaluate(RankedScorer(model, read), self._validation, ks=(10,), metrics=("ndcg",))[QUALITY])


def quantised(model: ScoringModel) -> ScoringModel:
    """All tables of items, friends, attributes and texts in INT8 with one scale per row."""
    profile_FD, text_FD, friends_UD, attribute_AD = (
        None if table is None else Int8Rows.of(take(table))
        for table in (model.profile_FD, model.text_FD, model.friends_UD, model.attribute_AD)
    )
    items = model.map_tables(lambda table: Int8Rows.of(take(table)))
    return replace(items, profile_FD=profile_FD, text_FD=text_FD, friends_UD=friends_UD, attribute_AD=attribute_AD)


def sample_of_users(
    model: ScoringModel,
    users: UserBatch,
    features_BF: NDArray[np.float32] | None,
    texts_TF: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Vectors of at most 20,000 users, float32 ``[n, D]``; a deterministic sample.

    features_BF: of the users' profiles. texts_TF: of query texts, for as many additional users with no other data.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(users))[:_SAMPLED_USERS])
    known = model.users(users.take(chosen), None if features_BF is None else features_BF[chosen])
    if texts_TF is None or model.text_FD is None:
        return known
    return np.vstack([known, multiply(texts_TF, model.text_FD)])


def choose_dimensions(
    evaluator: Evaluator, twin: ScoringModel, users_BD: NDArray[np.float32], read: Read | None
) -> int:
    """The fewest dimensions within the budget, in INT8; all of them if none are."""
    for share in _SHARES if can_shorten(twin) else ():
        rank = max(1, round(share * twin.dimensions / 8) * 8)
        if rank >= twin.dimensions:
            continue
        step = evaluator.step(f"{rank} dimensions, INT8", quantised(fewer_dimensions(twin, users_BD, rank)), read)
        if step.kept:
            return rank
    return twin.dimensions


def choose_neurons(evaluator: Evaluator, twin: ScoringModel, users_BD: NDArray[np.float32], read: Read | None) -> int:
    """The fewest hidden neurons of the head within the budget; 0 for a model without such a head."""
    if twin.head is None or twin.head.kind != "concat":
        return 0
    hidden = len(twin.head.out_H)
    for share in _NEURON_SHARES:
        number = max(1, round(share * hidden))
        if evaluator.step(f"{number} of {hidden} neurons", fewer_neurons(twin, users_BD, number), read).kept:
            return number
    return hidden
