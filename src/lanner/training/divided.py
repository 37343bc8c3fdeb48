"""Distributed adaptation: the language model split over several ranks, behind the interface of a single process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.distributed.chain import Chain, Stage, chain_of
from lanner.distributed.config import EngineConfig
from lanner.distributed.engine import MOMENTS, Engine
from lanner.distributed.ranks import Leader
from lanner.distributed.zero import ZeroEngine, check_zero
from lanner.errors import ConfigError
from lanner.models.language import LanguageEncoder
from lanner.models.text_tower import TextTower
from lanner.training.adapters import trainable_tower
from lanner.training.config import AdaptationConfig
from lanner.training.item_texts import ItemTexts, TrainedVectors


def prepare(language: LanguageEncoder, config: AdaptationConfig, parallel: EngineConfig) -> Callable[[], Engine]:
    """Read the language model on this rank; returns a factory of the engine, to be called on all ranks.

    Raises:
        ConfigError: the model or settings cannot be distributed. MissingExtraError: a package is not installed.
    """
    degrees = parallel.degrees
    if config.base_bits != 32 and degrees.world != degrees.replicas:
        raise ConfigError(
            f"adaptation.base_bits={config.base_bits} can only be replicated, received: {degrees.arithmetic}"
        )
    # Trained and frozen weights are sharded together, so both are float32; the arithmetic follows the settings.
    chain = _chain_of(trainable_tower(language, config, torch.float32))

    def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        # foreach cannot mix tensors and DTensors.
        return torch.optim.AdamW(parameters, config.rate, weight_decay=config.weight_decay, foreach=False)

    parallel = replace(parallel, checkpointing=parallel.checkpointing or config.checkpointing)
    if parallel.engine == "deepspeed":
        check_zero(parallel)
    kind = ZeroEngine if parallel.engine == "deepspeed" else Engine
    return lambda: kind(chain, parallel, adamw, language.device)


class DividedVectors(TrainedVectors):
    """Vectors computed by all ranks. The tower holds the weights as last fetched."""

    def __init__(self, tower: TextTower, texts: ItemTexts, language: LanguageEncoder, leader: Leader) -> None:
        super().__init__(tower, texts, language)
        chain = _chain_of(tower)
        named = Stage(chain, 0, len(chain.layers)).named_parameters()
        self._trained = {name: one for name, one in named if one.requires_grad}
        self._leader = leader
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None
        self._has_learned = False

    @property
    def sent(self) -> int:
        return self._leader.engine.sent

    def of(self, places: NDArray[np.int64]) -> Tensor:
        if not torch.is_grad_enabled():
            return super().of(places)
        ids_BL, mask_BL = self._padded(places)
        vectors_BD = self._leader.vectors(ids_BL, mask_BL, to_learn=True).requires_grad_()
        self._batch = (ids_BL, mask_BL, vectors_BD)
        return vectors_BD

    def learn(self) -> None:
        """A step on all ranks from the gradient of the last vectors."""
        assert self._batch is not None
        ids_BL, mask_BL, vectors_BD = self._batch
        assert vectors_BD.grad is not None
        self._leader.learn(ids_BL, mask_BL, vectors_BD.grad)
        self._batch, self._has_learned = None, True

    @torch.no_grad()
    def fetch(self) -> dict[nn.Parameter, dict[str, Tensor]]:
        """As in ``TrainedVectors``; returns the optimiser moments by parameter, empty before the first step."""
        if not self._has_learned:
            return {}
        state = self._leader.state()
        for name, (value, *_) in state.items():
            self._trained[name].copy_(value)
        return {self._trained[name]: dict(zip(MOMENTS, moments, strict=True)) for name, (_, *moments) in state.items()}

    def hand_out(self, steps: int, state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Broadcast the tower's weights and the moments after ``steps`` steps to all ranks."""
        self._leader.set_state(
            steps,
            {name: [one.detach(), *(state[one][moment] for moment in MOMENTS)] for name, one in self._trained.items()},
        )

    def _encoded(self, places: NDArray[np.int64]) -> Tensor:
        return self._leader.vectors(*self._padded(places))


class DividedAdamW(torch.optim.AdamW):
    """AdamW for local parameters and for a tower whose parameters and moments are distributed over all ranks.

    Its state dict is that of a single process, so that any number of ranks can resume from a checkpoint.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], vectors: DividedVectors) -> None:
        super().__init__(groups)
        self._vectors, self._steps = vectors, 0

    def step(self, closure: Any = None) -> Any:
        self._vectors.learn()
        self._steps += 1
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        for parameter, moments in self._vectors.fetch().items():
            self.state[parameter] = {"step": torch.tensor(float(self._steps)), **moments}
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._steps = max(int(one["step"]) for one in self.state.values())
        self._vectors.hand_out(self._steps, self.state)


def _chain_of(tower: TextTower) -> Chain:
    return chain_of(tower.model, tower.pooled, tower.in_bfloat16)
