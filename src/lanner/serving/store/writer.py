"""Group commit: one writer thread; work that arrives during a commit goes into the next one."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from threading import Condition, Thread
from time import perf_counter
from typing import Any, TypeVar

from lanner.errors import ConfigError, DataError, LannerError, StoreUnavailableError

Result = TypeVar("Result")
Work = Callable[[Any], Result]
"""Statements on a connection, inside the writer's transaction."""
BatchWork = Callable[[Any, Sequence[Any]], Sequence[Result]]
"""As ``Work``, for several callers at once: their arguments, and their results."""

CLOSED = "the store is closed; open it again"
_ENDED = "the store: the writer thread has ended; restart the server"
_EVENTS_PER_COMMIT = 10_000
"""Amortises the disk's latency; larger groups only delay the first callers."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    work: BatchWork[Any]
    given: Any
    events: int
    done: "Future[Any]" = field(default_factory=Future)


class Writer:
    """Commits callers' work in groups; failing work fails only its own caller.

    A future may be cancelled until its commit begins; its work is then skipped.
    """

    def __init__(self, transact: Callable[[Work[Any]], Any], queue_limit: int) -> None:
        """transact: runs work in one transaction, raising LannerErrors. queue_limit: maximum queued events."""
        self._transact, self._queue_limit = transact, queue_limit
        self._changed = Condition()
        self._queue: deque[_Job] = deque()
        self._waiting_events = 0
        self._closing = self._ended = False
        self.commits = self.batches = 0
        self.commit_milliseconds = 0.0
        self.failing = False
        """Whether the last commit failed for a reason other than its data."""
        self._thread = Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[Result], events: int = 1) -> Result:
        """The committed result of ``work``; arguments and errors as ``begin``."""
        return self.begin(lambda connection, given: [work(connection)], None, events).result()

    def begin(self, work: BatchWork[Result], given: Any, events: int) -> "Future[Result]":
        """Join the next commit without waiting; consecutive callers with the same ``work`` are merged into one call.

        Each statement releases and reacquires the interpreter lock, so few large ones are faster.
        events: weight in the queue.

        Raises:
            StoreUnavailableError: immediately, if the queue is full or the thread has ended.
            ConfigError: the store is closed.
        """
        job = _Job(work, given, events)
        with self._changed:
            self.require_alive()
            if self._waiting_events + events > self._queue_limit:
                waiting = f"{self._waiting_events} events are queued and {events} more exceed the limit of"
                raise StoreUnavailableError(f"the store: {waiting} {self._queue_limit}; try again later")
            self._waiting_events += events
            self._queue.append(job)
            self._changed.notify()
        return job.done

    def require_alive(self) -> None:
        """Raise StoreUnavailableError if the writer thread has ended, ConfigError if it was closed."""
        if self._closing:
            raise ConfigError(CLOSED)
        if self._ended:
            raise StoreUnavailableError(_ENDED)

    def close(self) -> None:
        """Finish queued work and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        jobs: list[_Job] = []
        try:
            while jobs := self._next():
                # From here on jobs cannot be cancelled, so setting their results cannot fail.
                if running := [job for job in jobs if job.done.set_running_or_notify_cancel()]:
                    self._commit(running)
        except BaseException:
            _log.exception("the store's writer thread ended")
        with self._changed:
            self._ended = True
        for job in (*jobs, *self._queue):
            if not job.done.done():
                job.done.set_exception(StoreUnavailableError(_ENDED))

    def _next(self) -> list[_Job]:
        """Jobs for the next commit; empty once closed and done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            jobs: list[_Job] = []
            events = 0
            while self._queue and events < _EVENTS_PER_COMMIT:
                jobs.append(self._queue.popleft())
                events += jobs[-1].events
            self._waiting_events -= events
            return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        started = perf_counter()
        try:
            results = self._transact(lambda connection: _results(connection, jobs))
        except BaseException as error:
            self._fail(jobs, error)
            return
        self.failing = False
        self.commit_milliseconds = (perf_counter() - started) * 1e3
        self.commits += 1
        self.batches += len(jobs)
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        """Nothing was committed. If one caller's data is at fault, retry the others; otherwise fail all."""
        if isinstance(error, DataError) and len(jobs) > 1:
            for job in jobs:
                self._commit([job])
            return
        if not isinstance(error, DataError):
            if not self.failing:
                _log.error("commits fail: %s", error, exc_info=not isinstance(error, LannerError))
            self.failing = True
        for job in jobs:
            job.done.set_exception(error)


def _results(connection: Any, jobs: Sequence[_Job]) -> list[Any]:
    """The result of each job, in one transaction."""
    return [
        result
        for work, group in groupby(jobs, key=attrgetter("work"))
        for result in work(connection, [job.given for job in group])
    ]
