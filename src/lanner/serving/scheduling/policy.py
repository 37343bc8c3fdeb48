"""The elastic scheduler: which requests to take, when to start which batch, on which backend, by which variant."""

import math
from collections.abc import Mapping, Sequence

from lanner.serving.scheduling.capacity import Lane, Level, Load, Rung, rungs_of
from lanner.serving.scheduling.config import SchedulerConfig
from lanner.serving.scheduling.contract import Admitted, Batch, Idle, Rejected, Request, WaitUntil
from lanner.serving.scheduling.profile import LatencyProfile
from lanner.serving.scheduling.stations import Station, checked_workers
from lanner.serving.scheduling.waiting import Waiting
from lanner.vocabulary import ConfigError

_IDLE = Idle()


class Policy:
    """Earliest deadline first with deferred batches, over a ladder of variants and over unlike backends.

    Predictions come from measured times, so that what cannot be answered in time is refused on arrival and never
    computed (Clockwork, Gujarati et al., OSDI 2020). A batch waits to grow while arrivals need it larger and its
    earliest deadline has slack (Symphony, Chen et al., 2023). The variant is chosen for the queue as a whole, see
    ``Level``; a request whose own slack is shorter is served further down.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        variants: Sequence[str],
        workers: Mapping[str, int],
        config: SchedulerConfig | None = None,
    ) -> None:
        """variants: best first. workers: how many batches each backend may run at a time.

        Raises:
            ConfigError: a variant was measured on none of the backends, or no worker is left.
        """
        self.config = config or SchedulerConfig()
        self._profile = profile
        self._stations = {name: Station(name, count) for name, count in checked_workers(workers).items()}
        self._rungs = rungs_of(profile, variants, list(self._stations.values()))
        self._lowest = {variant: rung for rung, variant in enumerate(variants)}
        self._fastest_s = [0.0] * len(variants)
        self._waiting, self._load = Waiting(len(variants)), Load(self.config.rate_memory_s)
        self._level = Level(self._rungs, self.config)
        self._running: set[int] = set()
        self._missed: list[int] = []
        self._batches, self._planned = 0, -math.inf

    @property
    def variant(self) -> str:
        """The variant that serves at present."""
        return self._rungs[self._level.rung].variant

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Batches that run."""
        return len(self._running)

    def admit(self, request: Request, now: float) -> Admitted | Rejected:
        """Take a request, or reject it with the seconds after which it would have been in time.

        Raises:
            ConfigError: it asks for a variant that is not on the ladder.
            ValueError: its number waits already.
        """
        if request.number in self._waiting:
            raise ValueError(f"request {request.number} waits already")
        lowest = self._lowest_of(request)
        self._load.offered(request.deadline - request.arrival, now)
        self._plan(now)
        if len(self._waiting) >= self.config.queue_limit:
            return Rejected(self._work_s())
        end, late_s = self._predict(request, lowest, now)
        if late_s > 0:
            return Rejected(late_s)
        self._waiting.add(request, lowest)
        return Admitted(end)

    def next(self, now: float) -> Batch | WaitUntil | Idle:
        """The batch to start now; or until when to wait, with slack left or every worker busy."""
        self._plan(now)
        self._level.update(self._load, len(self._waiting), now)
        wait = math.inf
        for first, queues in self._groups():
            decision = self._serve(first, queues, now)
            if isinstance(decision, Batch):
                return decision
            wait = min(wait, decision)
        return WaitUntil(wait) if len(self._waiting) else _IDLE

    def completed(self, batch: Batch, now: float) -> tuple[int, ...]:
        """A batch has ended; its time corrects the profile. Returns the requests answered too late.

        Raises:
            ValueError: the batch does not run.
        """
        if batch.number not in self._running:
            raise ValueError(f"batch {batch.number} does not run")
        self._running.remove(batch.number)
        self._stations[batch.backend].finish(batch.predicted_completion)
        self._profile.observe(batch.backend, batch.variant, len(batch.requests), now - batch.started)
        return tuple([request.number for request in batch.requests if request.deadline < now])

    def cancel(self, number: int) -> bool:
        """Forget a request that waits; False where it runs, was answered or is unknown."""
        return self._waiting.remove(number)

    def take_missed(self) -> tuple[int, ...]:
        """Requests dropped since the last call, because no variant they accept could have been in time."""
        missed, self._missed = tuple(self._missed), []
        return missed

    def set_workers(self, workers: Mapping[str, int]) -> None:
        """Change how many batches the named backends may run at a time.

        Raises:
            ConfigError: a backend is unknown, or no worker is left.
        """
        unknown = workers.keys() - self._stations.keys()
        if unknown:
            raise ConfigError(f"no backend '{min(unknown)}'; there are {', '.join(self._stations)}")
        checked_workers({name: station.workers for name, station in self._stations.items()} | dict(workers))
        for name, count in workers.items():
            self._stations[name].workers = count
        self._planned = -math.inf

    def backlog_s(self, now: float) -> float:
        """Seconds until one more request would be answered by the variant that serves."""
        rung = self._rungs[self._level.rung]
        self._plan(now)
        return self._free_at(rung, now) - now + rung.drain_s(len(self._waiting))

    def _lowest_of(self, request: Request) -> int:
        if request.lowest is None:
            return len(self._rungs) - 1
        if request.lowest not in self._lowest:
            raise ConfigError(f"no variant '{request.lowest}'; there are {', '.join(self._lowest)}")
        return self._lowest[request.lowest]

    def _plan(self, now: float) -> None:
        if now - self._planned < self.config.plan_every_s:
            return
        self._planned, best = now, math.inf
        rate = self._load.rate(now) / self.config.full_at
        for place, rung in enumerate(self._rungs):
            rung.plan(rate, self._load.typical_s)
            best = min(best, rung.fastest_s)
            self._fastest_s[place] = best

    def _predict(self, request: Request, lowest: int, now: float) -> tuple[float, float]:
        """(when this request would be answered at the lowest rung it accepts, seconds by which anybody is late)."""
        rung, waiting = self._rungs[lowest], self._waiting
        ahead_s = 0.0
        for place, queue in enumerate(waiting.queues):
            if queue and place != lowest:
                ahead_s += waiting.before(place, request.deadline) / self._rungs[place].throughput
        ahead = waiting.before(lowest, request.deadline)
        batch = rung.widest.batch
        # Later arrivals join its batch, which grows to what they need.
        own = rung.widest.curve.p99_s(min(max(ahead % batch + 1, rung.needed), batch))
        free = self._free_at(rung, now)
        end = free + ahead_s + (ahead - ahead % batch) / rung.throughput + own
        queue = waiting.queues[lowest]
        late_s = end - request.deadline
        if ahead < len(queue):
            last = free + ahead_s + (len(queue) + 1) / rung.throughput + rung.fastest_s
            late_s = max(late_s, last - queue[-1][0])
        return end, late_s

    def _work_s(self) -> float:
        queues = zip(self._waiting.queues, self._rungs, strict=True)
        return sum(len(queue) / rung.throughput for queue, rung in queues)

    def _free_at(self, rung: Rung, now: float) -> float:
        return min(lane.station.free_at(now) for lane in rung.lanes)

    def _groups(self) -> list[tuple[int, range]]:
        """(rung to serve at, queues served there), the earliest deadline first."""
        level, queues = self._level.rung, self._waiting.queues
        strict = [(rung, range(rung, rung + 1)) for rung in range(level) if queues[rung]]
        free = [(level, range(level, len(queues)))] if any(queues[level:]) else []
        groups = strict + free
        return sorted(groups, key=lambda group: self._head(group[1])[0].deadline) if strict else groups

    def _head(self, places: range) -> tuple[Request, int]:
        """The earliest request of some queues, and the lowest rung that it accepts."""
        queues = self._waiting.queues
        lowest = min((place for place in places if queues[place]), key=lambda place: queues[place][0])
        return queues[lowest][0][2], lowest

    def _serve(self, first: int, places: range, now: float) -> Batch | float:
        """A batch of some queues at rung ``first`` or, for want of slack, below it; or when to look again."""
        queues = self._waiting.queues
        while any(queues[place] for place in places):
            head, lowest = self._head(places)
            useless = head.deadline - self._fastest_s[lowest]
            if useless >= now:
                decision = self._start(head, range(first, lowest + 1), places, now)
                if decision is not None:
                    return decision
                if useless > now:
                    return useless
            self._waiting.remove(head.number)
            self._missed.append(head.number)
        return math.inf

    def _start(self, head: Request, rungs: range, places: range, now: float) -> Batch | float | None:
        """The best rung that answers ``head`` in time with a batch large enough for the arrivals."""
        if not any(station.idle for station in self._stations.values()):
            return None
        for place in rungs:
            rung = self._rungs[place]
            served = range(max(place, places.start), places.stop)
            waiting = sum(len(self._waiting.queues[lowest]) for lowest in served)
            least = 1 if place == rungs[-1] else min(waiting, rung.needed)
            lane, size, free = self._fastest_lane(rung, head.deadline, waiting, least, now)
            if lane is None:
                continue
            if free > now:
                return free
            grown = min(rung.needed, lane.batch)
            if waiting < grown:
                slack = head.deadline - lane.curve.p99_s(grown) - head.arrival
                start_by = head.arrival + self.config.patience * slack
                if start_by > now:
                    return start_by
            return self._begin(lane, rung, served, size, now)
        return None

    def _fastest_lane(
        self, rung: Rung, deadline: float, waiting: int, least: int, now: float
    ) -> tuple[Lane | None, int, float]:
        """(lane with the earliest predicted completion, batch size, when it is free).

        A busy lane is waited for only if its next batch takes everything that waits; else an idle one helps.
        """
        best: tuple[Lane | None, int, float] = (None, 0, 0.0)
        best_end = math.inf
        for lane in rung.lanes:
            if lane.station.overdue(now):
                continue
            free = lane.station.free_at(now)
            size = min(waiting, lane.batch, lane.curve.largest_within(deadline - free))
            if size < max(1, min(least, lane.batch)) or (free > now and size < waiting):
                continue
            end = free + lane.curve.p99_s(size)
            if end < best_end:
                best, best_end = (lane, size, free), end
        return best

    def _begin(self, lane: Lane, rung: Rung, places: range, size: int, now: float) -> Batch:
        requests = self._waiting.take(places, size)
        self._batches += 1
        end = now + lane.curve.p99_s(size)
        lane.station.start(end)
        self._running.add(self._batches)
        return Batch(self._batches, lane.station.name, rung.variant, requests, now, end)
