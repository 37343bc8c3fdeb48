"""Settings of distributed training; importable without torch."""

from dataclasses import dataclass, field
from typing import Literal

from lanner.distributed.degrees import Degrees
from lanner.errors import ConfigError

Offload = Literal["none", "optimizer", "weights"]


@dataclass(frozen=True)
class AveragingConfig:
    """How replicas average their weights."""

    local_steps: int = 20
    """Round length: batches between two averages of the same weights."""
    outer_rate: float = 0.7
    """Learning rate of the outer optimiser; 1 with momentum 0 is local SGD."""
    outer_momentum: float = 0.5
    """Nesterov momentum of the outer optimiser."""
    fragments: int = 1
    """Parts of the weights, averaged in turn and evenly spread over a round."""
    delay: int = 0
    """Batches between sending a fragment and applying its average, to overlap communication; 0: wait for it."""
    compression: str = "none"
    """Compression of what is sent; see ``compressors.compressor_of``."""

    def __post_init__(self) -> None:
        if self.local_steps < 1 or self.fragments < 1 or self.local_steps % self.fragments:
            raise ConfigError(
                f"local_steps={self.local_steps} must be a positive multiple of fragments={self.fragments}"
            )
        each = self.local_steps // self.fragments
        if not 0 <= self.delay < each:
            raise ConfigError(f"delay={self.delay} must be below local_steps / fragments = {each}")
        if not self.outer_rate > 0:  # nor a NaN
            raise ConfigError(f"outer_rate={self.outer_rate:g} must be above 0")
        if not 0 <= self.outer_momentum < 1:
            raise ConfigError(f"outer_momentum={self.outer_momentum:g} must be at least 0 and below 1")


@dataclass(frozen=True)
class EngineConfig:
    """How a training step of the language model is distributed over several devices."""

    degrees: Degrees = field(default_factory=Degrees)
    schedule: str = "1f1b"
    """Pipeline schedule: gpipe, 1f1b, looped-bfs, interleaved, zero-bubble, zbv or dualpipev."""
    micro_batches: int = 1
    """Micro-batches of each rank's part of a batch. With local_steps and without pipeline, each is a step."""
    bounds: tuple[int, ...] | None = None
    """Indices of the first layer of each stage, then the end of the last one; default: equal stages."""
    shares: tuple[int, ...] | None = None
    """Micro-batches of each replica, for replicas of unequal speed; default: ``micro_batches`` each."""
    checkpointing: bool = False
    """Activation checkpointing: recompute activations inside layers instead of keeping them."""
    compile: bool = False
    """Compile each layer."""
    compression: str = "none"
    """Compression of gradients or averages between replicas: none, fp16, int8, sign, topk:FRACTION or powersgd:RANK."""
    dense_steps: int = 0
    """Number of initial steps without compression."""
    ranks_per_rack: int = 0
    """Replicas per rack, whose gradients are summed before compression; 0: no hierarchy."""
    local_steps: int = 0
    """Batches between weight averages, which replicas learn from alone (DiLoCo); 0: gradients are summed each step."""
    outer_rate: float = 0.7
    """Learning rate of the averages (outer optimiser); with 1 and momentum 0 they are plain means (local SGD)."""
    outer_momentum: float = 0.5
    """Nesterov momentum of the averages."""
    fragments: int = 1
    """Parts of the weights, averaged in turn within each round of local steps (streaming DiLoCo)."""
    delay: int = 0
    """Batches learned from while a fragment is being averaged; 0: replicas wait for each average."""
    engine: Literal["torch", "deepspeed"] = "torch"
    """Training engine: torch, or DeepSpeed (extra ``deepspeed``; no shards)."""
    zero: Literal[1, 2, 3] = 1
    """ZeRO stage of deepspeed: shard over replicas the optimiser state (1), also gradients (2), also weights (3)."""
    offload: Offload = "none"
    """What deepspeed offloads to CPU memory: none, the optimiser state, or also the weights (zero 3)."""
    balancing: bool = False
    """Move layers between pipeline stages, and micro-batches between replicas, according to measured times."""
    restarts: int = 3
    """Maximum number of times that all ranks restart from the checkpoint after one of them was killed."""
    step_timeout: float = 1800.0
    """Maximum seconds per step; after that the run ends and names the hanging rank. 0: no limit."""

    def __post_init__(self) -> None:
        for name, least in (
            ("micro_batches", 1),
            ("dense_steps", 0),
            ("ranks_per_rack", 0),
            ("local_steps", 0),
            ("restarts", 0),
            ("step_timeout", 0),
        ):
            if not getattr(self, name) >= least:  # nor a NaN
                raise ConfigError(f"parallel.{name} must be at least {least}, received {getattr(self, name)}")
        if self.shares is not None and min(self.shares, default=0) < 1:
            raise ConfigError(f"parallel.shares must be numbers of at least 1, received {list(self.shares)}")
        if self.offload != "none" and self.engine != "deepspeed":
            raise ConfigError(f"parallel.offload={self.offload} needs parallel.engine=deepspeed")
        if self.offload == "weights" and self.zero != 3:
            raise ConfigError(f"parallel.offload=weights needs parallel.zero=3, received {self.zero}")

    def averaging(self) -> AveragingConfig:
        """How replicas with ``local_steps`` average; raises ``ConfigError`` for settings that do not fit together."""
        return AveragingConfig(
            self.local_steps, self.outer_rate, self.outer_momentum, self.fragments, self.delay, self.compression
        )

    def check(self) -> None:
        """Raises ``ConfigError`` for incompatible settings, whatever the model."""
        degrees = self.degrees
        if self.shares is not None and (len(self.shares) != degrees.replicas or degrees.shards > 1):
            raise ConfigError(
                f"parallel.shares={list(self.shares)}: give one number for each replica, and shard 1, received: "
                f"{degrees.arithmetic}"
            )
        if self.ranks_per_rack and degrees.replicas % self.ranks_per_rack:
            raise ConfigError(
                f"parallel.ranks_per_rack={self.ranks_per_rack} does not divide the {degrees.replicas} replicas"
            )
        if self.local_steps:
            self._check_local_steps()

    def _check_local_steps(self) -> None:
        degrees = self.degrees
        if degrees.replicas == 1 or degrees.shards > 1 or degrees.tensor > 1:
            raise ConfigError(
                f"parallel.local_steps={self.local_steps} needs replicas, each with whole layers, received: "
                f"{degrees.arithmetic}"
            )
        for name in ("dense_steps", "ranks_per_rack"):
            if getattr(self, name):
                raise ConfigError(f"parallel.{name} and parallel.local_steps exclude each other; leave one out")
        try:
            self.averaging()
        except ConfigError as error:
            raise ConfigError(f"parallel.{error}") from error
