"""Fine-tunes the language model on the interactions: texts of items that the same users choose become similar.

The probability that a user who chose item i also chose j is, over the users u of both::

    p(j | i) ∝ Σ_u 1 / (|N(u)| − 1),  j ≠ i

and the loss is the cross-entropy of softmax_j(cos(v_i, v_j) / τ + log n_j) with it: n_j, the users of j, so that
similarity need not express popularity (Menon et al., ICLR 2021). No other part of the model takes part in it.

A step encodes the texts of a few items i with gradient. All other items keep their most recently computed vectors (a
cross-batch memory; Wang et al., CVPR 2020), so that each i is compared with the whole catalogue, or, if that is large,
with some of its companions and with random items.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.distributed.config import EngineConfig
from lanner.distributed.ranks import Leader, is_divided, part
from lanner.errors import DataError
from lanner.graph.propagation import propagate
from lanner.models.language import LanguageEncoder
from lanner.models.linear import training_matrix
from lanner.models.recommender import below
from lanner.models.views import mean_adjacency
from lanner.training.adapters import check_output, save, trainable_tower, trained_weights
from lanner.training.batches import TextBatches
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.divided import DividedAdamW, DividedVectors, prepare
from lanner.training.item_texts import ItemTexts, ItemVectors, TrainedVectors
from lanner.training.loop import Loop, trained_parameters
from lanner.training.tasks import MAX_EVALUATED, checked_quality, some, weighed
from lanner.training.tracking import tracker_of

_DRAWN = 16
"""Companions drawn per item of a batch if the catalogue is too large to compare with all of it."""
_OWN = -1e4
"""Score of an item as its own companion: finite, as its share of 0 is multiplied by it."""
_INDEPENDENT = 4
"""Weight of a history in a validation score: that of so many independent items, as its items resemble each other."""


class EncoderAdaptation:
    """Fine-tunes a language model on interactions; see ``models.neural.Adaptation``."""

    def __init__(
        self,
        config: AdaptationConfig,
        training: TrainingConfig,
        folder: Path | None = None,
        progress: bool = True,
        parallel: EngineConfig | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """training: number of candidates, and when to checkpoint and log. folder: for checkpoints.

        parallel: how a step is distributed, if this process is rank 0 of several. clock: seconds, for ``curve``.
        """
        self.config, self._training = config, training
        self._folder, self._progress = folder, progress
        self._parallel, self._clock = parallel or EngineConfig(), clock
        self.curve: list[tuple[float, float]] = []
        """Seconds since the last call began, and validation ndcg@10, before training and after each epoch."""
        self.num_trained = 0
        """Number of language model parameters that the last call trained."""

    def __call__(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> LanguageEncoder | None:
        """Fine-tune on ``dataset``; returns the best model on ``validation``; None if no epoch improved it.

        Raises:
            DataError: no user chose two items with texts.
            ConfigError: the settings do not fit this model.
            StorageError: ``config.output`` exists and is something else.
            Interrupted: Ctrl-C; a checkpoint was written if there is a folder.
        """
        started, config = self._clock(), self.config
        tower = trainable_tower(language, config)
        if config.output is not None:
            check_output(tower, Path(config.output))
        leader = Leader(lambda: prepare(language, config, self._parallel)) if is_divided() else None
        self.num_trained = sum(parameter.numel() for parameter in trained_parameters(tower).values())
        texts = ItemTexts(dataset.item_catalogue.texts, language)
        companions = Companions(dataset, texts.tokens_I > 0)
        cache_bytes = int(config.cache_gib * 2**30) if config.cache else 0
        vectors = (
            TrainedVectors(tower, texts, language, cache_bytes)
            if leader is None
            else DividedVectors(tower, texts, language, leader)
        )
        items = ItemVectors(vectors, language.dimensions).to(language.device)
        parts = nn.ModuleDict({"language": tower, "vectors": items})
        # A checkpoint averages replicas that learn alone; at times of the clock, no two runs would be the same.
        averages = leader is not None and self._parallel.local_steps > 0
        loop = Loop(
            config,
            lambda: trained_parameters(parts) | {f"vectors.{name}": value for name, value in items.named_buffers()},
            folder=self._folder,
            run=self._fingerprint(language, dataset, validation),
            checkpoint_seconds=math.inf if averages else self._training.checkpoint_seconds,
            progress=self._progress,
            tracker=tracker_of(self._training),
        )
        if loop.resumed is None:
            items.start(companions.items)
        else:
            parts.load_state_dict(below("network.", loop.resumed[1]), strict=False)
        num_candidates = self._training.num_candidates
        task = AdaptationTask(parts, vectors, companions, validation, config, num_candidates, self._clock)
        loop.minimise(task)
        part()
        self.curve = [(moment - started, quality) for moment, quality in task.curve]
        if config.output is not None:
            save(tower, language, Path(config.output))
        if not loop.epochs[task.name]:
            Console(stderr=True, quiet=not self._progress).print(
                "adaptation: no epoch was better than the frozen model"
            )
            return None
        return LanguageEncoder(language.config, trained_weights(tower, language))

    def _fingerprint(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> str:
        parts = [
            asdict(replace(self.config, output=None, cache=True, cache_gib=0.0)),
            self._training.num_candidates,
            language.fingerprint,
            fingerprint(dataset),
            len(validation),
            int(validation.positives.values.sum()),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Companions:
    """Which items the users of an item also chose, of those with texts.

    items: int64, those that have companions, sorted. degrees: number of users of each item who chose several, ``[I]``.
    """

    def __init__(self, dataset: Dataset, readable_I: NDArray[np.bool_]) -> None:
        chosen_UI = sp.csr_array(training_matrix(dataset)) @ sp.diags_array(readable_I.astype(np.float32))
        chosen_UI.eliminate_zeros()
        chosen_UI = chosen_UI[np.diff(chosen_UI.indptr) > 1]
        others_U = np.diff(chosen_UI.indptr).astype(np.float32) - 1
        self._users_IU, self._shares_UI = chosen_UI.T.tocsr(), sp.diags_array(1 / others_U) @ chosen_UI
        self.degrees = np.diff(self._users_IU.indptr)
        self.items = np.flatnonzero(self.degrees)
        if not len(self.items):
            raise DataError("no user chose two items with texts, so there is nothing to adapt a language model to")

    def of(self, items: NDArray[np.int64]) -> sp.csr_array:
        """p(j | i) for each i of ``items``, csr ``[N, I]``."""
        shares_NI = sp.csr_array(self._users_IU[items] @ self._shares_UI)
        shares_NI.data[shares_NI.indices == np.repeat(items, np.diff(shares_NI.indptr))] = 0
        shares_NI.eliminate_zeros()
        return sp.csr_array(sp.diags_array(1 / shares_NI.sum(axis=1)) @ shares_NI)


class AdaptationTask:
    """Train the language model.

    parts: ``language``, the tower of ``vectors``, and ``vectors``, the most recent ones of all items.
    """

    name = "language model"
    counts_untrained = True

    def __init__(
        self,
        parts: nn.ModuleDict,
        vectors: TrainedVectors,
        companions: Companions,
        validation: HeldOut,
        config: AdaptationConfig,
        num_candidates: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.module: nn.Module = parts
        items = parts["vectors"]
        assert isinstance(items, ItemVectors)
        self._vectors, self._items, self._companions = vectors, items, companions
        self._evaluated = some(validation, MAX_EVALUATED)
        self._config, self._num_candidates = config, num_candidates
        self._tokens_I = vectors.texts.tokens_I
        tokens = self._tokens_I[companions.items]
        self._batches = TextBatches(companions.items, tokens, config.tokens_per_step, config.seed)
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._log_degrees = np.log(np.maximum(companions.degrees, 1)).astype(np.float32)
        self._is_fresh = True
        self._clock, self.curve = clock, list[tuple[float, float]]()
        """Clock time of each evaluation, and its result."""

    def optimizer(self) -> torch.optim.Optimizer:
        config, vectors = self._config, self._vectors
        trained = list(trained_parameters(vectors.tower).values())
        groups = [{"params": trained, "lr": config.rate, "weight_decay": config.weight_decay}]
        return DividedAdamW(groups, vectors) if isinstance(vectors, DividedVectors) else torch.optim.AdamW(groups)

    @property
    def sent(self) -> int:
        return self._vectors.sent

    def sizes(self, step: int) -> Mapping[str, int]:
        items = self._batches.at(step)
        return {"texts": len(items), "tokens": int(self._tokens_I[items].sum())}

    def loss(self, step: int) -> Tensor:
        rows, known_IE = self._batches.at(step), self._items.get_buffer("known")
        fresh_NE, self._is_fresh = self._items(rows), False
        candidates, share_NC, offset_C = self._compared(step, rows)

        def on_device(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(known_IE.device)

        places = on_device(np.searchsorted(candidates, rows))
        candidates_CE = known_IE[on_device(candidates)].index_copy(0, places, fresh_NE)
        known_IE[on_device(rows)] = fresh_NE.detach()
        scores_NC = fresh_NE @ candidates_CE.T / self._config.temperature + on_device(offset_C)
        scores_NC[torch.arange(len(rows)), places] = _OWN
        return cross_entropy(scores_NC, on_device(share_NC))

    def _compared(
        self, step: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Candidates C, sorted, the share of each as a companion ``[N, C]``, and what is added to its score."""
        items, shares_NI = self._companions.items, self._companions.of(rows)
        if len(items) <= self._num_candidates:
            return items, shares_NI[:, items].toarray(), self._log_degrees[items]
        random = np.random.default_rng((self._config.seed, 8, step))
        drawn_ND = np.stack([_drawn(shares_NI, row, random) for row in range(len(rows))])
        more = random.choice(items, max(self._num_candidates - len(rows), 0))
        # Items that a random order put into this step count as draws.
        candidates, log_chance = weighed(
            drawn_ND.ravel(), np.concatenate([rows, more]), len(items), self._companions.degrees
        )
        share_NC = np.zeros((len(rows), len(candidates)), np.float32)
        np.add.at(share_NC, (np.arange(len(rows))[:, None], np.searchsorted(candidates, drawn_ND)), 1 / _DRAWN)
        return candidates, share_NC, self._log_degrees[candidates] - log_chance

    def quality(self) -> float | None:
        self._vectors.fetch()
        if not self._is_fresh:
            self._items.refresh()
            self._is_fresh = True
        quality = checked_quality(self, self._evaluated)
        if quality is not None:
            self.curve.append((self._clock(), quality))
        return quality

    @torch.no_grad()
    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of all items by their similarity to the histories and their popularity, float32 ``[B, I]``."""
        known_IE = self._items.get_buffer("known")
        users_BE = propagate(mean_adjacency(users, len(known_IE)), known_IE)
        scores_BI: NDArray[np.float32] = (users_BE @ known_IE.T).cpu().numpy()
        scores_BI *= _INDEPENDENT / self._config.temperature
        scores_BI += self._log_degrees
        return scores_BI


def _drawn(shares_NI: sp.csr_array, row: int, random: np.random.Generator) -> NDArray[np.int32]:
    """``_DRAWN`` companions of an item, each by its share."""
    own = slice(*shares_NI.indptr[row : row + 2])
    shares = shares_NI.data[own].astype(np.float64)
    drawn: NDArray[np.int32] = random.choice(shares_NI.indices[own], _DRAWN, p=shares / shares.sum())
    return drawn
