"""A discrete-event simulation of replicas that each run a scheduler: the policy that serves, on a made-up clock."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lanner.serving.scheduling.contract import LOOK_S, WAITING_SHARE, WORKING_SHARE, Batch, Rejected, Request, Scheduler
from lanner.serving.scheduling.profile import NORMAL_P99, LatencyProfile

Service = Callable[[Batch, np.random.Generator], float]
"""Seconds that a batch takes."""
Balance = Literal["least", "two"]
"""To the replica with the least predicted completion of all, or of two drawn at random (Mitzenmacher, 2001)."""

_LOOK = -1
WAITING, ANSWERED, REJECTED, MISSED = range(4)
"""Fates of a request; nothing still waits when a simulation ends."""


@dataclass(frozen=True)
class Shell:
    """What the one thread of a replica spends that reads requests and writes answers, in seconds each.

    It does one thing after another, so at a high rate requests wait for it whatever the scheduler does: once to be read
    and once more for their answer to be written. spare: the variant by which it answers itself whom the scheduler
    cannot serve; empty: those are refused. is_alone: workers have interpreters of their own, as ``Dispatcher`` has it
    where it asks those beside it.
    """

    in_s: float = 0.0
    out_s: float = 0.0
    spare: str = ""
    is_alone: bool = False


@dataclass(frozen=True)
class Report:
    """A simulation in figures. goodput: answers within their deadline a second. Latencies are of answered requests."""

    offered: int
    in_time: int
    late: int
    missed: int
    rejected: int
    goodput_per_s: float
    p50_ms: float
    p99_ms: float
    variant_shares: Mapping[str, float]
    utilisation: float


@dataclass(frozen=True)
class Outcomes:
    """Every request of a simulation, in order of arrival. ends: seconds, NaN where not answered."""

    arrivals: NDArray[np.float64]
    ends: NDArray[np.float64]
    fates: NDArray[np.int8]
    variants: Sequence[str]
    within_s: float
    busy_s: float
    workers: int

    def report(self) -> Report:
        """The figures of the whole run, from 0 to the last arrival or answer."""
        seconds = float(np.fmax.reduce(self.ends, initial=self.arrivals.max(initial=0))) or math.nan
        answered = self.fates == ANSWERED
        latencies = (self.ends - self.arrivals)[answered]
        in_time = int(np.count_nonzero(latencies <= self.within_s + 1e-9))
        p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if len(latencies) else (math.nan, math.nan)
        served = [variant for variant in self.variants if variant]
        return Report(
            offered=len(self.arrivals),
            in_time=in_time,
            late=len(latencies) - in_time,
            missed=int(np.count_nonzero(self.fates == MISSED)),
            rejected=int(np.count_nonzero(self.fates == REJECTED)),
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
    """Service times as measured: log-normal through the p50 and p99 of each backend, variant and batch size."""

    def seconds(batch: Batch, random: np.random.Generator) -> float:
        curve = profile.curve(batch.backend, batch.variant)
        assert curve is not None, "a batch of a variant that was never measured"
        p50, p99 = curve.p50_s(len(batch.requests)), curve.p99_s(len(batch.requests))
        return p50 * math.exp(math.log(p99 / p50) / NORMAL_P99 * random.standard_normal())

    return seconds


def simulate(
    replicas: Sequence[Scheduler],
    workers: int,
    arrivals: NDArray[np.float64],
    within_s: float,
    service: Service,
    seed: int,
    balance: Balance = "least",
    shell: Shell | None = None,
) -> Outcomes:
    """Send ``arrivals`` (sorted seconds) to fresh ``replicas``, each to be answered ``within_s``.

    workers: of all replicas together, for the utilisation. shell: of every replica; None: it takes no time. The same
    arguments give the same outcomes.
    """
    return _Simulation(replicas, arrivals, within_s, service, seed, balance, shell or Shell()).run(workers)


class _Simulation:
    def __init__(
        self,
        replicas: Sequence[Scheduler],
        arrivals: NDArray[np.float64],
        within_s: float,
        service: Service,
        seed: int,
        balance: Balance,
        shell: Shell,
    ) -> None:
        self.replicas, self.arrivals, self.within_s, self.shell = replicas, arrivals, within_s, shell
        self.shell_free, self.shell_s = [0.0] * len(replicas), [0.0] * len(replicas)
        self.service, self.random = service, np.random.default_rng(seed)
        self.pairs = self.random.integers(len(replicas), size=(len(arrivals), 2)) if balance == "two" else None
        self.events: list[tuple[float, int, int, Batch | int | None]] = []
        """(time, order, replica, what): a batch that ends, the number of a request that was read, an alarm, a look."""
        self.timers = [math.inf] * len(replicas)
        self.pushed, self.busy_s = 0, 0.0
        self.ends = np.full(len(arrivals), math.nan)
        self.fates = np.full(len(arrivals), WAITING, np.int8)
        self.variants = [""] * len(arrivals)

    def run(self, workers: int) -> Outcomes:
        if self.shell != Shell():
            for place in range(len(self.replicas)):
                self._push(LOOK_S, place, _LOOK)
        for number, arrival in enumerate(self.arrivals.tolist()):
            while self.events and self.events[0][0] <= arrival:
                self._happen()
            self._arrive(number, arrival)
        while self.events:
            self._happen()
        assert not (self.fates == WAITING).any(), "a request was lost"
        found = self.arrivals, self.ends, self.fates, self.variants
        return Outcomes(*found, self.within_s, self.busy_s, workers)

    def _push(self, time: float, place: int, what: Batch | int | None) -> None:
        self.pushed += 1
        heapq.heappush(self.events, (time, self.pushed, place, what))

    def _arrive(self, number: int, now: float) -> None:
        place = self._choose(number, now)
        self._push(self._through_shell(place, now, self.shell.in_s), place, number)

    def _through_shell(self, place: int, now: float, seconds: float) -> float:
        """When the thread has done this, too."""
        self.shell_s[place] += seconds
        self.shell_free[place] = max(now, self.shell_free[place]) + seconds
        return self.shell_free[place]

    def _choose(self, number: int, now: float) -> int:
        if len(self.replicas) == 1:
            return 0
        among = range(len(self.replicas)) if self.pairs is None else self.pairs[number].tolist()
        return min(among, key=lambda place: self.replicas[place].backlog_s(now))

    def _happen(self) -> None:
        now, _, place, what = heapq.heappop(self.events)
        if what is None:
            self.timers[place] = math.inf
        elif what == _LOOK:
            self._look(place, now)
        elif isinstance(what, Batch):
            self._complete(place, what, now)
        else:
            self._ask(place, what, now)
        self._pump(place, now)

    def _ask(self, place: int, number: int, now: float) -> None:
        patience = WAITING_SHARE if self.shell.spare else 1.0
        arrival = float(self.arrivals[number])
        request = Request(number, arrival, arrival + patience * self.within_s)
        if isinstance(self.replicas[place].admit(request, now), Rejected) and not self._spared(place, number, now):
            self.fates[number] = REJECTED

    def _spared(self, place: int, number: int, now: float) -> bool:
        """Whether it is answered at once instead."""
        if not self.shell.spare:
            return False
        # Written in the same turn, but those who wait to be read wait so much longer.
        self._through_shell(place, now, self.shell.out_s)
        self.ends[number] = now + self.shell.out_s
        self.fates[number], self.variants[number] = ANSWERED, self.shell.spare
        return True

    def _look(self, place: int, now: float) -> None:
        self.replicas[place].set_busy(0.0 if self.shell.is_alone else self.shell_s[place] / LOOK_S)
        self.shell_s[place] = 0.0
        if now < self.arrivals[-1]:
            self._push(now + LOOK_S, place, _LOOK)

    def _complete(self, place: int, batch: Batch, now: float) -> None:
        self.replicas[place].completed(batch, now)
        for request in batch.requests:
            assert self.fates[request.number] == WAITING, "a request was answered twice"
            # The batch is done all the same, for nobody.
            spared_at = request.arrival + WORKING_SHARE * self.within_s
            written, variant = self._through_shell(place, now, self.shell.out_s), batch.variant
            if self.shell.spare and spared_at < now:
                written, variant = spared_at + self.shell.out_s, self.shell.spare
            self.ends[request.number] = written
            self.fates[request.number], self.variants[request.number] = ANSWERED, variant

    def _pump(self, place: int, now: float) -> None:
        """Start what the scheduler wants started; set the alarm it asks for, unless an earlier one is set."""
        replica = self.replicas[place]
        while isinstance(decision := replica.next(now), Batch):
            seconds = self.service(decision, self.random)
            self.busy_s += seconds
            self._push(now + seconds, place, decision)
        for number in replica.take_missed():
            if not self._spared(place, number, now):
                self.fates[number] = MISSED
        wait = getattr(decision, "time", math.inf)
        if wait < self.timers[place]:
            self.timers[place] = wait
            self._push(wait, place, None)
