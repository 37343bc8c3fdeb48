"""Training tasks: one per trained view, two for the language view, then one for the fusion.

Each view is trained independently, so that none relies on another; their weights are then learned from events that none
of them saw. Graph-only and language-only models are therefore parts of the hybrid, not separate models.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import DivergedError
from lanner.evaluation.protocol import Scorer, evaluate
from lanner.models.network import RecommenderNetwork
from lanner.models.views import Tables, UserInputs, View
from lanner.training.batches import Batch, UserBatches
from lanner.training.config import TrainingConfig
from lanner.training.losses import bayesian_personalised_ranking, sampled_softmax

_HEAD_CANDIDATES = 4096
"""Items that the ranking head scores in a step: their pairs with 64 users fit in memory for any head."""
LOWER_RATE = " at a lower rate"
"""Suffix of the second task of a view."""
OBJECTIVES = {"softmax": sampled_softmax, "bpr": bayesian_personalised_ranking}
_HEAD_DECAY = 0.01
"""Weight decay of the ranking head."""
MAX_EVALUATED = 4000
"""Validation users evaluated after each epoch: enough for a stable mean, few enough to cost less than the epoch."""


class Task(Protocol):
    """What the loop can minimise: ``loss`` is a function of only (seed, step) and the parameters of ``module``."""

    name: str
    module: nn.Module
    steps_per_epoch: int
    counts_untrained: bool
    """Whether the initial state of ``module`` counts as a candidate for the best."""

    @property
    def sent(self) -> int:
        """Bytes of gradients, or of averaged weights, that this process has sent to other replicas."""

    def optimizer(self) -> torch.optim.Optimizer:
        """A new AdamW for the parameters of ``module``."""

    def loss(self, step: int) -> Tensor:
        """The scalar to minimise."""

    def quality(self) -> float | None:
        """ndcg@10 on validation; None if there are no validation users.

        Raises:
            DivergedError: a score is not finite.
        """

    def sizes(self, step: int) -> Mapping[str, int]:
        """Amounts processed in a step, by name: users, texts, tokens."""


class ViewTask:
    """Train one view to predict the hidden part of a history from the rest."""

    sent = 0

    def __init__(
        self,
        network: RecommenderNetwork,
        name: str,
        dataset: Dataset,
        validation: HeldOut | None,
        config: TrainingConfig,
        *,
        goes_on: bool = False,
    ) -> None:
        """goes_on: whether the view was just trained, at a higher learning rate."""
        self.name = f"{name}{LOWER_RATE}" if goes_on else name
        self._network, self._config = network, config
        view = network.views[name]
        assert isinstance(view, View)
        self.module: nn.Module = view
        self.counts_untrained = goes_on or view.starts_trained
        self._view = view
        self._batches = UserBatches(dataset.user_batch(), config.batch_users, config.hide, config.seed)
        self._popularity = np.bincount(dataset.histories.values, minlength=dataset.num_items)
        self._seen = np.flatnonzero(self._popularity)
        self._evaluated = None if validation is None else some(validation, MAX_EVALUATED)
        self.steps_per_epoch = self._batches.steps_per_epoch

    def optimizer(self) -> torch.optim.Optimizer:
        # The fused form has no temporary tables, of the size of those that sampling avoids.
        is_fused = self._network.fanout > 0
        return _adamw(self.module, self._config.learning_rate, self._config.weight_decay, is_fused)

    def sizes(self, step: int) -> Mapping[str, int]:
        return {"users": self._batches.size_of(step)}

    def loss(self, step: int) -> Tensor:
        with _half_precision_on_gpu(self._network.device):
            if self._network.fanout:
                return self._sampled_loss(step, self._network.fanout)
            return self.loss_by(self._view.tables(), step)

    def loss_by(self, tables: Tables, step: int, fresh: NDArray[np.int64] | None = None) -> Tensor:
        """The loss of a step with the given tables, which may be computed elsewhere. fresh: required candidates."""
        batch = self._batches.at(step)
        items, log_probability = self._candidates(step, batch.item, fresh)
        return self._loss(batch, items, log_probability, tables, self._network.inputs(batch.users), items)

    def _sampled_loss(self, step: int, fanout: int) -> Tensor:
        """The loss of a step from only the rows that it needs."""
        batch = self._batches.at(step)
        items, log_probability = self._candidates(step, batch.item, None)
        random = np.random.default_rng((self._config.seed, 6, step))
        part = self._view.part(self._network.inputs(batch.users), items, fanout, random)
        return self._loss(batch, items, log_probability, part.tables, part.inputs, np.searchsorted(part.items, items))

    def _loss(
        self,
        batch: Batch,
        items: NDArray[np.int64],
        log_probability: Tensor | None,
        tables: Tables,
        inputs: UserInputs,
        rows: NDArray[np.int64],
    ) -> Tensor:
        """rows: of the candidates ``items`` in the tables."""
        device = self._network.device
        place = np.full(len(self._popularity), -1)
        place[items] = np.arange(len(items))
        users = self._view.user_vectors(inputs, tables)
        columns = torch.from_numpy(rows).to(device)
        scores = users @ tables.target_ID[columns].T + tables.bias_I[columns]
        seen_row, seen_place = batch.users.history.row_of_value, place[batch.users.history.values]
        shown = seen_place >= 0
        scores[torch.from_numpy(seen_row[shown]), torch.from_numpy(seen_place[shown])] = -torch.inf
        hidden = (torch.from_numpy(batch.row).to(device), torch.from_numpy(place[batch.item]).to(device))
        return OBJECTIVES[self._config.objective](scores, *hidden, log_probability)

    def _candidates(
        self, step: int, hidden: NDArray[np.int64], fresh: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], Tensor | None]:
        """All items seen in training if few enough, else the hidden ones plus ``num_candidates`` uniform draws.

        An unseen item is no evidence of dislike: as a candidate it would train the views to rank new items low.
        """
        if len(self._seen) <= self._config.num_candidates:
            return self._seen, None
        random = np.random.default_rng((self._config.seed, 2, step))
        # Items that a random order put into this step count as draws.
        extra = np.empty(0, np.int64) if fresh is None else fresh
        more = random.choice(self._seen, max(self._config.num_candidates - len(extra), 0))
        items, log_chance = weighed(hidden, np.concatenate([extra, more]), len(self._seen), self._popularity)
        return items, torch.from_numpy(log_chance).to(self._network.device)

    def quality(self) -> float | None:
        return None if self._evaluated is None else checked_quality(self, self._evaluated)

    @torch.no_grad()
    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of this view alone, float32 ``[B, I]``."""
        self._view.eval()
        tables = self._view.tables()
        vectors = self._view.user_vectors(self._network.inputs(users), tables)
        return (vectors @ tables.target_ID.T + tables.bias_I).float().cpu().numpy()


class FusionTask:
    """Train the ranking head on most of the validation events; evaluate on the rest."""

    name = "head"
    counts_untrained = True
    sent = 0

    def __init__(self, network: RecommenderNetwork, validation: HeldOut, config: TrainingConfig) -> None:
        self._network, self._config = network, config
        self.module: nn.Module = network.fusion
        learners, evaluated = _divide(validation, np.random.default_rng((config.seed, 3)))
        self._learners, self._evaluated = learners, some(evaluated, MAX_EVALUATED)
        self._items = network.item_side()
        # Small batches: the users of a batch share their candidates, and the head's pairs must fit in memory.
        self._batch_users = min(64, config.batch_users)
        self.steps_per_epoch = min(50, max(1, len(self._learners) // self._batch_users))
        everything = np.arange(network.num_items, dtype=np.int32)
        self._pool = learners.candidates if isinstance(learners.candidates, np.ndarray) else everything
        self._popularity = np.bincount(learners.positives.values, minlength=network.num_items)

    def optimizer(self) -> torch.optim.Optimizer:
        return _adamw(self.module, self._config.fusion_learning_rate, _HEAD_DECAY)

    def sizes(self, step: int) -> Mapping[str, int]:
        return {"users": min(self._batch_users, len(self._learners))}

    def loss(self, step: int) -> Tensor:
        with _half_precision_on_gpu(self._network.device):
            return self._loss(step)

    def _loss(self, step: int) -> Tensor:
        random = np.random.default_rng((self._config.seed, 4, step))
        rows = random.choice(len(self._learners), min(self._batch_users, len(self._learners)), replace=False)
        users, positives = self._learners.users.take(rows), self._learners.positives.take(rows)
        items, log_chance = self._pool.astype(np.int64), None
        if len(items) > _HEAD_CANDIDATES:
            extra = random.choice(items, _HEAD_CANDIDATES)
            drawn = weighed(positives.values, extra, len(items), self._popularity)
            items, log_chance = drawn[0], torch.from_numpy(drawn[1]).to(self._network.device)
        # A fifth of the steps treat all candidates as new items: the weights of new and known items were chosen
        # separately, so their scores are not comparable.
        is_new = "language" in self._network.views and random.random() < 0.2
        columns = torch.from_numpy(items).to(self._network.device)
        with torch.no_grad():
            vectors = self._network.user_side(self._network.inputs(users), self._items)
            pairs = self._network.pairs(vectors, *self._items.take(columns, torch.full_like(columns, is_new).bool()))
        scores = self._network.fusion(pairs)
        scores = scores.masked_fill(torch.from_numpy(_marks(self._learners.excluded.take(rows), items)), -torch.inf)
        hidden_place = torch.from_numpy(np.searchsorted(items, positives.values))
        hidden_row = torch.from_numpy(positives.row_of_value)
        kept = torch.isfinite(scores[hidden_row, hidden_place])
        return sampled_softmax(scores, hidden_row[kept], hidden_place[kept], log_chance)

    def quality(self) -> float | None:
        return checked_quality(self, self._evaluated)

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of the whole network, float32 ``[B, I]``."""
        return self._network.score(users, self._items)


def _adamw(module: nn.Module, rate: float, decay: float, is_fused: bool = False) -> torch.optim.AdamW:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=is_fused or None)


def _half_precision_on_gpu(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def quality_of(scorer: Scorer, held_out: HeldOut) -> float:
    """ndcg@10 on ``held_out``: the criterion for early stopping and for choosing weights."""
    return float(evaluate(scorer, held_out, ks=(10,), metrics=("ndcg",))["ndcg_at_10"])


def checked_quality(scorer: Scorer, held_out: HeldOut) -> float | None:
    """``quality_of``; None if there are no users. Raises ``DivergedError`` if a score is not finite."""
    return quality_of(_Checked(scorer), held_out) if len(held_out) else None


class _Checked:
    """The scores of a model in training; the evaluation itself ignores those that are NaN."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        scores = self._scorer.score(users)
        if not scores.max(initial=-np.inf) < np.inf:  # nor a NaN
            raise DivergedError("the scores of validation users are not finite; lower the learning rate")
        return scores


def weighed(
    hidden: NDArray[np.integer], drawn: NDArray[np.integer], pool: int, popularity: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sorted candidates: hidden items and ``drawn``, uniform from ``pool`` items; and each one's log probability."""
    items = np.union1d(hidden, drawn).astype(np.int64)
    share = popularity[items] / max(popularity.sum(), 1)
    missed = np.exp(-len(hidden) * share - len(drawn) / pool)
    return items, np.log(np.maximum(1 - missed, 1e-9)).astype(np.float32)


def _marks(lists: Ragged, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where an item of the sorted ``items`` is in a user's list, ``[B, C]``."""
    place = np.minimum(np.searchsorted(items, lists.values), len(items) - 1)
    found = items[place] == lists.values
    marks = np.zeros((len(lists), len(items)), bool)
    marks[lists.row_of_value[found], place[found]] = True
    return marks


def _divide(validation: HeldOut, random: np.random.Generator) -> tuple[HeldOut, HeldOut]:
    """Split users into four fifths for training and a fifth for evaluation; in cold-item splits, also the items.

    A head can memorise which of a few new items are popular. Evaluated on other users but the same items, that would
    pass for skill.
    """
    order = random.permutation(len(validation))
    cut = max(1, len(order) // 5)
    learners = validation.take(np.sort(order[cut:] if len(order) > cut else order))
    evaluated = validation.take(np.sort(order[:cut]))
    pool = validation.candidates
    if not isinstance(pool, np.ndarray) or len(pool) < 10:
        return learners, evaluated
    shuffled = random.permutation(pool)
    cut = len(pool) // 3
    return _among(learners, np.sort(shuffled[cut:])), _among(evaluated, np.sort(shuffled[:cut]))


def _among(held_out: HeldOut, candidates: NDArray[np.int32]) -> HeldOut:
    """The users with positives among ``candidates``, restricted to those."""
    positives = held_out.positives
    kept = np.isin(positives.values, candidates, kind="sort")
    fewer = Ragged.from_pairs(positives.row_of_value[kept], positives.values[kept], len(positives))
    narrowed = replace(held_out, positives=fewer, candidates=candidates, ratings=None)
    return narrowed.take(np.flatnonzero(fewer.lengths))


def some(held_out: HeldOut, most: int) -> HeldOut:
    """A fixed sample of at most ``most`` held-out users."""
    if len(held_out) <= most:
        return held_out
    return held_out.take(np.sort(np.random.default_rng(0).permutation(len(held_out))[:most]))
