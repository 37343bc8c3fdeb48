"""Load balancing from times: layers over pipeline stages, micro-batches over replicas.

Pure functions, and the decision whether a change pays off; ``migration`` measures and changes.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from lanner.errors import ConfigError


def partition(
    costs: Sequence[float],
    slowness: Sequence[float],
    memory: Sequence[Sequence[float]] | None = None,
    capacity: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Bounds ``[stages + 1]`` of contiguous, non-empty parts that minimise the time of the slowest stage.

    costs: seconds per layer on a device of slowness 1. slowness: of each stage's device. memory: bytes of each layer on
    each stage ``[stages][layers]``. capacity: bytes for each stage; both or neither. Dynamic programming in stages ×
    layers² steps.

    Raises:
        ConfigError: more stages than layers, or no partition fits in memory.
    """
    layers, stages = len(costs), len(slowness)
    if stages > layers:
        raise ConfigError(f"{stages} stages, but the model has {layers} layers; use fewer ranks for the pipeline")
    cost = np.concatenate([[0.0], np.cumsum(costs)])
    sizes = np.zeros((stages, layers + 1))
    if memory is not None:
        sizes[:, 1:] = np.cumsum(memory, axis=1)
    best = np.full((stages + 1, layers + 1), math.inf)
    cut = np.zeros((stages + 1, layers + 1), int)
    best[0, 0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, layers - (stages - stage) + 1):
            begins = np.arange(stage - 1, end)
            slowest = np.maximum(best[stage - 1, begins], (cost[end] - cost[begins]) * slowness[stage - 1])
            if capacity is not None:
                size = sizes[stage - 1, end] - sizes[stage - 1, begins]
                slowest = np.where(size > capacity[stage - 1], math.inf, slowest)
            place = int(np.argmin(slowest))
            best[stage, end], cut[stage, end] = slowest[place], begins[place]
    if not math.isfinite(best[stages, layers]):
        raise ConfigError(f"no division of {layers} layers into {stages} stages fits into the devices' memory")
    bounds = [layers]
    for stage in range(stages, 0, -1):
        bounds.append(int(cut[stage, bounds[-1]]))
    return tuple(reversed(bounds))


def slowest_stage(bounds: Sequence[int], costs: Sequence[float], slowness: Sequence[float]) -> float:
    """Seconds of the slowest stage."""
    return max(sum(costs[bounds[at] : bounds[at + 1]]) * slowness[at] for at in range(len(slowness)))


def shares(total: int, slowness: Sequence[float], least: int = 1, step: int = 1) -> tuple[int, ...]:
    """``total`` micro-batches split over replicas, minimising the time of the slowest.

    least: of each replica. step: what ``total`` and each share beyond ``least`` are multiples of.

    Raises:
        ConfigError: too few micro-batches for the replicas.
    """
    if total < least * len(slowness):
        raise ConfigError(f"{total} micro-batches cannot be shared by {len(slowness)} replicas; use more of them")
    given = [least] * len(slowness)
    # The seconds that each replica would take with one step more.
    then = [((least + step) * slow, replica) for replica, slow in enumerate(slowness)]
    heapq.heapify(then)
    for _ in range((total - sum(given)) // step):
        replica = then[0][1]
        given[replica] += step
        heapq.heapreplace(then, ((given[replica] + step) * slowness[replica], replica))
    return tuple(given)


def measured_costs(
    seconds: Sequence[float], expected: Sequence[float], bounds: Sequence[int]
) -> tuple[list[float], list[float]]:
    """The cost of each layer, and the slowness of each stage's device: the seconds of a layer of cost 1 on it.

    A device is as slow as the median of its layers' seconds, relative to their expected costs, says; what a layer
    differs from that is its own.

    seconds: of each layer, measured on the stage that has it. expected: relative costs, the same for equal layers.
    """
    costs, slowness = [], []
    for first, last in itertools.pairwise(bounds):
        pace = median(seconds[layer] / expected[layer] for layer in range(first, last))
        slowness.append(pace)
        costs += [seconds[layer] / pace for layer in range(first, last)]
    return costs, slowness


@dataclass
class Balancer:
    """Decides when to change a division of work, from times that are the same on every rank.

    A division is the bounds of the stages, or the shares of the replicas. A change must promise ``least_gain``, and
    must save more time over the next ``horizon`` steps than it costs. If the next ``every`` steps do not achieve half
    of the promised gain, it is undone, and the next two checks are skipped.
    """

    every: int = 10
    least_gain: float = 0.07
    horizon: int = 100
    moves: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """Steps and new divisions of all changes, including undone ones."""
    _wait: int = 0
    _before: tuple[tuple[int, ...], float, float] | None = None
    """Division and step time (seconds) before the last change, and the seconds that it promised to save."""

    @property
    def is_trying(self) -> bool:
        """Whether the next check decides if the last change stays."""
        return self._before is not None

    def look(
        self,
        step: int,
        bounds: tuple[int, ...],
        costs: Sequence[float],
        slowness: Sequence[float],
        step_seconds: float,
        move_seconds: float,
    ) -> tuple[int, ...]:
        """The bounds to continue with; called after every ``every`` steps.

        costs, slowness: as ``measured_costs`` returns them. step_seconds: measured time of one step.
        """
        better = partition(costs, slowness)
        gain = 1 - slowest_stage(better, costs, slowness) / slowest_stage(bounds, costs, slowness)
        return self._decide(step, bounds, better, gain, step_seconds, move_seconds)

    def look_at_shares(
        self, step: int, now: tuple[int, ...], pace: Sequence[float], step_seconds: float, least: int = 1, each: int = 1
    ) -> tuple[int, ...]:
        """The micro-batches of each replica to continue with; called after every ``every`` steps.

        pace: seconds for a micro-batch of each replica's slowest stage. least, each: ``least`` and ``step`` of
        ``shares``. Changing shares costs no time.
        """
        better = shares(sum(now), pace, least, each)
        slowest, new = (max(count * one for count, one in zip(given, pace, strict=True)) for given in (now, better))
        return self._decide(step, now, better, 1 - new / slowest, step_seconds, 0.0)

    def _decide(
        self,
        step: int,
        now: tuple[int, ...],
        better: tuple[int, ...],
        gain: float,
        step_seconds: float,
        change_seconds: float,
    ) -> tuple[int, ...]:
        """gain: the part of a step's time that ``better`` promises to save."""
        if self._before is not None:
            old, seconds, promised = self._before
            self._before = None
            if seconds - step_seconds < promised / 2:
                self._wait = self.every * 2
                self.moves.append((step, old))
                return old
        if self._wait > 0:
            self._wait -= self.every
            return now
        if gain < self.least_gain or gain * step_seconds * self.horizon <= change_seconds:
            return now
        self._before = (now, step_seconds, gain * step_seconds)
        self.moves.append((step, better))
        return better
