"""The scheduler at work: requests in, batches to worker threads, answers back to who waits.

The policy decides (``scheduling/``); this part reads the clock, keeps the timer and holds the futures. All of it but
the work itself runs on the event loop's thread, so the policy needs no lock.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any, NamedTuple

from lanner.errors import OverloadedError
from lanner.serving.cores import on_one_core
from lanner.serving.engine import Engine
from lanner.serving.scheduling import Batch, Elastic, ElasticConfig, Rejected, Request, Scheduler, WaitUntil
from lanner.serving.scheduling.contract import LOOK_S, WAITING_SHARE, WORKING_SHARE
from lanner.serving.waited import WAITED_S

WorkOn = Callable[[Engine, Sequence[Any]], Sequence[Any]]
"""What comes of each of some requests; an exception in the place of one that failed."""
Beside = Callable[[Engine, str, Sequence[Any], Callable[[Sequence[Any] | None], None]], bool]
"""Have an engine's batch, of a variant, worked on outside this process, and then call with what came of each, or None
where nothing did; False: that is for the threads here. Called, and calls, on the loop."""
_LONGEST_RETRY_S = 60.0


class Spare(NamedTuple):
    """An engine that answers on the loop in so many seconds."""

    backend: str
    variant: str
    seconds: float


class Occupied(NamedTuple):
    """How busy a dispatcher is: what balancers and autoscalers of several servers compare.

    depth: requests that wait or are worked on. worked_s: seconds of all workers since it began. workers: how many there
    may be at most. refused: requests that none of them served since it began. request_s: see ``Scheduler.request_s``.
    """

    depth: int = 0
    worked_s: float = 0.0
    workers: int = 0
    refused: int = 0
    request_s: float = 0.0


@dataclass(frozen=True)
class Done:
    """A result, by what it was made, and how long it waited and its batch was worked on, in seconds."""

    result: Any
    backend: str
    variant: str
    queued_s: float
    worked_s: float


class _Waiting:
    """A request and the future of who waits for it. spare_at: when the spare engine answers after all."""

    __slots__ = ("arrival", "future", "spare_at", "work")

    def __init__(self, work: Any, arrival: float, future: "asyncio.Future[Done]", spare_at: float) -> None:
        self.work, self.arrival, self.future, self.spare_at = work, arrival, future, spare_at

    @property
    def has_spare(self) -> bool:
        return self.spare_at < math.inf


class Dispatcher:
    """Made in any thread; all calls but ``close`` come from the loop's.

    engines: by (backend, variant), as the policy's profile names them.
    """

    def __init__(
        self,
        policy: Scheduler,
        engines: Mapping[tuple[str, str], Engine],
        work_on: WorkOn,
        loop: asyncio.AbstractEventLoop,
        elastic: ElasticConfig | None = None,
        is_quick: Callable[[Engine, Any], bool] = lambda engine, work: False,
        beside: Beside | None = None,
        spare: Spare | None = None,
    ) -> None:
        """work_on: runs in the workers' threads, or on the loop where all of a batch ``is_quick``.

        elastic: how many batches each backend may have worked on; the policy was told the least number.
        beside: who is asked before the threads are. spare: what is ``is_quick`` there and cannot be answered in time
        by those that the policy knows, of which this is none.
        """
        self._is_quick, self._beside, self._spare = is_quick, beside, spare
        self._policy, self._engines, self._work_on, self._loop = policy, engines, work_on, loop
        elastic = elastic or ElasticConfig(maximum=1)
        self._elastic = {backend: Elastic(elastic) for backend, _ in engines}
        self._most_workers = elastic.maximum * len(self._elastic)
        self._pool = ThreadPoolExecutor(self._most_workers, "lanner-worker", initializer=on_one_core)
        self._busy_s, self._worked_s = dict.fromkeys(self._elastic, 0.0), 0.0
        self._looked, self._refused_then, self._looped_s = perf_counter(), 0, 0.0
        self.busy = 0.0
        """The share of its time that the loop's thread worked lately; any thread may read it."""
        self._looking: asyncio.TimerHandle | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = math.inf
        self.refused = 0
        """Requests that no worker could serve in time, those that the spare engine answered among them."""
        loop.call_soon_threadsafe(self._look)

    @property
    def workers(self) -> dict[str, int]:
        """Threads that each backend may use now."""
        return {backend: elastic.workers for backend, elastic in self._elastic.items()}

    @property
    def depth(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._waiting)

    @property
    def occupied(self) -> Occupied:
        """How busy it is now, and was since it began."""
        request_s = self._policy.request_s(perf_counter())
        return Occupied(self.depth, self._worked_s, self._most_workers, self.refused, request_s)

    async def submit(self, work: Any, within_s: float, lowest: str | None = None) -> Done:
        """What came of ``work``, which ``work_on`` understands, by the best engine that is in time.

        Raises:
            OverloadedError: no engine would be in time. ConfigError: no such variant. What ``work`` raises.
        """
        now = perf_counter()
        self._number += 1
        number, has_spare = self._number, lowest is None and self._has_spare(work, within_s)
        arrival = now - WAITED_S.get()
        deadline = arrival + within_s * (WAITING_SHARE if has_spare else 1.0)
        spare_at = arrival + within_s * WORKING_SHARE if has_spare else math.inf
        verdict = self._policy.admit(Request(number, arrival, deadline, lowest), now)
        if isinstance(verdict, Rejected):
            self.refused += 1
            if has_spare:
                return self._spared(work, arrival)
            raise _overloaded(verdict.retry_after_s)
        one = self._waiting[number] = _Waiting(work, arrival, self._loop.create_future(), spare_at)
        self._turn(now)
        try:
            return await one.future
        except asyncio.CancelledError:
            self._policy.cancel(number)
            raise
        finally:
            self._waiting.pop(number, None)

    def _has_spare(self, work: Any, within_s: float) -> bool:
        spare = self._spare
        return spare is not None and within_s >= spare.seconds and self._is_quick(self._engines[spare[:2]], work)

    def _spared(self, work: Any, arrival: float) -> Done:
        """By the spare engine, which takes less time than to be refused and to ask again."""
        assert self._spare is not None
        begun = perf_counter()
        (outcome,) = self._work_on(self._engines[self._spare[:2]], [work])
        if isinstance(outcome, Exception):
            raise outcome
        return Done(outcome, *self._spare[:2], begun - arrival, perf_counter() - begun)

    def close(self) -> None:
        """Let running batches end, start no more, and refuse what waits.

        Called beside the loop, which must still turn.
        """
        self._loop.call_soon_threadsafe(self._stop_timers)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._refuse_rest)

    def _look(self) -> None:
        """Let the number of workers follow the load, and the policy know what the loop takes."""
        now = perf_counter()
        passed, misses = max(now - self._looked, 1e-3), self.refused - self._refused_then
        self._looked, self._refused_then = now, self.refused
        looped_s = thread_time()
        self.busy, self._looped_s = (looped_s - self._looped_s) / passed, looped_s
        # Only threads want the interpreter that the loop has.
        self._policy.set_busy(self.busy if self._beside is None else 0.0)
        for backend, elastic in self._elastic.items():
            busy = min(1.0, self._busy_s[backend] / (passed * elastic.workers))
            self._busy_s[backend] = 0.0
            before, wanted = elastic.workers, elastic.wanted(self.depth, busy, misses, now)
            if wanted != before:
                self._policy.set_workers({backend: wanted})
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._turn(now)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()

    def _refuse_rest(self) -> None:
        for one in self._waiting.values():
            if not one.future.done():
                one.future.set_exception(OverloadedError("the server is stopping; ask again", 1.0))

    def _turn(self, now: float) -> None:
        """Start what is to start now, tell those that were dropped, and set the timer for the rest."""
        decision = self._policy.next(now)
        while isinstance(decision, Batch):
            if self._begin(decision):
                now = perf_counter()
            decision = self._policy.next(now)
        for number in self._policy.take_missed():
            if (dropped := self._waiting.get(number)) is not None and not dropped.future.done():
                self._drop(dropped)
        if isinstance(decision, WaitUntil) and decision.time < self._wakes:
            self._set_timer(decision.time, now)

    def _drop(self, one: _Waiting) -> None:
        """None who works can serve it in time any more, but perhaps the spare engine."""
        self.refused += 1
        if not one.has_spare:
            one.future.set_exception(_overloaded(0.0))
            return
        try:
            one.future.set_result(self._spared(one.work, one.arrival))
        except Exception as error:
            one.future.set_exception(error)

    def _set_timer(self, time: float, now: float) -> None:
        """One that goes off too early does no harm, and most are never reached: only an earlier one is set anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._wakes = time
        self._timer = self._loop.call_later(max(0.0, time - now), self._wake)

    def _wake(self) -> None:
        self._timer, self._wakes = None, math.inf
        self._turn(perf_counter())

    def _begin(self, batch: Batch) -> bool:
        """Have a batch worked on; whether that is done when this returns. Whose caller has gone is left out."""
        engine = self._engines[batch.backend, batch.variant]
        found = [self._waiting.get(one.number) for one in batch.requests]
        waiting = [one for one in found if one is not None and not one.future.done()]
        works = [one.work for one in waiting]
        if all(self._is_quick(engine, work) for work in works):
            self._settle(batch, waiting, *self._worked(engine, works))
            return True
        begun = perf_counter()
        self._spare_late(waiting, begun)

        def came_back(outcomes: Sequence[Any] | None) -> None:
            if outcomes is None:
                self._pool.submit(self._work, batch, engine, waiting)
            else:
                self._ended(batch, waiting, outcomes, begun, perf_counter())

        if self._beside is None or not self._beside(engine, batch.variant, works, came_back):
            self._pool.submit(self._work, batch, engine, waiting)
        return False

    def _spare_late(self, waiting: Sequence[_Waiting], now: float) -> None:
        """Let nobody wait longer for a batch than the spare engine can help; what comes back later is for nobody."""
        left = []
        for one in waiting:
            if not one.has_spare or one.future.done():
                continue
            if one.spare_at <= now:
                self._drop(one)
            else:
                left.append(one)
        if left:
            earliest = min(one.spare_at for one in left)
            self._loop.call_later(earliest - now, lambda: self._spare_late(left, perf_counter()))

    def _work(self, batch: Batch, engine: Engine, waiting: Sequence[_Waiting]) -> None:
        """In a worker's thread."""
        worked = self._worked(engine, [one.work for one in waiting])
        self._loop.call_soon_threadsafe(self._ended, batch, waiting, *worked)

    def _worked(self, engine: Engine, works: Sequence[Any]) -> tuple[Sequence[Any], float, float]:
        """(what came of each, begun, ended)."""
        begun = perf_counter()
        try:
            outcomes = self._work_on(engine, works)
        except Exception as error:
            outcomes = [error] * len(works)
        return outcomes, begun, perf_counter()

    def _ended(
        self, batch: Batch, waiting: Sequence[_Waiting], outcomes: Sequence[Any], begun: float, ended: float
    ) -> None:
        self._settle(batch, waiting, outcomes, begun, ended)
        self._turn(perf_counter())

    def _settle(
        self, batch: Batch, waiting: Sequence[_Waiting], outcomes: Sequence[Any], begun: float, ended: float
    ) -> None:
        """Tell who waits, and the policy."""
        for one, outcome in zip(waiting, outcomes, strict=True):
            if one.future.done():
                continue
            if isinstance(outcome, Exception):
                one.future.set_exception(outcome)
            else:
                queued = begun - one.arrival
                one.future.set_result(Done(outcome, batch.backend, batch.variant, queued, ended - begun))
        now = perf_counter()
        self._busy_s[batch.backend] += now - batch.started
        self._worked_s += now - batch.started
        self._policy.completed(batch, now)


def _overloaded(retry_after_s: float) -> OverloadedError:
    wait = min(max(retry_after_s, 0.001), _LONGEST_RETRY_S)
    return OverloadedError("too busy to answer in time; ask again later, or give a longer deadline_ms", wait)
