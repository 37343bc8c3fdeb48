"""What each variant can carry over all backends, how much arrives, and which variant therefore serves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lanner.errors import ConfigError
from lanner.serving.scheduling.config import SchedulerConfig
from lanner.serving.scheduling.profile import Curve, LatencyProfile
from lanner.serving.scheduling.stations import Station

_SETTLED_S, _LONGEST_WHILE_S = 10.0, 60.0
"""A rung that served for so long was not climbed to in vain; and so long is the longest while before another try."""
_FAR = 2.0
"""Times the arrivals: where a rung would carry that, what went wrong before does not count."""
_TYPICAL = 0.05
"""Weight of one request in the typical time between arrival and deadline."""


@dataclass(slots=True)
class Lane:
    """One variant on one backend. batch: requests at most in one batch, so that two of them fit a typical deadline."""

    station: Station
    curve: Curve
    batch: int = 1


class Rung:
    """One variant on all backends that have it.

    throughput: requests a second at the lanes' batch sizes. widest: the lane that gives most of it. batch_s: what a
    full batch takes there. fastest_s: one request alone, on the quickest backend. Times at the 99th percentile.
    """

    def __init__(self, variant: str, lanes: Sequence[Lane]) -> None:
        self.variant, self.lanes = variant, lanes
        self.widest, self.throughput, self.needed = lanes[0], 1.0, 1
        self.batch_s, self.fastest_s = 0.0, 0.0

    def plan(self, rate: float, typical_s: float) -> None:
        """Weigh anew.

        A batch may take half of the typical deadline: a request that just missed one waits for it and then for its own
        (Nexus, Shen et al., SOSP 2019). ``needed`` is the smallest batch size that keeps up with ``rate``.
        """
        for lane in self.lanes:
            lane.batch = max(1, lane.curve.largest_within(typical_s / 2))
        self.throughput = self._throughput_at(max(lane.batch for lane in self.lanes))
        self.widest = max(
            self.lanes, key=lambda lane: lane.station.workers * lane.batch / lane.curve.mean_s(lane.batch)
        )
        self.batch_s = self.widest.curve.p99_s(self.widest.batch)
        staffed = [lane for lane in self.lanes if lane.station.workers]
        self.fastest_s = min((lane.curve.p99_s(1) for lane in staffed), default=math.inf)
        self.needed = 1
        while self.needed < self.widest.batch and self._throughput_at(self.needed) < rate:
            self.needed = min(2 * self.needed, self.widest.batch)

    def _throughput_at(self, batch: int) -> float:
        sizes = [(lane, min(batch, lane.batch)) for lane in self.lanes]
        total = sum(lane.station.workers * size / lane.curve.mean_s(size) for lane, size in sizes)
        return max(total, 1e-9)

    def carries(self, rate: float, waiting: int, typical_s: float, share: float, left: float = 1.0) -> bool:
        """Whether ``share`` of this throughput bears the arrivals, and ``share`` of a deadline drains the queue.

        left: of the throughput, so much can be had.
        """
        spare_s, throughput = share * typical_s - self.batch_s, left * self.throughput
        fits = spare_s >= 0 and waiting <= self.widest.batch + spare_s * throughput
        return fits and rate <= share * throughput


class Load:
    """Arrivals a second, and the typical seconds from arrival to deadline; both forget exponentially."""

    def __init__(self, memory_s: float) -> None:
        self.typical_s = math.inf
        self._memory_s, self._rate, self._last = memory_s, 0.0, 0.0

    def offered(self, within_s: float, now: float) -> None:
        """A request arrived that is to be answered ``within_s``."""
        first = math.isinf(self.typical_s)
        self.typical_s = within_s if first else self.typical_s + _TYPICAL * (within_s - self.typical_s)
        self._rate = self.rate(now) + 1 / self._memory_s
        self._last = now

    def rate(self, now: float) -> float:
        """Arrivals a second, those rejected among them."""
        return self._rate * math.exp((self._last - now) / self._memory_s)


class Level:
    """The rung that serves, and the hysteresis around it: down at once, or after a while where requests that wait too
    long are shed, and up one rung at a time after a quiet while.

    A rung that was left again soon after it was climbed to is tried the next time after twice the while, unless the
    load has fallen far below what it should carry: each try that fails costs some requests their deadline.
    """

    def __init__(self, rungs: Sequence[Rung], config: SchedulerConfig, sheds: bool = False) -> None:
        """sheds: who waits too long is answered elsewhere. Then a queue of a moment, or a pause of the machine, is no
        reason for a lower rung: only arrivals that this one has not borne for as long as it takes to climb.
        """
        self.rung = 0
        self._sheds, self._heavy_since = sheds, math.inf
        self._rungs, self._config = rungs, config
        self._quiet_since: float | None = None
        self._climbed = -math.inf
        self._while_s = [config.climb_after_s] * len(rungs)

    def update(self, load: Load, waiting: int, now: float, busy: float = 0.0) -> None:
        """Choose for the queue as a whole: the best rung that drains it and bears the arrivals, else the swiftest.

        busy: of the thread that takes requests in. Workers share the interpreter with it, so that a better rung is
        trusted with that much less; who serves already has shown what it takes.
        """
        rate, typical_s, config = load.rate(now), load.typical_s, self._config
        waiting = 0 if self._sheds else waiting
        rungs = self._rungs
        if rungs[self.rung].carries(rate, waiting, typical_s, config.full_at):
            self._heavy_since = math.inf
        else:
            self._heavy_since = min(self._heavy_since, now)
        if now - self._heavy_since >= (config.climb_after_s if self._sheds else 0.0):
            carrying = (
                place
                for place in range(self.rung + 1, len(rungs))
                if rungs[place].carries(rate, waiting, typical_s, config.full_at)
            )
            most = max(range(len(rungs)), key=lambda place: rungs[place].throughput)
            self._fall(next(carrying, most), now)
        while self.rung and self._quiet(rate, waiting, typical_s, busy, now):
            self.rung, self._climbed = self.rung - 1, now

    def _fall(self, lower: int, now: float) -> None:
        before = self._while_s[self.rung]
        soon = now - self._climbed < _SETTLED_S
        self._while_s[self.rung] = min(2 * before, _LONGEST_WHILE_S) if soon else self._config.climb_after_s
        self.rung, self._quiet_since, self._heavy_since = lower, None, math.inf

    def _quiet(self, rate: float, waiting: int, typical_s: float, busy: float, now: float) -> bool:
        """Whether the better rung has carried the load for long enough; what it needed of that time is then used up."""
        better, share = self._rungs[self.rung - 1], self._config.climb_below
        if not better.carries(rate, waiting, typical_s, share, 1 - busy):
            self._quiet_since = None
            return False
        far_below = better.carries(_FAR * rate, waiting, typical_s, share, 1 - busy)
        needed_s = self._config.climb_after_s if far_below else self._while_s[self.rung - 1]
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < needed_s:
            return False
        self._quiet_since += needed_s
        return True


def rungs_of(profile: LatencyProfile, variants: Sequence[str], stations: Sequence[Station]) -> list[Rung]:
    """The ladder, best first, with the lanes that the profile knows.

    Raises:
        ConfigError: no variant is given, one twice, or one was measured on none of the backends.
    """
    if not variants or len(set(variants)) < len(variants):
        raise ConfigError(f"variants are {', '.join(variants) or 'missing'}; name each once, the best first")
    rungs = []
    for variant in variants:
        curves = [(station, profile.curve(station.name, variant)) for station in stations]
        lanes = [Lane(station, curve) for station, curve in curves if curve is not None]
        if not lanes:
            names = ", ".join(station.name for station in stations)
            raise ConfigError(f"the latency profile has no variant '{variant}' on {names}; measure it there")
        rungs.append(Rung(variant, lanes))
    return rungs
