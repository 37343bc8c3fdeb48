"""A simulation of workers that each run a scheduler: the production policy on a simulated clock.

A worker is one event loop. Each turn reads every request that has arrived, ranks the batch from the scheduler, and
writes the answers; requests arriving meanwhile wait in their sockets. Workers share nothing, so each runs alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError, OverloadedError
from lanner.serving.scheduler import Batch, LatencyProfile, Request, VariantId
from lanner.serving.scheduler.latency_profile import NORMAL_P99

Service = Callable[[VariantId, int, np.random.Generator], float]
"""Seconds that a batch of the given size takes."""


class Policy(Protocol):
    """The interface shared by ``lanner.serving.scheduler.Scheduler`` and ``FixedWindow``."""

    overhead_s: float

    @property
    def depth(self) -> int:
        """Requests still queued for ``next``."""
        ...

    def admit(self, request: Request, now: float) -> None:
        """Accept a request, or raise OverloadedError."""
        ...

    def next(self, now: float) -> Batch | None:
        """The next batch to rank."""
        ...

    def completed(self, batch: Batch, seconds: float) -> None:
        """Report how long a batch took."""
        ...


class FixedWindow:
    """How most servers schedule: one variant, a fixed batch window, first come first served, no deadlines."""

    def __init__(self, variant: VariantId, window_s: float, batch: int, queue_limit: int) -> None:
        self.overhead_s, self._variant, self._window_s, self._batch = 0.0, variant, window_s, batch
        self._queue_limit = queue_limit
        self._waiting: list[Request] = []

    @property
    def depth(self) -> int:
        """Waiting requests."""
        return len(self._waiting)

    def admit(self, request: Request, now: float) -> None:
        """Accept a request while the queue has room."""
        if len(self._waiting) >= self._queue_limit:
            raise OverloadedError("the queue is full", self._window_s)
        self._waiting.append(request)

    def next(self, now: float) -> Batch | None:
        """A full batch, or the waiting requests once the window of the first has passed."""
        if not self._waiting or (len(self._waiting) < self._batch and now < self.wakes_at()):
            return None
        batch, self._waiting = tuple(self._waiting[: self._batch]), self._waiting[self._batch :]
        return Batch(self._variant, batch)

    def wakes_at(self) -> float:
        """When the window of the first has passed."""
        return self._waiting[0].arrival + self._window_s

    def completed(self, batch: Batch, seconds: float) -> None:
        """Ignored."""


@dataclass(frozen=True)
class Loop:
    """Seconds that a worker's event loop spends on a request besides ranking it: reading it, and answering it."""

    read_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """Figures of a simulation. goodput: answers within their deadline a second. Latencies are of answered requests."""

    offered: int
    in_time: int
    late: int
    refused: int
    goodput_per_s: float
    p50_ms: float
    p99_ms: float
    variant_shares: Mapping[str, float]
    utilisation: float


@dataclass(frozen=True)
class Outcomes:
    """Every request in order of arrival. ends: seconds, NaN if rejected. busy_s, ranking_s: of all workers."""

    arrivals: NDArray[np.float64]
    ends: NDArray[np.float64]
    variants: Sequence[str]
    within_s: float
    busy_s: float
    ranking_s: float
    workers: int

    def report(self) -> Report:
        """The figures of the whole run, from 0 to the last arrival or answer."""
        seconds = float(np.fmax.reduce(self.ends, initial=self.arrivals.max(initial=0))) or math.nan
        latencies = (self.ends - self.arrivals)[~np.isnan(self.ends)]
        in_time = int(np.count_nonzero(latencies <= self.within_s + 1e-9))
        p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if len(latencies) else (math.nan, math.nan)
        served = [variant for variant in self.variants if variant]
        return Report(
            offered=len(self.arrivals),
            in_time=in_time,
            late=len(latencies) - in_time,
            refused=len(self.arrivals) - len(latencies),
            goodput_per_s=in_time / seconds,
            p50_ms=float(p50),
            p99_ms=float(p99),
            variant_shares={name: served.count(name) / len(served) for name in sorted(set(served))},
            utilisation=self.busy_s / (seconds * self.workers),
        )

    def recovered_s(self, ended: float, top: str) -> float:
        """Seconds from ``ended``, when an overload was over, to the last arrival that ``top`` did not answer."""
        others = np.array([variant != top for variant in self.variants], bool)
        return max(0.0, float(self.arrivals[others].max(initial=ended)) - ended)


def log_normal(profile: LatencyProfile) -> Service:
    """Service times as calibrated: log-normal through the p50 and p99 of each variant and batch size."""

    def seconds(variant: VariantId, size: int, random: np.random.Generator) -> float:
        curve = profile.curve(variant)
        p50, p99 = curve.p50_s(size), curve.p99_s(size)
        return p50 * math.exp(math.log(p99 / p50) / NORMAL_P99 * random.standard_normal())

    return seconds


def simulate(
    workers: Sequence[Policy],
    arrivals: NDArray[np.float64],
    within_s: float,
    service: Service,
    seed: int,
    loop: Loop | None = None,
) -> Outcomes:
    """Send ``arrivals`` (sorted seconds), each to a random one of fresh ``workers``, with a deadline of ``within_s``.

    The policies know the loop's overhead. The same arguments give the same outcomes.
    """
    random, loop = np.random.default_rng(seed), loop or Loop()
    places = random.integers(len(workers), size=len(arrivals))
    ends, variants = np.full(len(arrivals), math.nan), [""] * len(arrivals)
    busy_s = ranking_s = 0.0
    for place, policy in enumerate(workers):
        policy.overhead_s = loop.read_s + loop.write_s
        worker = _Worker(policy, arrivals, np.flatnonzero(places == place).tolist(), within_s, service, random, loop)
        worker.run(ends, variants)
        busy_s, ranking_s = busy_s + worker.busy_s, ranking_s + worker.ranking_s
    return Outcomes(arrivals, ends, variants, within_s, busy_s, ranking_s, len(workers))


class _Worker:
    def __init__(
        self,
        policy: Policy,
        arrivals: NDArray[np.float64],
        numbers: list[int],
        within_s: float,
        service: Service,
        random: np.random.Generator,
        loop: Loop,
    ) -> None:
        """numbers: of this worker's requests, in order."""
        self.policy, self.arrivals, self.numbers, self.within_s = policy, arrivals.tolist(), numbers, within_s
        self.service, self.random, self.loop = service, random, loop
        self.now = self.busy_s = self.ranking_s = self.turn_s = 0.0
        self.read = 0

    def run(self, ends: NDArray[np.float64], variants: list[str]) -> None:
        """Run until all requests have arrived and none waits."""
        while self.read < len(self.numbers) or self.policy.depth:
            wakes = self._wakes_at()
            self.turn_s = self.turn_s if wakes <= self.now else 0.0
            begun = self.now = max(self.now, wakes)
            self._read()
            for number, variant in self._ranked():
                self.now += self.loop.write_s
                ends[number], variants[number] = self.now, variant
            self.turn_s = self.now - begun
            self.busy_s += self.turn_s

    def _wakes_at(self) -> float:
        """The next moment with something to do."""
        arrival = self.arrivals[self.numbers[self.read]] if self.read < len(self.numbers) else math.inf
        if not self.policy.depth:
            return arrival
        return min(arrival, self.policy.wakes_at()) if isinstance(self.policy, FixedWindow) else 0.0

    def _read(self) -> None:
        """All requests that have arrived by now; their wait in the sockets is unknown to the worker."""
        begun = self.now
        while self.read < len(self.numbers) and self.arrivals[self.numbers[self.read]] <= begun:
            number = self.numbers[self.read]
            self.read += 1
            self.now += self.loop.read_s
            try:
                self.policy.admit(Request(begun - self.turn_s + self.within_s, number, begun - self.turn_s), self.now)
            except OverloadedError:
                self.now += self.loop.write_s

    def _ranked(self) -> list[tuple[int, str]]:
        """(number, variant) of the requests answered in this turn."""
        found: list[tuple[int, str]] = []
        while (batch := self.policy.next(self.now)) is not None:
            if batch.variant is None:
                self.now += self.loop.write_s * len(batch.requests)
                continue
            seconds = self.service(batch.variant, len(batch.requests), self.random)
            self.now += seconds
            self.ranking_s += seconds
            self.policy.completed(batch, seconds)
            found += [(request.number, batch.variant.variant) for request in batch.requests]
            if batch.variant != getattr(self.policy, "fallback", None):
                break
        return found


def fixed_window(profile: LatencyProfile, variant: VariantId, window_s: float = 0.005, batch: int = 16) -> FixedWindow:
    """With room for four batches.

    Raises:
        ConfigError: the variant was not calibrated up to ``batch``.
    """
    if profile.curve(variant).largest < batch:
        raise ConfigError(f"'{variant.variant}' was not calibrated at batch size {batch}")
    return FixedWindow(variant, window_s, batch, 4 * batch)
