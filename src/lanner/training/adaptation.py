"""Fine-tunes the language model on the interactions, before its vectors are used.

What it learns from them: ``histories`` or ``companions``; how it is trained: ``adaptation_task``.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.distributed.config import EngineConfig
from lanner.distributed.ranks import Leader, is_divided, part
from lanner.models.language import LanguageEncoder
from lanner.models.neural import Adapted
from lanner.models.neural_config import NeuralConfig
from lanner.models.recommender import below
from lanner.training.adaptation_task import AdaptationTask
from lanner.training.adapters import check_output, save, trainable_tower, trained_weights
from lanner.training.companions import CompanionsTask
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.divided import DividedVectors, prepare
from lanner.training.histories import HistoriesTask
from lanner.training.item_texts import ItemTexts, TrainedVectors
from lanner.training.loop import Loop, trained_parameters
from lanner.training.tracking import tracker_of


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
        """Seconds since the last call began, and validation ndcg@10, before training and after each epoch."""
        self.num_trained = 0
        """Number of language model parameters that the last call trained."""

    def __call__(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> Adapted | None:
        """Fine-tune on ``dataset``; returns the best model on ``validation``; None if no epoch improved it.

        Raises:
            DataError: no item with interactions has a text, or, for companions, no user chose two such items.
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
        cache_bytes = int(config.cache_gib * 2**30) if config.cache else 0

        def vectors_of(texts: ItemTexts) -> TrainedVectors:
            if leader is None:
                return TrainedVectors(tower, texts, language, cache_bytes)
            return DividedVectors(tower, texts, language, leader)

        given, training = (dataset, validation, language, vectors_of, config), self._training
        task: AdaptationTask = (
            CompanionsTask(*given, training.num_candidates, self._clock)
            if config.objective == "companions"
            else HistoriesTask(*given, self._neural, training, self._clock)
        )
        # A checkpoint averages replicas that learn alone; at times of the clock, no two runs would be the same.
        averages = leader is not None and self._parallel.local_steps > 0
        loop = Loop(
            config,
            lambda: trained_parameters(task.module) | _remembered(task.module),
            folder=self._folder,
            run=self._fingerprint(language, dataset, validation),
            checkpoint_seconds=math.inf if averages else training.checkpoint_seconds,
            progress=self._progress,
            tracker=tracker_of(training),
        )
        if loop.resumed is not None:
            task.module.load_state_dict(below("network.", loop.resumed[1]), strict=False)
        task.begin(loop)
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
        return task.adapted(LanguageEncoder(language.config, trained_weights(tower, language)))

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


def _remembered(module: nn.Module) -> dict[str, Tensor]:
    """What a task computed of the items, by name; the language model's own buffers are constants."""
    return {name: value for name, value in module.named_buffers() if not name.startswith("language.")}
