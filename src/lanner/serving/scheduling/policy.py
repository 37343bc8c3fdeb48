"""The elastic scheduler: which requests to take, when to start which batch, on which backend, by which variant."""

import math
from collections.abc import Mapping, Sequence

from lanner.errors import ConfigError
from lanner.serving.scheduling.capacity import Lane, Level, Load, Rung, rungs_of
from lanner.serving.scheduling.config import SchedulerConfig
from lanner.serving.scheduling.contract import Admitted, Batch, Idle, Rejected, Request, WaitUntil
from lanner.serving.scheduling.profile import LatencyProfile
from lanner.serving.scheduling.stations import Station, checked_workers
from lanner.serving.scheduling.waiting import Waiting

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
        sheds: bool = False,
    ) -> None:
        """variants: best first. workers: how many batches each backend may run at a time. sheds: see ``Level``.

        Raises:
            ConfigError: a variant was measured on none of the backends, or no worker is left.
        """
        self.config = config or SchedulerConfig()
        self._profile = profile
        self._stations = {name: Station(name, count) for name, count in checked_workers(workers).items()}
        self._rungs = rungs_of(profile, variants, list(self._stations.values()))
        self._lowest = {variant: rung for rung, variant in enumerate(variants)}
        self._fastest_s = [0.0] * len(variants)
        self._swiftest = list(self._rungs)
        self._waiting, self._load = Waiting(len(variants)), Load(self.config.rate_memory_s)
        self._level = Level(self._rungs, self.config, sheds)
        self._running: set[int] = set()
        self._missed: list[int] = []
        self._batches, self._planned, self._judged, self._busy = 0, -math.inf, -math.inf, 0.0

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
        place, end, late_s = self._predict(request, lowest, now)
        if late_s > 0:
            return Rejected(late_s)
        self._waiting.add(request, lowest, place)
        return Admitted(end)

    def next(self, now: float) -> Batch | WaitUntil | Idle:
        """The batch to start now; or until when to wait, with slack left or every worker busy."""
        if not len(self._waiting) and now - self._judged < self.config.plan_every_s:
            return _IDLE
        self._plan(now)
        live, wait = self._drop_useless(now)
        if any(station.idle for station in self._stations.values()):
            self._judge(now)
            for first, places in self._groups(live):
                decision = self._start(first, places, now)
                if isinstance(decision, Batch):
                    return decision
                wait = min(wait, decision)
        return WaitUntil(max(wait, math.nextafter(now, math.inf))) if live else _IDLE

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

    def set_busy(self, share: float) -> None:
        """What the shell takes is missing where a better variant would want it: see ``Level``."""
        self._busy = min(max(share, 0.0), 1.0)

    def backlog_s(self, now: float) -> float:
        """Seconds of work under way and waiting, as if the best variant served all that waits.

        At the variant in use, a replica that had to fall would seem quicker, be sent more, and never climb back.
        """
        stations = self._stations.values()
        under_way = sum([station.remaining_s(now) for station in stations])
        workers = sum([station.workers for station in stations])
        return under_way / workers + len(self._waiting) * self.request_s(now)

    def request_s(self, now: float) -> float:
        """Seconds that one request takes at the best variant's throughput."""
        self._plan(now)
        return 1 / self._rungs[0].throughput

    def _judge(self, now: float) -> None:
        self._level.update(self._load, len(self._waiting), now, self._busy)
        self._judged = now

    def _lowest_of(self, request: Request) -> int:
        if request.lowest is None:
            return len(self._rungs) - 1
        if request.lowest not in self._lowest:
            raise ConfigError(f"no variant '{request.lowest}'; there are {', '.join(self._lowest)}")
        return self._lowest[request.lowest]

    def _plan(self, now: float) -> None:
        if now - self._planned < self.config.plan_every_s:
            return
        if math.isfinite(self._planned):
            self._profile.fade(now - self._planned)
        # Before the first request no deadline is known; what is planned then must not last.
        self._planned = -math.inf if math.isinf(self._load.typical_s) else now
        rate = self._load.rate(now) / self.config.full_at
        best, swiftest = math.inf, self._rungs[0]
        for place, rung in enumerate(self._rungs):
            rung.plan(rate, self._load.typical_s)
            best = min(best, rung.fastest_s)
            swiftest = max(swiftest, rung, key=lambda one: one.throughput)
            self._fastest_s[place] = best if math.isfinite(best) else 0.0
            self._swiftest[place] = swiftest

    def _predict(self, request: Request, lowest: int, now: float) -> tuple[int, float, float]:
        """(place in its queue, end at the swiftest rung it accepts, seconds by which it or the last would be late)."""
        rung, waiting = self._swiftest[lowest], self._waiting
        own = waiting.queues[lowest]
        ahead, batch = waiting.before(request, lowest), rung.widest.batch
        queued_s = (ahead - ahead % batch) / rung.throughput
        if len(waiting) > len(own):
            others = (place for place, queue in enumerate(waiting.queues) if queue and place != lowest)
            queued_s += sum(waiting.before(request, place) / self._swiftest[place].throughput for place in others)
        begin = self._free_at(rung, now) + queued_s / self.config.full_at
        # Later arrivals join its batch, which grows to what they need.
        end = begin + rung.widest.curve.p99_s(min(max(ahead % batch + 1, rung.needed), batch))
        late_s = end - request.deadline
        if ahead < len(own):
            last = begin + (len(own) - ahead + 1) / rung.throughput + rung.fastest_s
            late_s = max(late_s, last - own[-1][0])
        return ahead, end, late_s

    def _work_s(self) -> float:
        queues = zip(self._waiting.queues, self._swiftest, strict=True)
        return sum(len(queue) / rung.throughput for queue, rung in queues)

    def _free_at(self, rung: Rung, now: float) -> float:
        return min(lane.station.free_at(now) for lane in rung.lanes)

    def _drop_useless(self, now: float) -> tuple[list[int], float]:
        """Drop what no rung could answer in time any more; (queues with requests left, when the next is useless)."""
        live, next_useless = [], math.inf
        for place, queue in enumerate(self._waiting.queues):
            if queue and queue[0][0] - self._fastest_s[place] < now:
                self._missed += self._waiting.drop_before(place, now + self._fastest_s[place])
            if queue:
                live.append(place)
                next_useless = min(next_useless, queue[0][0] - self._fastest_s[place])
        return live, next_useless

    def _groups(self, live: list[int]) -> list[tuple[int, list[int]]]:
        """(rung to serve at, queues served there), the earliest deadline first."""
        level = self._level.rung
        if len(live) == 1:
            return [(min(level, live[0]), live)]
        groups = [(place, [place]) for place in live if place < level]
        groups.append((level, [place for place in live if place >= level]))
        queues = self._waiting.queues
        earliest = [(min(queues[place][0] for place in places), first, places) for first, places in groups if places]
        return [(first, places) for _, first, places in sorted(earliest)]

    def _head(self, places: list[int]) -> tuple[Request, int]:
        """The earliest request of some queues, and the lowest rung that it accepts."""
        queues = self._waiting.queues
        lowest = places[0] if len(places) == 1 else min(places, key=lambda place: queues[place][0])
        return queues[lowest][0][2], lowest

    def _start(self, first: int, places: list[int], now: float) -> Batch | float:
        """A batch of some queues at rung ``first`` or, for want of slack, below it; or when to look again.

        The best rung that answers the earliest request in time with a batch large enough for the arrivals.
        """
        head, lowest = self._head(places)
        for number in range(first, lowest + 1):
            found = self._try(number, self._rungs[number].needed, head, places, now)
            if found is not None:
                return found
        # No rung keeps up with the arrivals and this deadline; a small batch is better than a request dropped.
        for number in range(lowest, -1, -1):
            found = self._try(number, 1, head, places, now)
            if found is not None:
                return found
        return math.inf

    def _try(self, number: int, least: int, head: Request, places: list[int], now: float) -> Batch | float | None:
        """Serve at one rung, with at least so many if they wait; None where ``head`` would be late."""
        rung = self._rungs[number]
        served = [place for place in places if place >= number]
        waiting = sum([len(self._waiting.queues[place]) for place in served])
        lane, size, free = self._fastest_lane(rung, head.deadline, waiting, min(waiting, least), now)
        if lane is None:
            return None
        start = max(free, self._grown_by(head, lane, rung, waiting))
        return start if start > now else self._begin(lane, rung, served, size, now)

    def _grown_by(self, head: Request, lane: Lane, rung: Rung, waiting: int) -> float:
        """Until when a batch may wait to grow to the size that the arrivals need."""
        grown = min(rung.needed, lane.batch)
        if waiting >= grown:
            return -math.inf
        return head.arrival + self.config.patience * (head.deadline - lane.curve.p99_s(grown) - head.arrival)

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

    def _begin(self, lane: Lane, rung: Rung, places: list[int], size: int, now: float) -> Batch:
        requests = self._waiting.take(places, size)
        self._batches += 1
        end = now + lane.curve.p99_s(size)
        lane.station.start(end)
        self._running.add(self._batches)
        return Batch(self._batches, lane.station.name, rung.variant, requests, now, end)
