"""The scheduler at work on a worker's event loop: requests in, batches ranked inline, answers to those who wait."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any, Generic, NamedTuple, TypeVar

from lanner.errors import OverloadedError
from lanner.serving.scheduler.latency_profile import VariantId
from lanner.serving.scheduler.policy import Batch, Request, Scheduler, overloaded
from lanner.serving.thread_limits import limit_threads

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Rank = Callable[[VariantId, Sequence[Q]], Sequence[R | Exception]]
"""What comes of each query, by one variant; an exception in the place of one that failed."""

_LEARN_S, _FEWEST, _WEIGHT = 0.25, 20, 0.3
"""The overhead is measured over so many seconds with at least so many requests, and smoothed with this weight."""
_TIMED = 8
"""The CPU time of one batch in so many is measured: to ask for it is a system call."""
_MOST_OVERHEAD_S = 0.005


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """A result, what made it (both empty for a slow request), and how long it waited and was worked on, in seconds."""

    result: R
    backend: str
    variant: str
    queued_s: float
    worked_s: float


class _Entry(NamedTuple, Generic[Q, R]):
    query: Q
    future: "asyncio.Future[Done[R]]"


class Batcher(Generic[Q, R]):
    """All calls come from the event loop's thread. ``arrived_at`` is on the clock of ``time.perf_counter``.

    How long a request waited in its socket before it was read nobody can see. It is taken to be as long as the turn of
    the loop before, where that has just ended.
    """

    def __init__(self, scheduler: Scheduler, rank: Rank[Q, R], *, slow_threads: int = 2, slow_queue: int = 64) -> None:
        """rank: called inline. slow_queue: slow requests that may be under way, waiting ones included."""
        self.scheduler, self._rank = scheduler, rank
        self.refused, self.fallbacks = 0, 0
        """Requests refused, and requests answered by the fallback, since the start."""
        self._entries: dict[int, _Entry[Q, R]] = {}
        self._number, self._is_scheduled, self._is_closed = 0, False, False
        self._slow_threads, self._slow_queue, self._slow_s = slow_threads, slow_queue, 0.0
        self._slow: set[Future[Any]] = set()
        self._pool = ThreadPoolExecutor(slow_threads, "lanner-slow", initializer=limit_threads)
        self._since, self._since_cpu, self._busy = math.nan, 0.0, 0.0
        self._ranked_s, self._ranked, self._batches = 0.0, 0, 0
        self._timed_s, self._timed_cpu = 0.0, 0.0
        self._turn_s, self._turned = 0.0, 0.0

    @property
    def depth(self) -> int:
        """Requests that wait, or that threads work on."""
        return len(self._entries) + len(self._under_way())

    @property
    def overhead_s(self) -> float:
        """Seconds of the loop that a request takes beside its ranking."""
        return self.scheduler.overhead_s

    @property
    def busy(self) -> float:
        """Share of its time that the loop's thread worked lately; any thread may read it."""
        return self._busy if perf_counter() - self._since < 4 * _LEARN_S else 0.0

    async def submit(self, query: Q, deadline_s: float, arrived_at: float | None = None) -> Done[R]:
        """Rank a query together with those that came in the same turn of the loop.

        Raises:
            OverloadedError: it would be too late. What ``rank`` gives for this query.
        """
        now, loop = perf_counter(), asyncio.get_running_loop()
        request = self._request(deadline_s, arrived_at, now)
        future: asyncio.Future[Done[R]] = loop.create_future()
        try:
            self.scheduler.admit(request, now)
            self._entries[request.number] = _Entry(query, future)
            self._schedule(loop)
            return await future
        except OverloadedError:
            self.refused += 1
            raise
        finally:
            if self._entries.pop(request.number, None) is not None:
                self.scheduler.cancel(request)

    async def submit_slow(self, work: Callable[[], T], deadline_s: float, arrived_at: float | None = None) -> Done[T]:
        """Run what would occupy the loop for too long in a thread.

        Raises:
            OverloadedError: it would begin too late. What ``work`` raises.
        """
        now = perf_counter()
        request = self._request(deadline_s, arrived_at, now)
        under_way = len(self._under_way())
        wait_s = under_way // self._slow_threads * self._slow_s

        def run() -> tuple[T, float, float]:
            begun = perf_counter()
            if self._is_closed or begun > request.deadline:
                raise self._refusal(self._slow_s)
            return work(), begun, perf_counter()

        try:
            if under_way >= self._slow_queue or now + wait_s > request.deadline:
                raise self._refusal(wait_s)
            future = self._pool.submit(run)
            self._slow.add(future)
            result, begun, ended = await asyncio.wrap_future(future)
        except OverloadedError:
            self.refused += 1
            raise
        self._slow_s += _WEIGHT * (ended - begun - self._slow_s)
        return Done(result, "", "", begun - request.arrival, ended - begun)

    def close(self) -> None:
        """Refuse what waits; what runs in threads ends by itself."""
        self._is_closed = True
        self._pool.shutdown(wait=False)
        for entry in self._entries.values():
            if not entry.future.done():
                entry.future.set_exception(self._refusal(0.0))

    def _request(self, deadline_s: float, arrived_at: float | None, now: float) -> Request:
        if self._is_closed:
            raise self._refusal(0.0)
        arrival = now if arrived_at is None else min(arrived_at, now)
        if now - self._turned < self._turn_s:
            arrival -= self._turn_s
        self._number += 1
        return Request(arrival + deadline_s, self._number, arrival)

    def _refusal(self, retry_after_s: float) -> OverloadedError:
        """May be called in a thread."""
        if self._is_closed:
            return OverloadedError("the server is stopping; ask again", 1.0)
        return overloaded(retry_after_s)

    def _under_way(self) -> set[Future[Any]]:
        self._slow = {future for future in self._slow if not future.done()}
        return self._slow

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Answer those who cannot wait and rank one batch; between two of them sockets are read and written."""
        begun, loop = perf_counter(), asyncio.get_running_loop()
        self._is_scheduled = False
        loop.call_soon(self._turn_ended, begun)
        while (batch := self.scheduler.next(perf_counter())) is not None:
            entries = [self._entries.pop(request.number) for request in batch.requests]
            if batch.variant is None:
                for entry in entries:
                    if not entry.future.done():
                        entry.future.set_exception(self._refusal(0.0))
                continue
            self._answer(batch, batch.variant, entries)
            if batch.variant != self.scheduler.fallback:
                break
            self.fallbacks += len(entries)
        if self.scheduler.depth:
            self._schedule(loop)
        self._learn(perf_counter())

    def _turn_ended(self, begun: float) -> None:
        self._turned = perf_counter()
        self._turn_s = self._turned - begun

    def _answer(self, batch: Batch, variant: VariantId, entries: "Sequence[_Entry[Q, R]]") -> None:
        self._batches += 1
        is_timed = self._batches % _TIMED == 0
        begun, begun_cpu = perf_counter(), thread_time() if is_timed else 0.0
        outcomes = self._outcomes(variant, [entry.query for entry in entries])
        worked_s = perf_counter() - begun
        if is_timed:
            self._timed_s += worked_s
            self._timed_cpu += thread_time() - begun_cpu
        self._ranked_s += worked_s
        self._ranked += len(entries)
        self.scheduler.completed(batch, worked_s)
        for request, entry, outcome in zip(batch.requests, entries, outcomes, strict=True):
            if entry.future.done():
                continue
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
            else:
                entry.future.set_result(Done(outcome, *variant, begun - request.arrival, worked_s))

    def _outcomes(self, variant: VariantId, queries: Sequence[Q]) -> Sequence[R | Exception]:
        """Where a batch fails as a whole, each of it is ranked alone, so that one bad query fails no other."""
        try:
            outcomes = self._rank(variant, queries)
            if len(outcomes) != len(queries):
                raise ValueError(f"{len(queries)} queries have {len(outcomes)} outcomes")
            return outcomes
        except Exception as error:
            if len(queries) == 1:
                return [error]
            return [outcome for query in queries for outcome in self._outcomes(variant, [query])]

    def _learn(self, now: float) -> None:
        """Measure what of the loop's time requests take beside ranking.

        CPU time is stretched as that of ranking was, in the batches that were timed, to what the clock on the wall
        showed: other processes run on the same cores.
        """
        passed = now - self._since
        if passed < _LEARN_S:
            return
        cpu = thread_time()
        if math.isnan(passed):  # the first time, for only now is this the loop's thread
            self._since, self._since_cpu = now, cpu
            return
        slower = max(1.0, self._timed_s / self._timed_cpu) if self._timed_cpu else 1.0
        worked_s = (cpu - self._since_cpu) * slower
        self._busy = min(1.0, worked_s / passed)
        if self._ranked >= _FEWEST:
            measured = min(max(worked_s - self._ranked_s, 0.0) / self._ranked, _MOST_OVERHEAD_S)
            self.scheduler.overhead_s += _WEIGHT * (measured - self.scheduler.overhead_s)
        self._since, self._since_cpu = now, cpu
        self._ranked_s, self._ranked = 0.0, 0
        self._timed_s, self._timed_cpu = 0.0, 0.0
