"""One thread that writes: what waits while a commit is on its way to the disk is joined into the next."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from threading import Condition, Thread
from time import perf_counter
from typing import Any, TypeVar

from lanner.errors import ConfigError, LannerError, StoreUnavailableError

Result = TypeVar("Result")
Work = Callable[[Any], Result]
"""Statements on a connection, inside a transaction that somebody else begins and ends."""

_EVENTS_A_COMMIT = 10_000
"""Enough to make the disk's latency small beside the work; more would only keep the first callers waiting."""


Together = Callable[[Any, Sequence[Any]], Sequence[Result]]
"""As ``Work``, of several callers at a time: what each gave, and what each gets."""


@dataclass(frozen=True)
class _Job:
    act: Callable[..., Any]
    given: Any
    events: int
    joins: bool
    done: "Future[Any]" = field(default_factory=Future)

    def settle(self) -> None:
        try:
            self.done.set_result(self.act())
        except BaseException as error:
            self.done.set_exception(error)


class Writer:
    """Callers wait in ``submit`` until their work is committed; work that fails fails for its own caller only."""

    def __init__(self, name: str, transact: Callable[[Work[Any]], Any], most_waiting: int) -> None:
        """transact: runs work in one transaction, raising LannerErrors. most_waiting: bound of the queue, in events."""
        self._name, self._transact, self._most_waiting = name, transact, most_waiting
        self._changed = Condition()
        self._queue: deque[_Job] = deque()
        self._waiting_events = 0
        self._closing = False
        self.commits = self.batches = 0
        self.commit_milliseconds = 0.0
        self._thread = Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[Result], events: int = 1) -> Result:
        """The result of ``work``, committed; arguments and errors as ``begin``."""
        return self.begin(work, events).result()

    def begin(self, work: Work[Result], events: int = 1) -> "Future[Result]":
        """Join the next commit, without waiting for it. events: its weight in the queue.

        Raises:
            StoreUnavailableError: at once, where the queue would grow beyond its bound. ConfigError: closed.
        """
        return self._join(_Job(lambda connection, _: [work(connection)], None, events, joins=True))

    def begin_together(self, work: "Together[Result]", given: Any, events: int) -> "Future[Result]":
        """As ``begin``; who waits for the same ``work`` one after another is worked for in one call.

        A statement lets go of the interpreter and must wait to have it back: fewer and larger ones are sooner done.
        """
        return self._join(_Job(work, given, events, joins=True))

    def alone(self, act: Callable[[], Result]) -> Result:
        """The result of ``act``, run by the writing thread outside of any transaction."""
        return self._join(_Job(act, None, 1, joins=False)).result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _join(self, job: _Job) -> "Future[Any]":
        with self._changed:
            if self._closing:
                raise ConfigError(f"{self._name}: the store was closed; open it again")
            if self._waiting_events + job.events > self._most_waiting:
                raise StoreUnavailableError(
                    f"{self._name}: {self._waiting_events} events wait to be written and {job.events} more exceed the "
                    f"bound of {self._most_waiting}; send them again later"
                )
            self._waiting_events += job.events
            self._queue.append(job)
            self._changed.notify()
        return job.done

    def _run(self) -> None:
        while jobs := self._next():
            if jobs[0].joins:
                self._commit(jobs)
            else:
                jobs[0].settle()

    def _next(self) -> list[_Job]:
        """What goes into the next commit, or one job that stands alone; nothing once closed and done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            jobs: list[_Job] = []
            events = 0
            while self._queue and (not jobs or (self._queue[0].joins and events < _EVENTS_A_COMMIT)):
                jobs.append(self._queue.popleft())
                events += jobs[-1].events
                if not jobs[-1].joins:
                    break
            self._waiting_events -= sum(job.events for job in jobs)
            return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        started = perf_counter()
        try:
            results = self._transact(lambda connection: _worked(connection, jobs))
        except BaseException as error:
            self._fail(jobs, error)
            return
        self.commit_milliseconds = (perf_counter() - started) * 1e3
        self.commits += 1
        self.batches += len(jobs)
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        """Nothing was committed. A store that is gone is so for all; otherwise one is to blame, the others go on."""
        if len(jobs) == 1 or isinstance(error, StoreUnavailableError) or not isinstance(error, LannerError):
            for job in jobs:
                job.done.set_exception(error)
        else:
            for job in jobs:
                self._commit([job])


def _worked(connection: Any, jobs: Sequence[_Job]) -> list[Any]:
    """What comes of each, in one transaction."""
    return [
        result
        for act, alike in groupby(jobs, key=attrgetter("act"))
        for result in act(connection, [job.given for job in alike])
    ]
