"""Load balancing from measured times: layers over pipeline stages, micro-batches over replicas, texts over ranks.

Pure functions, and the decision whether moving layers pays off; ``migration`` moves them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError


def partition(
    costs: Sequence[float],
    slowness: Sequence[float],
    memory: Sequence[float] | None = None,
    capacity: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Bounds ``[stages + 1]`` of contiguous, non-empty parts that minimise the time of the slowest stage.

    costs: seconds per layer on a device of slowness 1. slowness: of each stage's device. memory: bytes per layer.
    capacity: bytes per device. Dynamic programming in stages × layers² steps.

    Raises:
        ConfigError: more stages than layers, or no partition fits in memory.
    """
    layers, stages = len(costs), len(slowness)
    if stages > layers:
        raise ConfigError(f"{stages} stages, but the model has {layers} layers; use fewer ranks for the pipeline")
    cost = np.concatenate([[0.0], np.cumsum(costs)])
    size = np.concatenate([[0.0], np.cumsum(memory if memory is not None else np.zeros(layers))])
    best = np.full((stages + 1, layers + 1), math.inf)
    cut = np.zeros((stages + 1, layers + 1), int)
    best[0, 0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, layers - (stages - stage) + 1):
            begins = np.arange(stage - 1, end)
            slowest = np.maximum(best[stage - 1, begins], (cost[end] - cost[begins]) * slowness[stage - 1])
            if capacity is not None:
                slowest = np.where(size[end] - size[begins] > capacity[stage - 1], math.inf, slowest)
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


def shares(total: int, slowness: Sequence[float]) -> tuple[int, ...]:
    """``total`` micro-batches split over replicas, at least one each, minimising the time of the slowest.

    Raises:
        ConfigError: fewer micro-batches than replicas.
    """
    if total < len(slowness):
        raise ConfigError(f"{total} micro-batches cannot be shared by {len(slowness)} replicas; use more of them")
    given = [1] * len(slowness)
    for _ in range(total - len(slowness)):
        given[int(np.argmin([(count + 1) * slow for count, slow in zip(given, slowness, strict=True)]))] += 1
    return tuple(given)


def by_tokens(lengths: NDArray[np.integer], slowness: Sequence[float]) -> list[NDArray[np.int64]]:
    """Rows for each rank: greedily, longest text first, to the rank that would finish it soonest.

    lengths: tokens per row ``[N]``.
    """
    loads = np.zeros(len(slowness))
    rows: list[list[int]] = [[] for _ in slowness]
    for row in np.argsort(-lengths, kind="stable"):
        rank = int(np.argmin((loads + lengths[row]) * np.asarray(slowness)))
        loads[rank] += lengths[row]
        rows[rank].append(int(row))
    return [np.sort(np.array(mine, np.int64)) for mine in rows]


@dataclass
class Balancer:
    """Decides when to move layers, from times that are the same on every rank.

    A move must promise ``least_gain``, and must save more time over the next ``horizon`` steps than it costs. If the
    next ``every`` steps do not achieve half of the promised gain, it is undone, and the next two checks are skipped.
    """

    every: int = 10
    least_gain: float = 0.07
    horizon: int = 100
    costs: Sequence[float] = ()
    """Relative costs of the layers."""
    moves: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """Steps and bounds of all moves, including undone ones."""
    _wait: int = 0
    _before: tuple[tuple[int, ...], float, float] | None = None
    """Bounds and step time (seconds) before the last move, and the seconds that it promised to save."""

    def look(
        self, step: int, bounds: tuple[int, ...], slowness: Sequence[float], step_seconds: float, move_seconds: float
    ) -> tuple[int, ...]:
        """The bounds to continue with; called after every ``every`` steps.

        slowness: seconds of a layer of cost 1 on each stage's device. step_seconds: measured time of one step.
        """
        if self._before is not None:
            old, seconds, promised = self._before
            self._before = None
            if seconds - step_seconds < promised / 2:
                self._wait = self.every * 2
                self.moves.append((step, old))
                return old
        if self._wait > 0:
            self._wait -= self.every
            return bounds
        better = partition(self.costs, slowness)
        now = slowest_stage(bounds, self.costs, slowness)
        gain = 1 - slowest_stage(better, self.costs, slowness) / now
        if gain < self.least_gain or gain * step_seconds * self.horizon <= move_seconds:
            return bounds
        self._before = (bounds, step_seconds, gain * step_seconds)
        self.moves.append((step, better))
        return better
