"""Fine-tunes the language model on the interactions, end to end, through the text features and the language view.

A step encodes the texts of a few items with gradient. For all other items it uses the most recently computed features
(a cross-batch memory; Wang et al., CVPR 2020), so that whole histories are scored against the whole catalogue while
only the texts of a batch are encoded. The loss is that of the language view: items hidden from a history against all
others, or, for large catalogues, against a sample corrected for popularity (``losses.sampled_softmax``).

First only the view is trained, on the frozen model's vectors; then the model and the view are trained jointly.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.distributed.config import EngineConfig
from lanner.distributed.ranks import Leader, is_divided, part
from lanner.errors import DataError
from lanner.models.fusion import FUSIONS
from lanner.models.language import LanguageEncoder
from lanner.models.network import RecommenderNetwork
from lanner.models.neural import Adapted
from lanner.models.neural_config import NeuralConfig
from lanner.models.recommender import below
from lanner.models.text_features import TextFeatures
from lanner.models.views import LanguageView
from lanner.training.adapters import check_output, save, trainable_tower, trained_weights
from lanner.training.batches import TextBatches
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.divided import DividedAdamW, DividedVectors, prepare
from lanner.training.item_texts import ItemFeatures, ItemTexts, TrainedVectors
from lanner.training.loop import Loop, trained_parameters
from lanner.training.tasks import ViewTask
from lanner.training.tracking import tracker_of

_VIEW_EPOCHS = 10
"""Maximum epochs of training only the view."""
_ITEMS_AT_ONCE = 8192


class EncoderAdaptation:
    """Fine-tunes a language model on interactions; see ``models.neural.Adaptation``."""

    def __init__(
        self,
        config: AdaptationConfig,
        neural: NeuralConfig,
        training: TrainingConfig,
        folder: Path | None = None,
        progress: bool = True,
        parallel: EngineConfig | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """neural, training: settings of the text features and the view. folder: for checkpoints.

        parallel: how a step is distributed, if this process is rank 0 of several. clock: seconds, for ``curve``.
        """
        self.config, self._neural, self._training = config, neural, training
        self._folder, self._progress = folder, progress
        self._parallel, self._clock = parallel or EngineConfig(), clock
        self.curve: list[tuple[float, float]] = []
        """Seconds since the last call began, and validation ndcg@10, before joint training and after each epoch."""
        self.num_trained = 0
        """Number of language model parameters that the last call trained."""

    def __call__(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> Adapted | None:
        """Fine-tune on ``dataset``; returns the best model on ``validation``; None if no epoch improved it.

        Raises:
            DataError: no item with interactions has a text.
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
        texts, fitted, table_IF = _frozen_features(language, dataset, self._neural)
        features = ItemFeatures(fitted, table_IF[:, fitted.meaning_SED.shape[2] :])
        network = _language_network(dataset, table_IF, self._neural, config.seed).to(language.device)
        parts = nn.ModuleDict({"language": tower, "view": network.views["language"]})
        # A checkpoint averages replicas that learn alone; at times of the clock, no two runs would be the same.
        averages = leader is not None and self._parallel.local_steps > 0
        loop = Loop(
            config,
            lambda: trained_parameters(parts) | {"view.features": parts["view"].get_buffer("features")},
            folder=self._folder,
            run=self._fingerprint(language, dataset, validation),
            checkpoint_seconds=math.inf if averages else self._training.checkpoint_seconds,
            progress=self._progress,
            tracker=tracker_of(self._training),
        )
        if loop.resumed is not None:
            parts.load_state_dict(below("network.", loop.resumed[1]), strict=False)
        training = replace(self._training, batch_users=config.batch_users)
        objective = ViewTask(network, "language", dataset, validation, training)
        loop.minimise(objective, 0, _VIEW_EPOCHS)
        cache_bytes = int(config.cache_gib * 2**30) if config.cache else 0
        vectors = (
            TrainedVectors(tower, texts, language, cache_bytes)
            if leader is None
            else DividedVectors(tower, texts, language, leader)
        )
        seen = np.unique(dataset.histories.values)
        task = AdaptationTask(
            parts, vectors, features, objective, seen, config, self._training.learning_rate, self._clock
        )
        loop.minimise(task, 1)
        part()
        self.curve = [(moment - started, quality) for moment, quality in task.curve]
        if config.output is not None:
            save(tower, language, Path(config.output))
        if not loop.epochs[task.name]:
            Console(stderr=True, quiet=not self._progress).print(
                "adaptation: no epoch was better than the frozen model"
            )
            return None
        encoder = LanguageEncoder(language.config, trained_weights(tower, language))
        view = {name: value.detach().cpu() for name, value in trained_parameters(parts["view"]).items()}
        return Adapted(encoder, fitted, view)

    def _fingerprint(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> str:
        parts = [
            asdict(replace(self.config, output=None, cache=True, cache_gib=0.0)),
            asdict(self._neural),
            asdict(self._training.decisive),
            language.fingerprint,
            fingerprint(dataset),
            len(validation),
            int(validation.positives.values.sum()),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class AdaptationTask:
    """Train the language model and the view jointly with the loss of ``objective``.

    parts: ``language``, the tower of ``vectors``, and ``view``, which holds the most recent features of all items.
    seen: items with interactions; only their texts are trained on.
    """

    name = "language model"
    counts_untrained = True

    def __init__(
        self,
        parts: nn.ModuleDict,
        vectors: TrainedVectors,
        features: ItemFeatures,
        objective: ViewTask,
        seen: NDArray[np.integer],
        config: AdaptationConfig,
        view_rate: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.module: nn.Module = parts
        view = parts["view"]
        assert isinstance(view, LanguageView)
        self._view, self._vectors, self._texts = view, vectors, vectors.texts
        self._features, self._objective, self._config, self._view_rate = features, objective, config, view_rate
        self._tokens_I = self._texts.tokens_I
        readable = seen[self._tokens_I[seen] > 0]
        self._batches = TextBatches(readable, self._tokens_I[readable], config.tokens_per_step, config.seed)
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._is_fresh = True
        self._clock, self.curve = clock, list[tuple[float, float]]()
        """Clock time of each evaluation, and its result."""

    def optimizer(self) -> torch.optim.Optimizer:
        config, vectors = self._config, self._vectors
        groups = [
            {"params": _trained(vectors.tower), "lr": config.rate, "weight_decay": config.weight_decay},
            {"params": _trained(self._view), "lr": self._view_rate, "weight_decay": 0.0},
        ]
        return DividedAdamW(groups, vectors) if isinstance(vectors, DividedVectors) else torch.optim.AdamW(groups)

    @property
    def sent(self) -> int:
        return self._vectors.sent

    def sizes(self, step: int) -> Mapping[str, int]:
        items = self._batches.at(step)
        return {"texts": len(items), "tokens": int(self._tokens_I[items].sum())}

    def loss(self, step: int) -> Tensor:
        rows = self._batches.at(step)
        fresh_NF = self._features_of(rows)
        known_IF, self._is_fresh = self._view.get_buffer("features"), False
        places = torch.from_numpy(rows).to(known_IF.device)
        features_IF = known_IF.index_copy(0, places, fresh_NF)
        known_IF[places] = fresh_NF.detach()
        return self._objective.loss_by(self._view.read(features_IF), step, rows)

    def quality(self) -> float | None:
        self._vectors.fetch()
        self._refresh()
        quality = self._objective.quality()
        if quality is not None:
            self.curve.append((self._clock(), quality))
        return quality

    @torch.no_grad()
    def _refresh(self) -> None:
        """Recompute the features of all items."""
        if self._is_fresh:
            return
        self.module.eval()
        known_IF, readable = self._view.get_buffer("features"), np.flatnonzero(self._tokens_I)
        for first in range(0, len(readable), _ITEMS_AT_ONCE):
            rows = readable[first : first + _ITEMS_AT_ONCE]
            known_IF[torch.from_numpy(rows).to(known_IF.device)] = self._features_of(rows)
        self._is_fresh = True

    def _features_of(self, rows: NDArray[np.int64]) -> Tensor:
        places, inverse = np.unique(self._texts.place_IS[rows], return_inverse=True)
        blank = int(places[0] < 0)  # −1 sorts first, if present
        vectors_TE = self._vectors.of(places[blank:])
        features: Tensor = self._features(rows, inverse.reshape(len(rows), -1) - blank, vectors_TE)
        return features


def _frozen_features(
    language: LanguageEncoder, dataset: Dataset, config: NeuralConfig
) -> tuple[ItemTexts, TextFeatures, NDArray[np.float32]]:
    """The texts, the map from texts to features, and all items' features from the frozen model, ``[I, F]``."""
    texts = dataset.item_catalogue.texts
    known = [texts[row] for row in np.unique(dataset.histories.values) if texts[row].strip()]
    if not known:
        raise DataError("no item with interactions has a text, so there is nothing to adapt a language model to")
    vectors: dict[str, NDArray[np.float32]] = {}

    def encode(wanted: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(wanted) if text not in vectors]
        vectors.update(zip(new, language.encode(new, progress=len(new) > 512), strict=True))
        return np.stack([vectors[text] for text in wanted])

    fitted = TextFeatures.fit(known, encode, config.meaning_dimensions, config.word_dimensions)
    table_IF = fitted.transform(texts, encode)
    own = ItemTexts(texts, len(fitted.mean_SE), language)
    return own, fitted, table_IF


def _language_network(
    dataset: Dataset, table_IF: NDArray[np.float32], config: NeuralConfig, seed: int
) -> RecommenderNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        view = LanguageView(torch.from_numpy(table_IF), config.language_dimensions, config.feature_dropout, False)
    degrees = np.bincount(dataset.histories.values, minlength=dataset.num_items)
    return RecommenderNetwork(
        {"language": view}, FUSIONS["sum"]([config.language_dimensions]), degrees, dataset.num_users, 0, None
    )


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
