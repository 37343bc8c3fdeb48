"""What a scheduler is asked and what it answers. Times are seconds on one clock, whichever the caller reads.

Named tuples: they are made in a third of the time that a frozen dataclass takes, and every request makes several.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """One request. number: unique among those under way. lowest: the worst variant it accepts; None: any."""

    number: int
    arrival: float
    deadline: float
    lowest: str | None = None


class Admitted(NamedTuple):
    """The request waits in the queue. predicted_completion: by the swiftest variant that it accepts."""

    predicted_completion: float


class Rejected(NamedTuple):
    """The request would not have been answered in time; it was not kept.

    retry_after_s: above 0; infinite while no worker runs a variant that it accepts.
    """

    retry_after_s: float


class Batch(NamedTuple):
    """Requests to compute now, together. number: unique. predicted_completion: at the 99th percentile."""

    number: int
    backend: str
    variant: str
    requests: tuple[Request, ...]
    started: float
    predicted_completion: float


class WaitUntil(NamedTuple):
    """Nothing to start now. Ask again at ``time``, or as soon as a request was admitted or a batch completed."""

    time: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing waits. Ask again once a request was admitted."""


WAITING_SHARE = 0.6
"""Of its deadline, for which a request may be with the scheduler where a spare variant answers without a worker: then
it can be answered in time after all, and those whom workers serve are not all served at the last moment."""
WORKING_SHARE = 0.75
"""Of its deadline, after which the spare variant answers a request whose batch has not come back."""
LOOK_S = 0.25
"""How often a scheduler hears how busy the thread is that asks it."""


class Scheduler(Protocol):
    """Pure: reads no clock, starts no thread, draws no number. ``now`` never runs backwards."""

    def admit(self, request: Request, now: float) -> Admitted | Rejected:
        """Take a request into the queue, or say at once that it cannot be answered in time."""
        ...

    def next(self, now: float) -> Batch | WaitUntil | Idle:
        """What to start now. Call it again after each batch, until it gives none."""
        ...

    def completed(self, batch: Batch, now: float) -> tuple[int, ...]:
        """Say that a batch has ended; returns the numbers of the requests that it answered too late."""
        ...

    def cancel(self, number: int) -> bool:
        """Take a request out of the queue; False where it no longer waits there."""
        ...

    def take_missed(self) -> tuple[int, ...]:
        """Numbers of the requests dropped since the last call: they could no longer be answered in time."""
        ...

    def set_workers(self, workers: Mapping[str, int]) -> None:
        """How many batches each backend may run at a time from now on; what runs is not interrupted."""
        ...

    def set_busy(self, share: float) -> None:
        """How much of its time the thread spends that takes requests in and gives answers out; workers want it, too."""
        ...

    def backlog_s(self, now: float) -> float:
        """Seconds of work under way and waiting, as predicted; a balancer compares replicas by it."""
        ...

    def request_s(self, now: float) -> float:
        """Seconds by which one request more lengthens what waits, in batches and by all workers of the best variant.

        A balancer elsewhere, which cannot ask for ``backlog_s`` each time, weighs what it has sent by it.
        """
        ...
