"""An engine whose step is DeepSpeed's; everything else is as in ``Engine``.

Replicas shard optimiser state, gradients and weights: ZeRO (Rajbhandari et al., SC 2020), stages 1 to 3, with offload.
Layers are sharded by DeepSpeed's AutoTP with our plan; stages are run by its pipeline engine.
"""

import io
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lanner.distributed.chain import Chain, Stage
from lanner.distributed.config import EngineConfig
from lanner.distributed.engine import MOMENTS, Engine, Loss, trimmed
from lanner.distributed.pipeline import Pipeline
from lanner.distributed.synchroniser import Synchroniser
from lanner.distributed.tensor import COLUMNS, PER_HEAD_NORMS, ROWS
from lanner.errors import ConfigError, MissingExtraError, optional_module


def check_zero(config: EngineConfig) -> None:
    """Raises ``ConfigError`` for settings that only torch supports, ``MissingExtraError`` without DeepSpeed."""
    degrees, order = config.degrees, config.degrees.order
    engine = "parallel.engine=deepspeed"
    if degrees.shards > 1:
        raise ConfigError(f"{engine} takes parallel.zero=3 in place of shards, received: {degrees.arithmetic}")
    if degrees.pipeline > 1 and degrees.tensor > 1:
        raise ConfigError(f"{engine} takes pp or tp, received both: {degrees.arithmetic}; use parallel.engine=torch")
    if degrees.pipeline > 1 and config.zero > 1:
        raise ConfigError(f"DeepSpeed's pipeline supports only parallel.zero=1, received {config.zero}; use pp 1")
    if degrees.pipeline > 1 and config.schedule != "1f1b":
        raise ConfigError(f"DeepSpeed's pipeline supports only the schedule 1f1b, received {config.schedule}")
    if degrees.tensor > 1 and degrees.replicas > 1 and order.index("tp") < order.index("replicate"):
        raise ConfigError(f"DeepSpeed's tp is inside replicas, received: {degrees.arithmetic}; write replicate first")
    for name in ("shares", "compression", "dense_steps", "ranks_per_rack", "local_steps", "balancing"):
        if getattr(config, name) != getattr(EngineConfig(), name):
            raise ConfigError(f"parallel.{name} needs parallel.engine=torch; leave it out, or use that engine")
    if find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed", engine)


class ZeroEngine(Engine):
    """``Engine`` on DeepSpeed."""

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
        deepspeed = _module("deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # Its shared-memory collectives would be compiled first, with output on stdout; gloo's suffice.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._utils = _module("deepspeed.utils")
        self._gathered = deepspeed.zero.GatheredParameters
        model: nn.Module = self.stages[self._mine[0]]
        with redirect_stdout(io.StringIO()):  # its pipeline prints seeds
            if self._pipeline is not None:
                deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)
                model = _pipeline_module(self)
            self._zero, self._divided, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=self._settings(), dist_init_required=False
            )
        if self._pipeline is not None:
            self._pipeline = _Pipeline(self._pipeline, self._zero, config.degrees.replicas)

    def set_state(self, steps: int, state: Sequence[Tensor]) -> None:
        # DeepSpeed creates moments in its first step; one with rate 0 and zero gradient creates them without effect.
        groups = self._divided.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        token = torch.ones(self.micro_batches, 1, dtype=torch.int64, device=self.device)
        self._run(token, token, token, lambda out, _: 0.0 * out.sum(), 1.0)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        super().set_state(steps, state)

    def _with_gradient(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        vectors_BD: Tensor = self._zero(*trimmed(ids_BL, mask_BL))
        return vectors_BD

    def _backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over replicas and micro-batches; we want the sum.
        self._zero.backward(loss * (self.config.degrees.replicas * self.micro_batches))
        self._zero.step()

    def _update(self) -> None:
        self.steps += 1

    def _divide_layers(self) -> None:
        # DeepSpeed shards them during initialisation.
        if any(".base_layer." in name for name, _ in self.chain.layers.named_parameters()):
            raise ConfigError(
                "DeepSpeed's AutoTP treats a layer with an adapter as a plain one and drops the adapter; "
                "set adaptation.method=full, or use parallel.engine=torch, whose tp divides adapters too"
            )

    def _make_synchroniser(self) -> Synchroniser | None:
        return None

    def _gather_state(self, name: str, one: nn.Parameter) -> list[Tensor | None]:
        moments = [self._utils.safe_get_full_optimizer_state(one, moment) for moment in MOMENTS]
        parts = [self._utils.safe_get_full_fp32_param(one), *moments]
        return [None if part is None else self._all_gather(part, self.whole_shapes[name]) for part in parts]

    def _load_state(self, one: nn.Parameter, full: Sequence[Tensor]) -> None:
        with self._gathered([one], modifier_rank=0):
            own, *moments = [self._own_shard(whole, one.shape) for whole in full]
            one.copy_(own)
        self._utils.safe_set_full_fp32_param(one, own)
        for name, moment in zip(MOMENTS, moments, strict=True):
            self._utils.safe_set_full_optimizer_state(one, moment, name)
        known: dict[Any, Any] = self._divided.optimizer.state
        for state in known.values():
            state["step"] = torch.tensor(float(self.steps))

    def _settings(self) -> dict[str, Any]:
        """The configuration that DeepSpeed reads."""
        config = self.config
        zero: dict[str, Any] = {"stage": config.zero}
        for name, kinds in (("offload_optimizer", ("optimizer", "weights")), ("offload_param", ("weights",))):
            if config.offload in kinds:
                zero[name] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # only used for bookkeeping
            "gradient_accumulation_steps": config.micro_batches,
            "gradient_clipping": 0.0,  # else it clips to 1
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # its own AdamW would be compiled first
            "steps_per_print": None,
        }
        if config.degrees.tensor > 1:
            specs = {"use_default_specs": False, "layer_specs": self._plan()}
            settings["tensor_parallel"] = {"autotp_size": config.degrees.tensor, "partition_config": specs}
        return settings

    def _plan(self) -> list[dict[str, Any]]:
        """AutoTP's partition rules, equivalent to ``tensor.divide_layer``."""
        family = self.chain.family
        norms = [name for name in self.trained() if PER_HEAD_NORMS & set(name.split("."))]
        return [
            {
                "patterns": [rf"layers\.\d+\.{re.escape(name)}\.weight$" for name in COLUMNS[family]],
                "partition_type": "column",
            },
            {
                "patterns": [rf"layers\.\d+\.{re.escape(name)}\.weight$" for name in ROWS[family]],
                "partition_type": "row",
            },
            {"patterns": [re.escape(name) for name in norms], "partition_type": "skip", "grad_allreduce": True},
        ]

    def _all_gather(self, part: Tensor, shape: torch.Size) -> Tensor:
        """All-gather a tensor that AutoTP sharded."""
        axis = _divided_axis(part.shape, shape)
        if axis is None:
            return part
        parts = [torch.empty_like(part) for _ in range(self.config.degrees.tensor)]
        dist.all_gather(parts, part.contiguous(), group=self.mesh["tp"].get_group())
        return torch.cat(parts, axis)

    def _own_shard(self, whole: Tensor, shape: torch.Size) -> Tensor:
        """This rank's shard of a tensor that AutoTP shards."""
        axis = _divided_axis(shape, whole.shape)
        return whole if axis is None else whole.chunk(self.config.degrees.tensor, axis)[self.at["tp"]]


class _Pipeline(Pipeline):
    """Steps run by DeepSpeed's pipeline engine; gradient-free passes go through the stages as in the base class."""

    def __init__(self, plain: Pipeline, engine: Any, replicas: int) -> None:
        super().__init__(plain.stages, plain.num_stages, plain.kind, plain.micro_batches, plain.group, plain.device)
        self._engine, self._replicas = engine, replicas

    def step(self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Loss) -> list[Tensor]:
        losses, count = [], self.micro_batches

        def scaled(out: Tensor, part: Tensor) -> Tensor:
            one = loss(out, part)
            losses.append(one.detach())
            return one * (self._replicas * count)  # DeepSpeed averages, as above

        self._engine.module.loss_fn = scaled
        batches = zip(ids_BL.chunk(count), mask_BL.chunk(count), target.chunk(count), strict=True)
        self._engine.train_batch((trimmed(ids, mask), part) for ids, mask, part in batches)
        return losses


class _Link(nn.Module):
    """Wraps a stage for DeepSpeed's pipeline: the mask is passed along with the hidden states."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, given: tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        out: Tensor = self.stage(*given)
        return out if self.stage.ends else (out, given[1])


def _pipeline_module(engine: Engine) -> nn.Module:
    """A pipeline module with this rank's stage; other ranks' stages are placeholders."""
    pipe, degrees = _module("deepspeed.pipe"), engine.config.degrees
    axes = {"pp": "pipe", "replicate": "data"}
    order = [axis for axis in degrees.order if axis in axes]
    topology = _module("deepspeed.runtime.pipe.topology").ProcessTopology(
        [axes[axis] for axis in order], [degrees.of(axis) for axis in order]
    )
    links = [_Link(engine.stages[at]) if at in engine.stages else nn.Identity() for at in range(degrees.pipeline)]
    module: nn.Module = pipe.PipelineModule(links, topology=topology, partition_method="uniform", dynamic_shape=True)
    module.train = lambda mode=True: module  # type: ignore[method-assign]  # dropout stays as the tower has it
    return module


def _divided_axis(part: torch.Size, whole: torch.Size) -> int | None:
    return next((axis for axis, (some, all_) in enumerate(zip(part, whole, strict=True)) if some != all_), None)


def _module(name: str) -> Any:
    return optional_module(name, "deepspeed", "deepspeed", "parallel.engine=deepspeed")
