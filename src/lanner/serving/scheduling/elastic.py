"""How many workers there should be: up quickly, down slowly."""

import math
from dataclasses import dataclass

from lanner.errors import ConfigError


@dataclass(frozen=True)
class ElasticConfig:
    """Between which bounds, and at what load, the number of workers moves."""

    minimum: int = 1
    """Workers kept when nothing arrives."""
    maximum: int = 8
    """Workers at most."""
    waiting_per_worker: int = 32
    """Requests that may wait for each worker before another is started."""
    target: float = 0.7
    """Share of their time that workers should be busy."""
    grow_after_s: float = 0.5
    """Seconds between two steps up: a new worker must be seen to help before the next."""
    shrink_after_s: float = 10.0
    """Seconds for which fewer workers must have been enough before one is stopped."""

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum:
            received = f"minimum is {self.minimum} and maximum {self.maximum}"
            raise ConfigError(f"elastic.{received}; it must be that 0 < minimum <= maximum")
        if self.waiting_per_worker < 1:
            raise ConfigError(f"elastic.waiting_per_worker is {self.waiting_per_worker}, it must be at least 1")
        if not 0 < self.target < 1:
            raise ConfigError(f"elastic.target is {self.target}, it must be between 0 and 1")
        for name in ("grow_after_s", "shrink_after_s"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"elastic.{name} is {getattr(self, name)}, it must be above 0 and finite")


class Elastic:
    """The wanted number of workers of one backend; pure like the policy."""

    def __init__(self, config: ElasticConfig) -> None:
        self.workers = config.minimum
        self._config = config
        self._grown, self._fewer_since = -math.inf, math.inf

    def wanted(self, waiting: int, utilisation: float, misses: int, now: float) -> int:
        """Workers to have from now on.

        waiting: requests in the queue. utilisation: share of the workers' time that was busy since the last call, 0 to
        1. misses: requests rejected, dropped or answered too late since then. A miss alone asks for one worker more.
        """
        config = self._config
        by_queue = math.ceil(waiting / config.waiting_per_worker)
        by_time = math.ceil(self.workers * utilisation / config.target - 1e-9)
        by_misses = self.workers + 1 if misses else 0
        needed = min(max(by_queue, by_time, by_misses, config.minimum), config.maximum)
        if needed >= self.workers:
            self._fewer_since = math.inf
            if needed > self.workers and now - self._grown >= config.grow_after_s:
                self.workers, self._grown = needed, now
        else:
            self._fewer_since = min(self._fewer_since, now)
            if now - self._fewer_since >= config.shrink_after_s:
                self.workers, self._fewer_since = self.workers - 1, now
        return self.workers
