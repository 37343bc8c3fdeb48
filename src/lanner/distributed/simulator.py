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
    hop: Callable[[int, int], float],
    *,
    overhead: float = 0.0,
) -> Timeline:
    """Simulate a step.

    forward, backward: seconds per micro-batch on each stage. hop: transfer seconds between neighbouring stages.
    overhead: fixed seconds per operation.

    Raises:
        ValueError: the schedule deadlocks.
    """
    stages = len(forward)
    share = {"F": 1.0, "B": 1.0, "I": 0.5, "W": 0.5}
    done: dict[tuple[int, str, int], float] = {}
    clock, place, busy = [0.0] * len(order), [0] * len(order), [0.0] * len(order)
    events: list[Event] = []
    left = sum(map(len, order))
    while left:
        moved = False
        for rank, operations in enumerate(order):
            while place[rank] < len(operations):
                operation = operations[place[rank]]
                ready = _ready(operation, stages, done, hop)
                if ready is None:
                    break
                work = (forward if operation.kind == "F" else backward)[operation.stage] * share[operation.kind]
                begin = max(clock[rank], ready)
                end = begin + work + overhead
                clock[rank], busy[rank], moved = end, busy[rank] + work, True
                place[rank] += 1
                left -= 1
                events.append(Event(rank, operation, begin, end))
                done[operation.stage, {"B": "I"}.get(operation.kind, operation.kind), operation.micro_batch] = end
        if not moved:
            raise ValueError("operations of the schedule wait for each other")
    return Timeline(max(clock), tuple(busy), tuple(events))


def _ready(
    operation: Operation, stages: int, done: Mapping[tuple[int, str, int], float], hop: Callable[[int, int], float]
) -> float | None:
    """When the inputs of an operation are available; None: not known yet."""
    stage, kind, number = operation
    needed: list[tuple[tuple[int, str, int], float]] = []
    if kind == "F":
        if stage:
            needed.append(((stage - 1, "F", number), hop(stage - 1, stage)))
    elif kind == "W":
        needed.append(((stage, "I", number), 0.0))
    else:
        needed.append(((stage, "F", number), 0.0))
        if stage < stages - 1:
            needed.append(((stage + 1, "I", number), hop(stage + 1, stage)))
    if any(key not in done for key, _ in needed):
        return None
    return max((done[key] + seconds for key, seconds in needed), default=0.0)


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
