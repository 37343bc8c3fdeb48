"""Which backend runs what, and when it will be free again."""

import math
from bisect import bisect_left, insort
from collections.abc import Mapping

from lanner.errors import ConfigError


class Station:
    """One backend: so many workers, each with at most one batch."""

    __slots__ = ("_ends", "name", "workers")

    def __init__(self, name: str, workers: int) -> None:
        self.name, self.workers = name, workers
        self._ends: list[float] = []

    @property
    def busy(self) -> int:
        """Batches that run."""
        return len(self._ends)

    @property
    def idle(self) -> bool:
        """Whether a batch could start now."""
        return len(self._ends) < self.workers

    def free_at(self, now: float) -> float:
        """When a batch could start, as predicted; ``now`` where it should have ended by now."""
        if self.idle:
            return now
        return max(now, self._ends[len(self._ends) - self.workers]) if self.workers else math.inf

    def remaining_s(self, now: float) -> float:
        """Seconds that all that runs will take yet, as predicted."""
        return sum([max(0.0, end - now) for end in self._ends])

    def overdue(self, now: float) -> bool:
        """Whether nothing is idle and what should have ended by now still runs: no prediction is left to trust."""
        return not self.idle and self.free_at(now) <= now

    def start(self, end: float) -> None:
        """A batch begins that is predicted to end at ``end``."""
        insort(self._ends, end)

    def finish(self, end: float) -> None:
        """The batch that was predicted to end at ``end`` has ended."""
        del self._ends[bisect_left(self._ends, end)]


def checked_workers(workers: Mapping[str, int]) -> Mapping[str, int]:
    """``workers``, if each count is at least 0 and one is above.

    Raises:
        ConfigError: otherwise.
    """
    if not workers or min(workers.values()) < 0 or not any(workers.values()):
        raise ConfigError(f"workers are {dict(workers)}; give counts of at least 0, one of them above")
    return workers
