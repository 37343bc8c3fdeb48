"""Settings of the scheduler."""

import math
from dataclasses import dataclass

from lanner.errors import ConfigError


@dataclass(frozen=True)
class SchedulerConfig:
    """How the elastic scheduler weighs load, deadlines and quality."""

    queue_limit: int = 4096
    """Requests that may wait; further ones are rejected whatever their deadline."""
    full_at: float = 0.95
    """Share of a variant's throughput that arrivals may take; above it the next variant down serves."""
    climb_below: float = 0.8
    """Share of the better variant's throughput below which arrivals must stay before it serves again."""
    climb_after_s: float = 0.5
    """Seconds for which that must hold, for each variant climbed."""
    rate_memory_s: float = 0.5
    """Seconds over which the rate of arrivals is averaged (time constant of the exponential decay)."""
    patience: float = 0.25
    """Share of a request's slack that may pass while its batch grows; 0: a batch starts as soon as a worker is idle."""
    plan_every_s: float = 0.05
    """Seconds after which throughputs are computed anew from corrected times and current deadlines."""

    def __post_init__(self) -> None:
        if self.queue_limit < 1:
            raise ConfigError(f"scheduler.queue_limit is {self.queue_limit}, it must be at least 1")
        if not 0 < self.climb_below < self.full_at <= 1:
            received = f"climb_below is {self.climb_below} and full_at {self.full_at}"
            raise ConfigError(f"scheduler.{received}; it must be that 0 < climb_below < full_at <= 1")
        if not 0 <= self.patience <= 1:
            raise ConfigError(f"scheduler.patience is {self.patience}, it must be from 0 to 1")
        for name in ("climb_after_s", "rate_memory_s", "plan_every_s"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"scheduler.{name} is {getattr(self, name)}, it must be above 0 and finite")
