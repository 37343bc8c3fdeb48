"""Dynamic batching on the event loop: requests are queued, ranked inline in batches, and their futures resolved."""

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
"""One outcome per query, from one variant; an exception in place of a failed one."""

_LEARN_S, _MIN_RANKED, _WEIGHT = 0.25, 20, 0.3
"""Seconds and requests per measurement of the overhead, and the weight of a new one (exponential smoothing)."""
_TIMED = 8
"""CPU time is measured for one batch in this many: it takes a system call."""
_MAX_OVERHEAD_S = 0.005


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """A result, its backend and variant (both empty for slow requests), and its queue and work time in seconds."""

    result: R
    backend: str
    variant: str
    queued_s: float
    worked_s: float


class _Entry(NamedTuple, Generic[Q, R]):
    query: Q
    future: "asyncio.Future[Done[R]]"


class Batcher(Generic[Q, R]):
    """Used on the event loop only. ``arrived_at`` is a time of ``time.perf_counter``.

    The time a request waited in its socket cannot be measured. It is estimated as the duration of the previous loop
    iteration, if that has just ended.
    """

    def __init__(self, scheduler: Scheduler, rank: Rank[Q, R], *, slow_threads: int = 2, slow_queue: int = 64) -> None:
        """rank: called inline. slow_queue: maximum number of slow requests running or waiting."""
        self.scheduler, self._rank = scheduler, rank
        self.refused, self.fallbacks = 0, 0
        """Requests rejected, and requests answered by the fallback, since startup."""
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
        """Requests waiting, or running in threads."""
        return len(self._entries) + len(self._under_way())

    @property
    def overhead_s(self) -> float:
        """Event loop seconds per request besides ranking."""
        return self.scheduler.overhead_s

    @property
    def busy(self) -> float:
        """Recent utilisation of the event loop thread, 0 to 1; may be read from any thread."""
        return self._busy if perf_counter() - self._since < 4 * _LEARN_S else 0.0

    async def submit(self, query: Q, deadline_s: float, arrived_at: float | None = None) -> Done[R]:
        """Rank a query, batched with others that arrived in the same loop iteration.

        Raises:
            OverloadedError: the deadline cannot be met. Whatever ``rank`` returns as an error for this query.
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
        """Run a slow request in a thread.

        Raises:
            OverloadedError: it could not start in time. Whatever ``work`` raises.
        """
        now = perf_counter()
        request = self._request(deadline_s, arrived_at, now)
        under_way = len(self._under_way())
        wait_s = under_way // self._slow_threads * self._slow_s

        def run() -> tuple[T, float, float]:
            started = perf_counter()
            if self._is_closed or started > request.deadline:
                raise self._refusal(self._slow_s)
            return work(), started, perf_counter()

        try:
            if under_way >= self._slow_queue or now + wait_s > request.deadline:
                raise self._refusal(wait_s)
            future = self._pool.submit(run)
            self._slow.add(future)
            result, started, ended = await asyncio.wrap_future(future)
        except OverloadedError:
            self.refused += 1
            raise
        self._slow_s += _WEIGHT * (ended - started - self._slow_s)
        return Done(result, "", "", started - request.arrival, ended - started)

    def close(self) -> None:
        """Reject waiting requests; those running in threads finish on their own."""
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
        """May be called from any thread."""
        if self._is_closed:
            return OverloadedError("the server is stopping; try again", 1.0)
        return overloaded(retry_after_s)

    def _under_way(self) -> set[Future[Any]]:
        self._slow = {future for future in self._slow if not future.done()}
        return self._slow

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Resolve requests that cannot wait and rank one batch; sockets are served between two batches."""
        started, loop = perf_counter(), asyncio.get_running_loop()
        self._is_scheduled = False
        loop.call_soon(self._record_turn, started)
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

    def _record_turn(self, started: float) -> None:
        self._turned = perf_counter()
        self._turn_s = self._turned - started

    def _answer(self, batch: Batch, variant: VariantId, entries: "Sequence[_Entry[Q, R]]") -> None:
        self._batches += 1
        is_timed = self._batches % _TIMED == 0
        started, started_cpu = perf_counter(), thread_time() if is_timed else 0.0
        outcomes = self._outcomes(variant, [entry.query for entry in entries])
        worked_s = perf_counter() - started
        if is_timed:
            self._timed_s += worked_s
            self._timed_cpu += thread_time() - started_cpu
        self._ranked_s += worked_s
        self._ranked += len(entries)
        self.scheduler.completed(batch, worked_s)
        for request, entry, outcome in zip(batch.requests, entries, outcomes, strict=True):
            if entry.future.done():
                continue
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
            else:
                entry.future.set_result(Done(outcome, *variant, started - request.arrival, worked_s))

    def _outcomes(self, variant: VariantId, queries: Sequence[Q]) -> Sequence[R | Exception]:
        """If a whole batch fails, rank its queries one by one, so that a bad query fails only itself."""
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
        """Measure the loop's overhead per request besides ranking.

        CPU time is scaled to wall-clock time by the ratio observed for timed batches: other processes share the cores.
        """
        passed = now - self._since
        if passed < _LEARN_S:
            return
        cpu = thread_time()
        if math.isnan(passed):  # first call: only now is this known to be the loop's thread
            self._since, self._since_cpu = now, cpu
            return
        slower = max(1.0, self._timed_s / self._timed_cpu) if self._timed_cpu else 1.0
        worked_s = (cpu - self._since_cpu) * slower
        self._busy = min(1.0, worked_s / passed)
        if self._ranked >= _MIN_RANKED:
            measured = min(max(worked_s - self._ranked_s, 0.0) / self._ranked, _MAX_OVERHEAD_S)
            self.scheduler.overhead_s += _WEIGHT * (measured - self.scheduler.overhead_s)
        self._since, self._since_cpu = now, cpu
        self._ranked_s, self._ranked = 0.0, 0
        self._timed_s, self._timed_cpu = 0.0, 0.0
