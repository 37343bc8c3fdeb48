"""How long events are kept, and how many of a user: what a server deletes from its store now and then."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lanner.errors import ConfigError
from lanner.serving.store.relational import Store


@dataclass(frozen=True)
class RetentionConfig:
    """What is deleted from the store, and how often. What a bundle was trained on stays in the bundle."""

    days: float = 0.0
    """Events, and what experiments showed, are deleted when older than this; 0: kept forever."""
    events_per_user: int = 0
    """A user's newest events that are kept, the others are deleted; 0: all are kept."""
    every_minutes: float = 60.0
    """Between the end of one deletion and the next."""

    def __post_init__(self) -> None:
        for name in ("days", "events_per_user"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"retention.{name} is {getattr(self, name)}, it must be 0 (forever, all) or more")
        if not self.every_minutes > 0:
            raise ConfigError(f"retention.every_minutes is {self.every_minutes}, it must be above 0")

    @property
    def deletes(self) -> bool:
        """Whether there is anything to do at all."""
        return bool(self.days or self.events_per_user)


class Retention:
    """Deletes what is no longer to be kept, and counts it."""

    def __init__(self, store: Store, config: RetentionConfig) -> None:
        self._store, self.config = store, config
        self._deleted, self._seconds, self._finished = 0, 0.0, 0.0

    def run(self) -> None:
        """Delete once, in many short transactions between those of others. Blocks.

        Raises:
            StoreUnavailableError: the rest goes the next time.
        """
        started = time.monotonic()
        self._deleted += self._store.compact(self.config.days or None, self.config.events_per_user or None)
        self._seconds, self._finished = time.monotonic() - started, time.time()

    def figures(self) -> Mapping[str, float]:
        """For the metrics: events deleted so far, seconds of the last run, and its end in seconds since 1970."""
        names = ("retention_deleted_events", "retention_seconds", "retention_finished_time")
        values = (self._deleted, self._seconds, self._finished)
        return dict(zip(names, values, strict=True)) if self.config.deletes else {}
