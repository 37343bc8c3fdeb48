"""What all ways of training a language model on interactions have in common.

A step encodes the texts of a few items with gradient. For all other items it uses the most recently computed rows (a
cross-batch memory; Wang et al., CVPR 2020), so that the whole catalogue takes part while only the texts of a batch are
encoded.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.models.language import LanguageEncoder
from lanner.models.neural import Adapted
from lanner.training.batches import TextBatches
from lanner.training.config import AdaptationConfig
from lanner.training.divided import DividedAdamW, DividedVectors
from lanner.training.item_texts import TrainedVectors
from lanner.training.loop import Loop, trained_parameters

_ITEMS_AT_ONCE = 8192


class AdaptationTask(ABC):
    """Train the language model of ``vectors`` on the texts of ``items``.

    module: ``language``, the tower of ``vectors``, and what is trained or remembered besides.
    """

    name = "language model"
    counts_untrained = True
    module: nn.Module

    def __init__(
        self,
        vectors: TrainedVectors,
        items: NDArray[np.integer],
        config: AdaptationConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._vectors, self._config, self._tokens_I = vectors, config, vectors.texts.tokens_I
        self._batches = TextBatches(items, self._tokens_I[items], config.tokens_per_step, config.seed)
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._is_fresh = True
        self._clock, self.curve = clock, list[tuple[float, float]]()
        """Clock time of each evaluation, and its result."""

    @abstractmethod
    def begin(self, loop: Loop) -> None:
        """Do what precedes the training of the language model, unless ``loop`` resumes after it."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """The scalar to minimise."""

    @abstractmethod
    def adapted(self, encoder: LanguageEncoder) -> Adapted:
        """The result; encoder: the trained language model."""

    @property
    @abstractmethod
    def _known(self) -> Tensor:
        """The most recent row of each item, ``[I, X]``."""

    @abstractmethod
    def _read(self, items: NDArray[np.int64]) -> Tensor:
        """Rows of some items from the current language model, ``[N, X]``, with gradient if enabled."""

    @abstractmethod
    def _measured(self) -> float | None:
        """ndcg@10 on validation, from the known rows; None if there are no validation users."""

    def _groups(self) -> list[dict[str, object]]:
        """Parameter groups of the optimiser, the language model's first."""
        trained = list(trained_parameters(self._vectors.tower).values())
        return [{"params": trained, "lr": self._config.rate, "weight_decay": self._config.weight_decay}]

    def optimizer(self) -> torch.optim.Optimizer:
        groups, vectors = self._groups(), self._vectors
        return DividedAdamW(groups, vectors) if isinstance(vectors, DividedVectors) else torch.optim.AdamW(groups)

    @property
    def sent(self) -> int:
        return self._vectors.sent

    def sizes(self, step: int) -> Mapping[str, int]:
        items = self._batches.at(step)
        return {"texts": len(items), "tokens": int(self._tokens_I[items].sum())}

    def _remember(self, items: NDArray[np.int64], rows_NX: Tensor) -> None:
        known_IX, self._is_fresh = self._known, False
        known_IX[torch.from_numpy(items).to(known_IX.device)] = rows_NX.detach()

    def quality(self) -> float | None:
        self._vectors.fetch()
        if not self._is_fresh:
            self.refresh()
        quality = self._measured()
        if quality is not None:
            self.curve.append((self._clock(), quality))
        return quality

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the rows of all items."""
        self.module.eval()
        readable = np.flatnonzero(self._tokens_I)
        for first in range(0, len(readable), _ITEMS_AT_ONCE):
            items = readable[first : first + _ITEMS_AT_ONCE]
            self._remember(items, self._read(items))
        self._is_fresh = True
