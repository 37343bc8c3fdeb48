"""How a training step is divided: settings, read by everyone, torch or not."""

from dataclasses import dataclass, field
from typing import Literal

from lanner.distributed.degrees import Degrees
from lanner.errors import ConfigError

Offload = Literal["none", "optimizer", "weights"]


@dataclass(frozen=True)
class EngineConfig:
    """How a training step of the language model is divided over several devices."""

    degrees: Degrees = field(default_factory=Degrees)
    schedule: str = "1f1b"
    """Pipeline schedule: gpipe, 1f1b, looped-bfs, interleaved, zero-bubble, zbv or dualpipev."""
    micro_batches: int = 1
    """Parts of a rank's batch that go through the pipeline one after the other."""
    bounds: tuple[int, ...] | None = None
    """Layers at which stages begin, and the last one's end; None: equal parts."""
    shares: tuple[int, ...] | None = None
    """Micro-batches of each replica, for replicas of unequal speed; None: ``micro_batches`` each."""
    checkpointing: bool = False
    """Keep no activations inside layers; compute them again."""
    compile: bool = False
    """Compile each layer."""
    compression: str = "none"
    """Of gradients between replicas, or of averages: none, fp16, int8, sign, topk:FRACTION or powersgd:RANK."""
    dense_steps: int = 0
    """Steps without compression at the beginning."""
    ranks_per_rack: int = 0
    """Replicas in one rack, whose gradients are summed before they are compressed; 0: no hierarchy."""
    local_steps: int = 0
    """Steps that replicas take alone between averages of their weights (DiLoCo); 0: gradients are summed each step."""
    engine: Literal["torch", "deepspeed"] = "torch"
    """What takes the step: torch, or DeepSpeed (extra ``deepspeed``; no shards)."""
    zero: Literal[1, 2, 3] = 1
    """What deepspeed divides over the replicas: the optimiser's state (1), gradients, too (2), weights, too (3)."""
    offload: Offload = "none"
    """What deepspeed keeps in the processor's memory: none, the optimiser's state, or weights, too (zero 3)."""
    balancing: bool = False
    """Move layers between the stages of a pipeline as their times are measured."""
    restarts: int = 3
    """How often all ranks begin again from the checkpoint after one of them was killed."""
    step_timeout: float = 1800.0
    """Seconds that a step may take: then the run ends and names the rank that hangs. 0: no limit."""

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
            raise ConfigError(f"parallel.shares must be numbers from 1 up, received {list(self.shares)}")
        if self.offload != "none" and self.engine != "deepspeed":
            raise ConfigError(f"parallel.offload={self.offload} needs parallel.engine=deepspeed")
        if self.offload == "weights" and self.zero != 3:
            raise ConfigError(f"parallel.offload=weights needs parallel.zero=3, received {self.zero}")

    def check_local_steps(self) -> None:
        """Raises ``ConfigError`` where replicas cannot take steps alone."""
        if not self.local_steps:
            return
        degrees = self.degrees
        if degrees.replicas == 1 or degrees.shards > 1 or degrees.tensor > 1:
            raise ConfigError(
                f"parallel.local_steps={self.local_steps} needs replicas, each with whole layers, received: "
                f"{degrees.arithmetic}"
            )
        for name in ("shares", "dense_steps", "ranks_per_rack", "balancing"):
            if getattr(self, name):
                raise ConfigError(f"parallel.{name} and parallel.local_steps exclude each other; leave one out")
