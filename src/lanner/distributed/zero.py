"""The step by DeepSpeed: replicas that share the optimiser's state, gradients and weights among them.

ZeRO (Rajbhandari et al., SC 2020), stages 1 to 3. All else is that of ``Engine``.
"""

import logging
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lanner.distributed.chain import Chain
from lanner.distributed.config import EngineConfig
from lanner.distributed.engine import MOMENTS, Engine, Loss, trimmed
from lanner.distributed.synchroniser import Synchroniser
from lanner.errors import ConfigError, MissingExtraError, optional_module


def check_zero(config: EngineConfig) -> None:
    """Raises ``ConfigError`` for settings that are torch's alone, ``MissingExtraError`` without DeepSpeed."""
    degrees = config.degrees
    if degrees.world != degrees.replicas:
        raise ConfigError(f"parallel.engine=deepspeed takes replicas alone, not: {degrees.arithmetic}")
    for name in ("shares", "compression", "dense_steps", "ranks_per_rack", "balancing"):
        if getattr(config, name) != getattr(EngineConfig(), name):
            raise ConfigError(f"parallel.{name} is of parallel.engine=torch; leave it out, or use that engine")
    if find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed", "parallel.engine=deepspeed")


class ZeroEngine(Engine):
    """As ``Engine``, on replicas."""

    def __init__(
        self,
        chain: Chain,
        config: EngineConfig,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        device: torch.device | None = None,
    ) -> None:
        super().__init__(chain, config, optimizer, device)
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        deepspeed = optional_module("deepspeed", "deepspeed", "deepspeed", "parallel.engine=deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # Sums by its own shared memory would be compiled first, and told on stdout; those of gloo are there.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._utils = optional_module("deepspeed.utils", "deepspeed", "deepspeed", "parallel.engine=deepspeed")
        self._gathered = deepspeed.zero.GatheredParameters
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # which it does not look at, but to count
            "gradient_accumulation_steps": config.micro_batches,
            "gradient_clipping": 0.0,  # else it clips to 1
            "zero_optimization": {"stage": config.zero},
            "zero_allow_untested_optimizer": True,
        }
        self._zero, self._divided, *_ = deepspeed.initialize(
            model=self.stages[0], optimizer=self.optimizer, config=settings, dist_init_required=False
        )

    def set_state(self, steps: int, state: Sequence[Tensor]) -> None:
        # It has moments from its first step on; one at rate 0, by no gradient, makes them and changes nothing.
        groups = self._divided.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        token = torch.ones(self.micro_batches, 1, dtype=torch.int64, device=self.device)
        self._one_after_the_other(token, token, token, lambda out, _: 0.0 * out.sum())
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        super().set_state(steps, state)

    def _one_after_the_other(self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Loss) -> list[Tensor]:
        losses, count = [], self.micro_batches
        # It takes the mean over replicas and micro-batches, and we want the sum.
        scale = self.config.degrees.replicas * count
        for ids, mask, part in zip(ids_BL.chunk(count), mask_BL.chunk(count), target.chunk(count), strict=True):
            one = loss(self._zero(*trimmed(ids, mask)), part)
            self._zero.backward(one * scale)
            self._zero.step()
            losses.append(one.detach())
        return losses

    def _update(self) -> None:
        self.steps += 1

    def _make_synchroniser(self) -> Synchroniser | None:
        return None

    def _given_out(self, one: nn.Parameter) -> list[Tensor | None]:
        moments = [self._utils.safe_get_full_optimizer_state(one, name) for name in MOMENTS]
        return [self._utils.safe_get_full_fp32_param(one), *moments]

    def _take_over(self, one: nn.Parameter, full: Sequence[Tensor]) -> None:
        own, *moments = full
        with self._gathered([one], modifier_rank=0):
            one.copy_(own)
        self._utils.safe_set_full_fp32_param(one, own)
        for name, moment in zip(MOMENTS, moments, strict=True):
            self._utils.safe_set_full_optimizer_state(one, moment, name)
        known: dict[Any, Any] = self._divided.optimizer.state
        for state in known.values():
            state["step"] = torch.tensor(float(self.steps))
