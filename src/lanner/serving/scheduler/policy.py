"""The scheduling policy: which requests to admit, and which to rank next, in which batch and by which variant.

Pure: no clock, no I/O, no randomness, so that the simulator runs the same object as the server. Times are seconds on
one monotonic clock of the caller's choice.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lanner.errors import ConfigError, OverloadedError
from lanner.serving.scheduler.latency_profile import Curve, LatencyProfile, VariantId

_RATE_MEMORY_S = 0.2
"""Time constant of the arrival rate, in seconds."""
_PLAN_S = 0.005
"""How long batch sizes and throughputs are cached, in seconds."""
_MIN_SHARE = 0.1
"""Minimum share of the loop's time assumed to be left for ranking, whatever the arrival rate."""

_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class SchedulerConfig:
    """How the scheduler trades latency against quality."""

    queue_limit: int = 1024
    """Maximum number of requests waiting for a personal answer, per worker."""
    most_inline_ms: float = 4.0
    """Maximum time in ms for which one batch may block the event loop."""
    faster_at: float = 0.3
    """Share of its deadline that a request may spend waiting before a faster variant is used."""
    fallback_at: float = 0.5
    """Share of its deadline after which a waiting request falls back to popular items."""

    def __post_init__(self) -> None:
        if self.queue_limit < 1:
            raise ConfigError(f"scheduler.queue_limit is {self.queue_limit}, it must be at least 1")
        if not 0 < self.most_inline_ms < math.inf:
            raise ConfigError(f"scheduler.most_inline_ms is {self.most_inline_ms}, it must be above 0 and finite")
        if not 0 < self.faster_at <= self.fallback_at <= 1:
            received = f"faster_at is {self.faster_at} and fallback_at {self.fallback_at}"
            raise ConfigError(f"scheduler.{received}; expected 0 < faster_at <= fallback_at <= 1")


def overloaded(retry_after_s: float) -> OverloadedError:
    """The error for a request that may succeed later."""
    problem = "overloaded: the deadline cannot be met; try again later or raise deadline_ms"
    return OverloadedError(problem, min(max(retry_after_s, 0.001), _LONGEST_RETRY_S))


class Request(NamedTuple):
    """One request, ordered by deadline. number: unique."""

    deadline: float
    number: int
    arrival: float

    def after(self, share: float) -> float:
        """The time at which ``share`` of the deadline has passed."""
        return self.arrival + share * (self.deadline - self.arrival)


class Batch(NamedTuple):
    """Requests to rank together. variant: None if none can meet their deadlines any more: reject them."""

    variant: VariantId | None
    requests: tuple[Request, ...]


class _VariantCapacity:
    """Current capacity of a variant. batch: maximum size. throughput: requests per second at that size."""

    __slots__ = ("batch", "curve", "name", "throughput")

    def __init__(self, name: VariantId, curve: Curve) -> None:
        self.name, self.curve, self.batch, self.throughput = name, curve, 1, 1.0

    def plan(self, seconds: float, stretch: float) -> None:
        self.batch = max(1, self.curve.largest_mean_within(seconds))
        self.throughput = self.batch / (self.curve.mean_s(self.batch) * stretch)


class Scheduler:
    """Earliest deadline first, with the best variant that the load allows.

    Batches run one after another, inline, on the thread that also reads requests and writes responses. That overhead
    (``overhead_s`` per request) competes with ranking: predicted ranking times grow with the arrivals' share of the
    thread, and batches are smaller, so that one loop iteration does not delay requests still in their sockets. A second
    accelerator with its own queue would need a second free time in ``_start``.

    Predictions use measured latencies (Clockwork, Gujarati et al., OSDI 2020). Each batch uses the best variant that
    keeps up with the arrivals and lets every later batch start early enough. A burst thus costs quality only while it
    lasts, and there is no state to recover from.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        variants: Sequence[VariantId],
        config: SchedulerConfig | None = None,
        fallback: VariantId | None = None,
    ) -> None:
        """variants: the personal ones, best first. fallback: answers requests that they cannot answer in time.

        Raises:
            ConfigError: no variants, a duplicate, or one that was not calibrated.
        """
        if not variants or len(set(variants)) < len(variants):
            names = ", ".join(one.variant for one in variants) or "missing"
            raise ConfigError(f"variants are {names}; list each once, best first")
        self.config, self.profile, self.overhead_s = config or SchedulerConfig(), profile, 0.0003
        self._capacities = [_VariantCapacity(name, profile.curve(name)) for name in variants]
        self._fallback = None if fallback is None else _VariantCapacity(fallback, profile.curve(fallback))
        self._waiting: list[Request] = []
        self._falling: list[Request] = []
        self._late: list[Request] = []
        self._rate, self._last, self._planned = 0.0, 0.0, -math.inf
        self._fastest = self._quickest = self._capacities[0]

    @property
    def depth(self) -> int:
        """Number of queued requests."""
        return len(self._waiting) + len(self._falling) + len(self._late)

    @property
    def fallback(self) -> VariantId | None:
        """The variant for requests that no personal variant can answer in time."""
        return None if self._fallback is None else self._fallback.name

    def rate(self, now: float) -> float:
        """Arrivals per second, including rejected ones."""
        return self._rate * math.exp((self._last - now) / _RATE_MEMORY_S)

    def admit(self, request: Request, now: float) -> None:
        """Queue a request, for a personal answer or for the fallback.

        Raises:
            OverloadedError: neither would meet the deadline.
        """
        self._rate, self._last = self.rate(now) + 1 / _RATE_MEMORY_S, now
        self._plan(now)
        start = now + bisect_left(self._waiting, request) / self._fastest.throughput
        late_s = start + self._quickest.curve.p99_s(1) - self._due(request)
        if self._fallback is not None and start > now:
            late_s = max(late_s, start - request.after(self.config.fallback_at))
        if len(self._waiting) >= self.config.queue_limit:
            late_s = max(late_s, start - now)
        if late_s <= 0:
            insort(self._waiting, request)
        elif self._fallback is not None and now + self._fallback_s() <= self._due(request):
            self._falling.append(request)
        else:
            raise overloaded(late_s)

    def next(self, now: float) -> Batch | None:
        """The next batch; None: the queue is empty. Requests for the fallback go first: they are the quickest."""
        self._plan(now)
        self._shed(now)
        if self._late:
            late, self._late = tuple(self._late), []
            return Batch(None, late)
        if self._falling:
            assert self._fallback is not None
            size = self._fallback.curve.largest
            batch, self._falling = tuple(self._falling[:size]), self._falling[size:]
            return Batch(self._fallback.name, batch)
        return self._start(now) if self._waiting else None

    def completed(self, batch: Batch, seconds: float) -> None:
        """Report the duration of a batch, which updates the latency profile."""
        assert batch.variant is not None
        self.profile.observe(batch.variant, len(batch.requests), seconds)

    def cancel(self, request: Request) -> bool:
        """Remove a request; False if it is no longer queued."""
        place = bisect_left(self._waiting, request)
        if self._waiting[place : place + 1] == [request]:
            del self._waiting[place]
            return True
        for queue in (self._falling, self._late):
            if request in queue:
                queue.remove(request)
                return True
        return False

    def _plan(self, now: float) -> None:
        if now - self._planned < _PLAN_S:
            return
        if math.isfinite(self._planned):
            self.profile.fade(now - self._planned)
        self._planned = now
        stretch = 1 / max(_MIN_SHARE, 1 - self.rate(now) * self.overhead_s)
        for one in self._capacities:
            one.plan(self.config.most_inline_ms / 1e3 / stretch, stretch)
        self._fastest = max(self._capacities, key=lambda one: one.throughput)
        self._quickest = min(self._capacities, key=lambda one: one.curve.p99_s(1))

    def _due(self, request: Request) -> float:
        """Latest time for it to be ranked; the rest is for writing the response."""
        return request.deadline - self.overhead_s

    def _fallback_s(self) -> float:
        """Waiting time of one more request for the fallback."""
        assert self._fallback is not None
        curve = self._fallback.curve
        return curve.p99_s(min(len(self._falling) + 1, curve.largest))

    def _shed(self, now: float) -> None:
        """Shed load: move requests that waited longer than predicted to the fallback."""
        first = now + self._quickest.curve.p99_s(1)
        while self._waiting and self._due(self._waiting[0]) < first:
            (self._late if self._fallback is None else self._falling).append(self._waiting.pop(0))
        if self._falling:
            last = now + self._fallback_s()
            self._late += [one for one in self._falling if self._due(one) < last]
            self._falling = [one for one in self._falling if self._due(one) >= last]

    def _start(self, now: float) -> Batch:
        """Use the best variant that keeps up with the arrivals and the queue, else the fastest."""
        within_s = self._due(self._waiting[0]) - now
        possible = [(one, min(one.batch, one.curve.largest_within(within_s))) for one in self._capacities]
        # Rounding may leave no batch size, although all late requests have been shed.
        possible = [(one, size) for one, size in possible if size] or [(self._quickest, 1)]
        rate = self.rate(now)
        enough = (one for one in possible if rate <= one[0].throughput and self._meets_deadlines(one[0], now))
        one, size = next(enough, None) or max(possible, key=lambda pair: pair[0].throughput)
        batch, self._waiting = tuple(self._waiting[:size]), self._waiting[size:]
        return Batch(one.name, batch)

    def _meets_deadlines(self, one: _VariantCapacity, now: float) -> bool:
        """Whether every later batch would start in time; checked at exponentially spaced positions and the last."""
        last = len(self._waiting) - 1
        place = one.batch
        while place <= last:
            if now + place / one.throughput > self._waiting[place].after(self.config.faster_at):
                return False
            place = last if place < last < 2 * place else 2 * place
        return True
