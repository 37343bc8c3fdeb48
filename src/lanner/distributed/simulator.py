"""Discrete-event simulation of a pipeline step, with operations in the order of torch's schedules.

Pure functions; torch is imported only for the orders of its schedules with several stages per rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Literal, NamedTuple

from lanner.distributed.schedules import schedule_kind, stages_of

Kind = Literal["F", "B", "I", "W"]
"""Forward, full backward, and its two halves in schedules that split it: input and weight gradients."""


class Operation(NamedTuple):
    """One kind of work of a stage on a micro-batch."""

    stage: int
    kind: Kind
    micro_batch: int


class Event(NamedTuple):
    """An operation with its rank, start and end in seconds."""

    rank: int
    operation: Operation
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A simulated step. seconds: total. busy: seconds of work per rank."""

    seconds: float
    busy: tuple[float, ...]
    events: tuple[Event, ...]

    @property
    def bubble(self) -> float:
        """The idle share of the ranks' time."""
        return 1 - sum(self.busy) / (self.seconds * len(self.busy))


@lru_cache(256)
def order_of(schedule: str, ranks: int, micro_batches: int) -> tuple[tuple[Operation, ...], ...]:
    """The ordered operations of each rank. schedule: a name in ``schedules.SCHEDULES``."""
    if schedule == "gpipe":
        return tuple(
            tuple(Operation(rank, kind, number) for kind in ("F", "B") for number in range(micro_batches))
            for rank in range(ranks)
        )
    if schedule == "1f1b":
        return tuple(tuple(_one_forward_one_backward(rank, ranks, micro_batches)) for rank in range(ranks))
    return _torch_schedule(schedule, ranks, micro_batches)


def simulate(
    order: Sequence[Sequence[Operation]],
    forward: Sequence[float],
    backward: Sequence[float],
    hop: Callable[[int, int], tuple[float, float]],
    *,
    overhead: float = 0.0,
) -> Timeline:
    """Simulate a step.

    forward, backward: seconds per micro-batch on each stage. hop: between neighbouring stages, the seconds until a
    message has arrived, and those for which it occupies its link: the next message from that rank to that rank waits.
    overhead: fixed seconds per operation.

    Raises:
        ValueError: the schedule deadlocks.
    """
    stages = len(forward)
    share = {"F": 1.0, "B": 1.0, "I": 0.5, "W": 0.5}
    done: dict[tuple[int, str, int], float] = {}
    arrived: dict[tuple[int, str, int], float] = {}
    free: dict[tuple[int, int], float] = {}
    rank_of = {operation.stage: rank for rank, operations in enumerate(order) for operation in operations}
    clock, place, busy = [0.0] * len(order), [0] * len(order), [0.0] * len(order)
    events: list[Event] = []
    left = sum(map(len, order))
    while left:
        moved = False
        for rank, operations in enumerate(order):
            while place[rank] < len(operations):
                operation = operations[place[rank]]
                ready = _ready(operation, stages, done, arrived)
                if ready is None:
                    break
                work = (forward if operation.kind == "F" else backward)[operation.stage] * share[operation.kind]
                begin = max(clock[rank], ready)
                end = begin + work + overhead
                clock[rank], busy[rank], moved = end, busy[rank] + work, True
                place[rank] += 1
                left -= 1
                events.append(Event(rank, operation, begin, end))
                kind = {"B": "I"}.get(operation.kind, operation.kind)
                done[operation.stage, kind, operation.micro_batch] = end
                to = operation.stage + {"F": 1, "I": -1}.get(kind, stages)
                if 0 <= to < stages:
                    seconds, occupied = hop(operation.stage, to)
                    sent = max(end, free.get((rank, rank_of[to]), 0.0))
                    free[rank, rank_of[to]] = sent + occupied
                    arrived[to, kind, operation.micro_batch] = sent + seconds
        if not moved:
            raise ValueError("operations of the schedule wait for each other")
    return Timeline(max(clock), tuple(busy), tuple(events))


def _ready(
    operation: Operation,
    stages: int,
    done: Mapping[tuple[int, str, int], float],
    arrived: Mapping[tuple[int, str, int], float],
) -> float | None:
    """When the inputs of an operation are available; None: not known yet. done: by stage, arrived: by receiver."""
    stage, kind, number = operation
    if kind == "F":
        return arrived.get((stage, "F", number)) if stage else 0.0
    if kind == "W":
        return done.get((stage, "I", number))
    own = done.get((stage, "F", number))
    gradient = arrived.get((stage, "I", number)) if stage < stages - 1 else own
    return None if own is None or gradient is None else max(own, gradient)


def _one_forward_one_backward(rank: int, ranks: int, micro_batches: int) -> list[Operation]:
    ahead = min(micro_batches, ranks - rank - 1)
    operations = [Operation(rank, "F", number) for number in range(ahead)]
    for number in range(micro_batches):
        if number + ahead < micro_batches:
            operations.append(Operation(rank, "F", number + ahead))
        operations.append(Operation(rank, "B", number))
    return operations


def _torch_schedule(schedule: str, ranks: int, micro_batches: int) -> tuple[tuple[Operation, ...], ...]:
    from torch.distributed.pipelining import schedules

    kind = schedule_kind(schedule)
    # Stubs with all that a schedule reads from its stages before it runs.
    stages = [
        SimpleNamespace(
            group_size=ranks,
            num_stages=ranks * kind.stages_per_rank,
            group_rank=0,
            stage_index=number,
            is_first=number == 0,
            is_last=number == ranks * kind.stages_per_rank - 1,
            submod=None,
            has_backward=True,
            group=None,
        )
        for number in stages_of(0, ranks, kind)
    ]
    made = getattr(schedules, kind.name)(stages, micro_batches, loss_fn=lambda out, target: out)
    names: dict[str, Kind] = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}
    return tuple(
        tuple(
            Operation(one.stage_index, names[one.computation_type.name], one.microbatch_index)
            for action in made.pipeline_order[rank]
            if action is not None
            for one in (action.sub_actions or (action,))
            if one.computation_type.name in names
        )
        for rank in range(ranks)
    )
