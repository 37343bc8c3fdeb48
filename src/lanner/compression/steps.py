"""The steps from the full recommender to smaller ones, each checked on validation and kept only within the budget.

Settings are judged on a twin of the model that never saw the validation events; the same settings are then applied to
the model itself. Both are request forms, so that the yardstick sees nothing but scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.data.interactions import UserBatch
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.evaluation.protocol import evaluate
from lanner.models.request_form import Int8Rows, Reduction, RequestForm, RequestScorer, take

QUALITY = "ndcg_at_10"
_SHARES = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75)
"""Of the dimensions, tried from the fewest up."""
_NEURON_SHARES = (0.25, 0.5, 0.75)
_SAMPLED_USERS = 20_000
"""Real users enough to know in which directions users differ."""

Read = Callable[[Sequence[str]], NDArray[np.float32]]
"""Profile texts to features ``[B, F]``."""


@dataclass(frozen=True)
class Budget:
    """What compression may cost, and what it is for."""

    max_ndcg_loss: float = 0.005
    """Relative loss of validation ndcg@10 that a variant may have against the full one."""
    target: str = "latency"
    """``latency`` or ``size``: what the best variant has least of, among those within the loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_ndcg_loss < 1:
            raise ConfigError(f"max_ndcg_loss must lie within 0 … 1, received {self.max_ndcg_loss}")
        if self.target not in ("latency", "size"):
            raise ConfigError(f"target must be 'latency' or 'size', received '{self.target}'")


@dataclass(frozen=True)
class Step:
    """One attempt: its quality on validation, and whether it is within the budget."""

    name: str
    ndcg_at_10: float
    relative_loss: float
    kept: bool


class Judge:
    """Validation ndcg@10 of forms, relative to the full one."""

    def __init__(self, full: RequestForm, validation: HeldOut, read: Read | None, max_loss: float) -> None:
        self._validation, self._max_loss = validation, max_loss
        self.steps: list[Step] = []
        self._full = self._quality(full, read)
        self.steps.append(Step("full", self._full, 0.0, True))

    def step(self, name: str, form: RequestForm, read: Read | None) -> Step:
        """Measure a form, write it down, and say whether it is within the budget."""
        quality = self._quality(form, read)
        loss = 1 - quality / self._full if self._full > 0 else 0.0
        self.steps.append(Step(name, quality, loss, loss <= self._max_loss))
        return self.steps[-1]

    def _quality(self, form: RequestForm, read: Read | None) -> float:
        return float(evaluate(RequestScorer(form, read), self._validation, ks=(10,), metrics=("ndcg",))[QUALITY])


def quantised(form: RequestForm) -> RequestForm:
    """Every table of items, and what profiles are multiplied by, as INT8 with a scale a row."""
    profile = None if form.profile_FD is None else Int8Rows.of(take(form.profile_FD))
    return replace(form.map_tables(lambda table: Int8Rows.of(take(table))), profile_FD=profile)


def sample_of_users(
    form: RequestForm, users: UserBatch, features_BF: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Vectors of at most 20,000 users, float32 ``[n, D]``, always the same ones."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(users))[:_SAMPLED_USERS])
    return form.users(users.take(chosen), None if features_BF is None else features_BF[chosen])


def choose_dimensions(judge: Judge, twin: RequestForm, users_BD: NDArray[np.float32], read: Read | None) -> int:
    """The fewest dimensions that, quantised, stay within the budget; all of them where none do."""
    for share in _SHARES:
        rank = max(1, round(share * twin.dimensions / 8) * 8)
        if rank >= twin.dimensions:
            continue
        if judge.step(f"{rank} dimensions, INT8", quantised(fewer_dimensions(twin, users_BD, rank)), read).kept:
            return rank
    return twin.dimensions


def choose_neurons(judge: Judge, twin: RequestForm, users_BD: NDArray[np.float32], read: Read | None) -> int:
    """The fewest hidden neurons of the head within the budget; 0 for a form without a head."""
    if twin.head is None:
        return 0
    hidden = len(twin.head.out_H)
    for share in _NEURON_SHARES:
        number = max(1, round(share * hidden))
        if judge.step(f"{number} of {hidden} neurons", fewer_neurons(twin, users_BD, number), read).kept:
            return number
    return hidden


def popularity_form(form: RequestForm, popularity_I: NDArray[np.integer]) -> RequestForm:
    """The same list for everyone, the last rung: no vectors to speak of, and log popularity as the bias."""
    nothing = np.zeros((form.num_items, 1), np.float32)
    no_taste = np.zeros((form.dimensions, 1), np.float32)
    reduction = Reduction(no_taste, no_taste, no_taste[:, 0], bias_gain=np.zeros(1, np.float32))
    return RequestForm(nothing, nothing, np.log1p(popularity_I).astype(np.float32), (1,), reduction=reduction)
