"""Which requests to take, and which of them to rank next, together and by which variant.

Pure: it reads no clock, starts nothing and draws no number, so that the simulator runs the very object that serves.
Times are seconds on one clock, whichever the caller reads; ``now`` never runs backwards.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lanner.errors import ConfigError, OverloadedError
from lanner.serving.scheduler.latency_profile import Curve, LatencyProfile, VariantId

_RATE_MEMORY_S = 0.2
"""Time constant of the arrival rate."""
_PLAN_S = 0.005
"""How long batch sizes and throughputs are kept before they are computed anew."""
_LEAST_SHARE = 0.1
"""Of the loop's time is taken to be left for ranking, however many requests arrive."""

_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class SchedulerConfig:
    """How the scheduler weighs deadlines against quality."""

    queue_limit: int = 1024
    """Requests that may wait in a worker for a personal answer."""
    most_inline_ms: float = 4.0
    """Milliseconds for which one batch may occupy the event loop."""
    faster_at: float = 0.3
    """Share of its deadline that a request may wait; a faster variant serves where the queue is longer."""
    fallback_at: float = 0.5
    """Share of its deadline after which a request that still waits would get popular items instead."""

    def __post_init__(self) -> None:
        if self.queue_limit < 1:
            raise ConfigError(f"scheduler.queue_limit is {self.queue_limit}, it must be at least 1")
        if not 0 < self.most_inline_ms < math.inf:
            raise ConfigError(f"scheduler.most_inline_ms is {self.most_inline_ms}, it must be above 0 and finite")
        if not 0 < self.faster_at <= self.fallback_at <= 1:
            received = f"faster_at is {self.faster_at} and fallback_at {self.fallback_at}"
            raise ConfigError(f"scheduler.{received}; it must be that 0 < faster_at <= fallback_at <= 1")


def overloaded(retry_after_s: float) -> OverloadedError:
    """The refusal of a request that might be in time if it came later."""
    problem = "too busy to answer in time; ask again later, or give a longer deadline_ms"
    return OverloadedError(problem, min(max(retry_after_s, 0.001), _LONGEST_RETRY_S))


class Request(NamedTuple):
    """One request; requests are served in this order. number: unique."""

    deadline: float
    number: int
    arrival: float

    def after(self, share: float) -> float:
        """The moment when so much of the time to its deadline has passed."""
        return self.arrival + share * (self.deadline - self.arrival)


class Batch(NamedTuple):
    """Requests to rank now, together. variant: None where none can answer them in time any more: refuse them."""

    variant: VariantId | None
    requests: tuple[Request, ...]


class _Lane:
    """A variant as it can be used at present. batch: the largest. throughput: requests a second in such batches."""

    __slots__ = ("batch", "curve", "name", "throughput")

    def __init__(self, name: VariantId, curve: Curve) -> None:
        self.name, self.curve, self.batch, self.throughput = name, curve, 1, 1.0

    def plan(self, seconds: float, stretch: float) -> None:
        self.batch = max(1, self.curve.largest_mean_within(seconds))
        self.throughput = self.batch / (self.curve.mean_s(self.batch) * stretch)


class Scheduler:
    """Earliest deadline first, by the best variant that the queue allows.

    One lane: batches run one after another, inline, on the thread that also reads requests and writes answers. That
    work (``overhead_s`` a request) competes with ranking, so ranking is predicted to take as much longer as the arrival
    rate leaves it less of the thread, and batches are smaller: a turn of the loop must not make others late whose bytes
    wait in their sockets. A second lane (an accelerator with its own queue) would be a second free time in ``_start``.

    Predictions come from measured latencies (Clockwork, Gujarati et al., OSDI 2020). The variant is chosen anew for
    each batch: the best that keeps up with the arrivals and by which every later batch starts early enough. So a burst
    costs quality for as long as it lasts, and there is no state to recover from.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        variants: Sequence[VariantId],
        config: SchedulerConfig | None = None,
        fallback: VariantId | None = None,
    ) -> None:
        """variants: the personal ones, best first. fallback: what answers those that they cannot answer in time.

        Raises:
            ConfigError: no variant is given, one twice, or one that was not measured.
        """
        if not variants or len(set(variants)) < len(variants):
            names = ", ".join(one.variant for one in variants) or "missing"
            raise ConfigError(f"variants are {names}; name each once, the best first")
        self.config, self.profile, self.overhead_s = config or SchedulerConfig(), profile, 0.0003
        self._lanes = [_Lane(name, profile.curve(name)) for name in variants]
        self._fallback = None if fallback is None else _Lane(fallback, profile.curve(fallback))
        self._waiting: list[Request] = []
        self._falling: list[Request] = []
        self._late: list[Request] = []
        self._rate, self._last, self._planned = 0.0, 0.0, -math.inf
        self._fastest = self._quickest = self._lanes[0]

    @property
    def depth(self) -> int:
        """Requests that ``next`` will still give."""
        return len(self._waiting) + len(self._falling) + len(self._late)

    @property
    def fallback(self) -> VariantId | None:
        """What answers those whom no personal variant can answer in time."""
        return None if self._fallback is None else self._fallback.name

    def rate(self, now: float) -> float:
        """Arrivals a second, those refused among them."""
        return self._rate * math.exp((self._last - now) / _RATE_MEMORY_S)

    def admit(self, request: Request, now: float) -> None:
        """Take a request, for a personal answer or for the fallback.

        Raises:
            OverloadedError: neither would be in time.
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
        """What to do now; None: nothing waits. Those that would be late go first: they are the quickest to answer."""
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
        """A batch took so long; that corrects the profile."""
        assert batch.variant is not None
        self.profile.observe(batch.variant, len(batch.requests), seconds)

    def cancel(self, request: Request) -> bool:
        """Forget a request; False where it waits no longer."""
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
        stretch = 1 / max(_LEAST_SHARE, 1 - self.rate(now) * self.overhead_s)
        for lane in self._lanes:
            lane.plan(self.config.most_inline_ms / 1e3 / stretch, stretch)
        self._fastest = max(self._lanes, key=lambda lane: lane.throughput)
        self._quickest = min(self._lanes, key=lambda lane: lane.curve.p99_s(1))

    def _due(self, request: Request) -> float:
        """When it must be ranked, for its answer has to be written."""
        return request.deadline - self.overhead_s

    def _fallback_s(self) -> float:
        """What one more request for the fallback waits."""
        assert self._fallback is not None
        curve = self._fallback.curve
        return curve.p99_s(min(len(self._falling) + 1, curve.largest))

    def _shed(self, now: float) -> None:
        """Give up those that waited longer than was predicted."""
        first = now + self._quickest.curve.p99_s(1)
        while self._waiting and self._due(self._waiting[0]) < first:
            (self._late if self._fallback is None else self._falling).append(self._waiting.pop(0))
        if self._falling:
            last = now + self._fallback_s()
            self._late += [one for one in self._falling if self._due(one) < last]
            self._falling = [one for one in self._falling if self._due(one) >= last]

    def _start(self, now: float) -> Batch:
        """By the best variant that suffices for the arrivals and the queue, else by the fastest."""
        within_s = self._due(self._waiting[0]) - now
        possible = [(lane, min(lane.batch, lane.curve.largest_within(within_s))) for lane in self._lanes]
        # By rounding there may be none, though nothing that is too late is left.
        possible = [(lane, size) for lane, size in possible if size] or [(self._quickest, 1)]
        rate = self.rate(now)
        enough = (one for one in possible if rate <= one[0].throughput and self._is_short(one[0], now))
        lane, size = next(enough, None) or max(possible, key=lambda one: one[0].throughput)
        batch, self._waiting = tuple(self._waiting[:size]), self._waiting[size:]
        return Batch(lane.name, batch)

    def _is_short(self, lane: _Lane, now: float) -> bool:
        """Whether every later batch would start early enough; checked at places ever further apart, and at the last."""
        last = len(self._waiting) - 1
        place = lane.batch
        while place <= last:
            if now + place / lane.throughput > self._waiting[place].after(self.config.faster_at):
                return False
            place = last if place < last < 2 * place else 2 * place
        return True
