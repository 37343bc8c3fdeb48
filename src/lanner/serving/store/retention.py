"""Retention: how long events are kept, and how many per user."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lanner.errors import ConfigError
from lanner.serving.store.relational import Store


@dataclass(frozen=True)
class RetentionConfig:
    """What is deleted from the store, and how often. Events in bundles are not affected."""

    days: float = 0.0
    """Maximum age of events and exposures in days; 0: kept forever."""
    events_per_user: int = 0
    """Maximum number of events kept per user, newest first; 0: no limit."""
    every_minutes: float = 60.0
    """Minutes between deletion runs."""

    def __post_init__(self) -> None:
        for name in ("days", "events_per_user"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"retention.{name} is {getattr(self, name)}, it must be 0 (forever, all) or more")
        if not self.every_minutes > 0:
            raise ConfigError(f"retention.every_minutes is {self.every_minutes}, it must be above 0")

    @property
    def deletes(self) -> bool:
        """Whether anything is to be deleted."""
        return bool(self.days or self.events_per_user)


class Retention:
    """Deletes expired data and counts it."""

    def __init__(self, store: Store, config: RetentionConfig) -> None:
        self._store, self.config = store, config
        self._deleted, self._seconds, self._finished = 0, 0.0, 0.0

    def run(self) -> None:
        """Delete once, in many short transactions. Blocks.

        Raises:
            StoreUnavailableError: the next run continues.
        """
        started = time.monotonic()
        self._deleted += self._store.compact(self.config.days or None, self.config.events_per_user or None)
        self._seconds, self._finished = time.monotonic() - started, time.time()

    def figures(self) -> Mapping[str, float]:
        """For the metrics: events deleted so far, duration of the last run in seconds, and its end as Unix time."""
        names = ("retention_deleted_events", "retention_seconds", "retention_finished_time")
        values = (self._deleted, self._seconds, self._finished)
        return dict(zip(names, values, strict=True)) if self.config.deletes else {}
