"""The scheduler most servers have, for comparison: one variant, a fixed window for batches, first come first served."""

import math
from collections.abc import Mapping

from lanner.errors import ConfigError
from lanner.serving.scheduling.contract import Admitted, Batch, Idle, Rejected, Request, WaitUntil
from lanner.serving.scheduling.profile import LatencyProfile
from lanner.serving.scheduling.stations import Station, checked_workers


class FixedWindow:
    """Batches start when full or when their first request has waited ``window_s``; deadlines are not looked at."""

    def __init__(
        self,
        profile: LatencyProfile,
        variant: str,
        workers: Mapping[str, int],
        window_s: float,
        batch: int,
        queue_limit: int,
    ) -> None:
        """workers: of exactly one backend.

        Raises:
            ConfigError: there is not exactly one backend, or the variant was not measured there up to ``batch``.
        """
        if len(checked_workers(workers)) != 1:
            raise ConfigError(f"a fixed window serves one backend, received {', '.join(workers)}")
        (backend, count), *_ = workers.items()
        curve = profile.curve(backend, variant)
        if curve is None or curve.largest < batch:
            raise ConfigError(f"the latency profile has no variant '{variant}' on {backend} at batch size {batch}")
        self._variant, self._curve, self._station = variant, curve, Station(backend, count)
        self._window_s, self._batch, self._queue_limit = window_s, batch, queue_limit
        self._waiting: dict[int, Request] = {}
        self._batches = 0

    def admit(self, request: Request, now: float) -> Admitted | Rejected:
        """Take the request while the queue has room."""
        if len(self._waiting) >= self._queue_limit:
            return Rejected(self.backlog_s(now))
        end = now + self.backlog_s(now) + self._curve.p99_s(self._batch)
        self._waiting[request.number] = request
        return Admitted(end)

    def next(self, now: float) -> Batch | WaitUntil | Idle:
        """A full batch, or what has come once the window has passed."""
        if not self._waiting:
            return Idle()
        if not self._station.idle:
            return WaitUntil(math.inf)
        due = next(iter(self._waiting.values())).arrival + self._window_s
        if len(self._waiting) < self._batch and due > now:
            return WaitUntil(due)
        numbers = list(self._waiting)[: self._batch]
        requests = tuple([self._waiting.pop(number) for number in numbers])
        self._batches += 1
        end = now + self._curve.p99_s(len(requests))
        self._station.start(end)
        return Batch(self._batches, self._station.name, self._variant, requests, now, end)

    def completed(self, batch: Batch, now: float) -> tuple[int, ...]:
        """Free the worker; returns the requests answered too late."""
        self._station.finish(batch.predicted_completion)
        return tuple([request.number for request in batch.requests if request.deadline < now])

    def cancel(self, number: int) -> bool:
        """Forget a request that waits."""
        return self._waiting.pop(number, None) is not None

    def take_missed(self) -> tuple[int, ...]:
        """Never any: nothing is dropped."""
        return ()

    def set_workers(self, workers: Mapping[str, int]) -> None:
        """Change the number of workers."""
        self._station.workers = workers[self._station.name]

    def set_busy(self, share: float) -> None:
        """Nothing follows from it."""

    def backlog_s(self, now: float) -> float:
        """Seconds of work under way and waiting."""
        batches = math.ceil(len(self._waiting) / self._batch)
        work_s = self._station.remaining_s(now) + batches * self._curve.mean_s(self._batch)
        return work_s / max(1, self._station.workers)

    def request_s(self, now: float) -> float:
        """Seconds that one request takes in a full batch."""
        return self._curve.mean_s(self._batch) / (self._batch * max(1, self._station.workers))
