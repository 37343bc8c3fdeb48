"""The pipeline schedules: stages of each rank, and the numbers of micro-batches that each can run. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass

from lanner.distributed.config import EngineConfig
from lanner.errors import ConfigError


@dataclass(frozen=True)
class ScheduleKind:
    """A torch schedule: its class, the stages per rank, and whether they are placed in a V shape.

    fills: it needs at least one micro-batch per stage. in_rounds: it runs rounds of equal size, each of about as many
    micro-batches as ranks.
    """

    name: str
    stages_per_rank: int = 1
    like_v: bool = False
    fills: bool = False
    in_rounds: bool = False


SCHEDULES: Mapping[str, ScheduleKind] = {
    "gpipe": ScheduleKind("ScheduleGPipe"),
    "1f1b": ScheduleKind("Schedule1F1B", fills=True),
    "looped-bfs": ScheduleKind("ScheduleLoopedBFS", 2),
    "interleaved": ScheduleKind("ScheduleInterleaved1F1B", 2, in_rounds=True),
    "zero-bubble": ScheduleKind("ScheduleInterleavedZeroBubble", 2, in_rounds=True),
    "zbv": ScheduleKind("ScheduleZBVZeroBubble", 2, like_v=True),
    "dualpipev": ScheduleKind("ScheduleDualPipeV", 2, like_v=True, fills=True),
}


def schedule_kind(name: str) -> ScheduleKind:
    """The schedule of that name. Raises ``ConfigError`` if it is unknown."""
    if name not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{name}'; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def stages_of(rank: int, ranks: int, kind: ScheduleKind) -> list[int]:
    """The stages that a pipeline rank holds."""
    if kind.like_v:
        return [rank, 2 * ranks - 1 - rank]
    return [rank + turn * ranks for turn in range(kind.stages_per_rank)]


def rank_of(stage: int, ranks: int, kind: ScheduleKind) -> int:
    """The pipeline rank that holds a stage."""
    return min(stage, 2 * ranks - 1 - stage) if kind.like_v else stage % ranks


def can_run(kind: ScheduleKind, ranks: int, micro_batches: int) -> bool:
    """Whether a schedule over that many pipeline ranks can run that many micro-batches."""
    if ranks == 1:
        return micro_batches > 0
    fewest = ranks * kind.stages_per_rank if kind.fills else 1
    return micro_batches >= fewest and not (kind.in_rounds and micro_batches % max(1, micro_batches // ranks))


def share_steps(kind: ScheduleKind, ranks: int) -> tuple[int, int]:
    """The fewest micro-batches and the step between counts, all of which ``can_run``."""
    if ranks == 1:
        return 1, 1
    return (ranks, ranks) if kind.in_rounds else (ranks * kind.stages_per_rank if kind.fills else 1, 1)


def check_micro_batches(config: EngineConfig) -> None:
    """Raises ``ConfigError`` if the schedule cannot run the micro-batches of every replica."""
    kind, ranks = schedule_kind(config.schedule), config.degrees.pipeline
    counts = config.shares or (config.micro_batches,)
    refused = [count for count in counts if not can_run(kind, ranks, count)]
    if not refused:
        return
    count, stages = min(refused), ranks * kind.stages_per_rank
    if kind.fills:
        raise ConfigError(
            f"schedule {config.schedule} needs at least as many micro-batches as stages, {stages}, received {count}; "
            f"give {stages} or more, or use the schedule gpipe"
        )
    raise ConfigError(
        f"schedule {config.schedule} over pp {ranks} cannot run {count} micro-batches; give a multiple of {ranks}, or "
        "use the schedule 1f1b"
    )
