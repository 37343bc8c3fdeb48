"""Auto-parallelisation: searches degrees, placement, schedule and compression for the fastest predicted step.

Pure functions; nothing is run.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from lanner.distributed.balance import partition, shares
from lanner.distributed.cluster import Cluster
from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import AXES, Degrees
from lanner.distributed.layout import Layout, layout_of
from lanner.distributed.prediction import (
    CostTable,
    Plan,
    Prediction,
    in_flight,
    memory_of,
    predict,
    state_bytes,
)
from lanner.distributed.schedules import can_run, rank_of, schedule_kind, share_steps
from lanner.errors import ConfigError

_USABLE = 0.92
"""The share of a device's memory that a plan may fill."""
_bounds = lru_cache(1024)(partition)
"""Many plans divide the same layers over equal devices."""


def search(
    table: CostTable,
    cluster: Cluster,
    rows: int,
    *,
    compressions: Sequence[str] = ("none", "int8"),
    schedules: Sequence[str] = ("1f1b",),
    balanced: bool = True,
    only: frozenset[str] = frozenset(AXES),
) -> list[Prediction]:
    """All plans that fit in the devices' memory, fastest first.

    rows: batch size. balanced: uneven stages and shares for unequal devices. only: axes whose degree may exceed 1.

    Raises:
        ConfigError: no plan fits.
    """
    found: list[Prediction] = []
    for degrees in _all_degrees(len(cluster.devices), table, only):
        for micro_batches in _micro_batches(rows, degrees):
            names = compressions if degrees.replicas > 1 else ("none",)
            kinds = schedules if degrees.pipeline > 1 else ("gpipe",)
            for schedule, compression in itertools.product(kinds, names):
                for checkpointing in (False, True):
                    plan = plan_of(
                        table, cluster, degrees, schedule, micro_batches, compression, checkpointing, balanced, rows
                    )
                    if plan is not None:
                        found.append(predict(table, cluster, plan, rows))
                        break
    if not found:
        raise ConfigError(
            f"no division of {rows} rows over {len(cluster.devices)} devices fits into their memory or divides the "
            "model; use more devices, more rows, or a smaller model"
        )
    return sorted(found, key=lambda one: one.seconds)


def plan_of(
    table: CostTable,
    cluster: Cluster,
    degrees: Degrees,
    schedule: str,
    micro_batches: int,
    compression: str = "none",
    checkpointing: bool = False,
    balanced: bool = True,
    rows: int | None = None,
) -> Plan | None:
    """The plan with the best bounds and shares for unequal devices.

    rows: batch size; None: no limit of memory. Returns None if the schedule cannot run the micro-batches, the model
    cannot be split this way, or a stage does not fit in the memory of its devices.
    """
    kind, pipeline = schedule_kind(schedule), degrees.pipeline
    stages = pipeline * kind.stages_per_rank if pipeline > 1 else 1
    if stages > len(table.forward) or not can_run(kind, pipeline, micro_batches // degrees.data):
        return None
    place = [rank_of(stage, pipeline, kind) for stage in range(stages)]
    layout = layout_of(cluster, degrees)
    slow = [[path.slowness[at] for at in place] for path in layout.paths]
    costs = [first + second for first, second in zip(table.forward, table.backward, strict=True)]
    # A stage has the same layers in every replica, so its slowest device decides.
    worst = [max(path[stage] for path in slow) if balanced else 1.0 for stage in range(stages)]

    def plan_with(bounds: tuple[int, ...]) -> Plan:
        given = [micro_batches // degrees.data] * degrees.replicas
        least, step = share_steps(kind, pipeline)
        able = micro_batches >= least * degrees.replicas and micro_batches % step == 0
        if balanced and degrees.shards == 1 and degrees.replicas > 1 and able:
            work = [sum(costs[bounds[stage] : bounds[stage + 1]]) for stage in range(stages)]
            paces = [max(one * pace for one, pace in zip(work, path, strict=True)) for path in slow]
            if len(set(paces)) > 1:
                given = list(shares(micro_batches, [paces[path] for path in layout.path_of_part], least, step))
        return Plan(degrees, schedule, micro_batches, compression, checkpointing, bounds, tuple(given))

    plan = plan_with(_bounds(tuple(costs), tuple(worst)))
    if rows is None or _fits(table, cluster, plan, rows):
        return plan
    bounds = _bounds_in_memory(table, layout, plan, rows, costs, worst)
    if bounds is None:
        return None
    plan = plan_with(bounds)
    return plan if _fits(table, cluster, plan, rows) else None


def _bounds_in_memory(
    table: CostTable, layout: Layout, plan: Plan, rows: int, costs: Sequence[float], slowness: Sequence[float]
) -> tuple[int, ...] | None:
    """The best bounds of which each stage fits in the memory of its devices; None if there are none."""
    degrees, kind, stages = plan.degrees, schedule_kind(plan.schedule), len(slowness)
    each = stages // degrees.pipeline
    flying = in_flight(plan.schedule, degrees.pipeline, max(plan.shares))
    kept = [table.hop] * len(costs) if plan.checkpointing else [one / degrees.tensor for one in table.kept]
    state, size = state_bytes(table, degrees), rows / plan.micro_batches
    again = max(table.kept) / degrees.tensor * size if plan.checkpointing else 0.0
    memory, capacity = [], []
    for stage in range(stages):
        at = rank_of(stage, degrees.pipeline, kind)
        memory.append([one + flying[at] / each * size * more for one, more in zip(state, kept, strict=True)])
        capacity.append((_USABLE * layout.memory[at] - again) / each)
    try:
        return partition(costs, slowness, memory, capacity)
    except ConfigError:
        return None


def explain(found: Sequence[Prediction], runners_up: int = 3) -> list[str]:
    """The chosen plan, and why the runners-up are slower; one line each."""
    best = found[0]
    lines = [
        f"{best.name}: {best.seconds * 1e3:,.0f} ms a step, {best.utilisation:.0%} of the devices' time is work, "
        f"bubble {best.bubble:.0%}, {best.traffic / 2**20:,.1f} MiB sent ({best.core / 2**20:,.1f} between racks), "
        f"{max(best.memory) / 2**30:,.2f} GiB on the fullest device"
    ]
    seen = {best.plan.degrees}
    for one in found[1:]:
        if one.plan.degrees in seen:
            continue
        seen.add(one.plan.degrees)
        worse = max(one.parts, key=lambda part: one.parts[part] - best.parts[part])
        lines.append(
            f"{one.name}: {one.seconds / best.seconds - 1:.0%} slower, "
            f"{(one.parts[worse] - best.parts[worse]) * 1e3:,.0f} ms of it by {worse.replace('_', ' ')}"
        )
        if len(lines) > runners_up:
            break
    return lines


def division(plan: Plan) -> str:
    """The layers of each stage and the micro-batches of each replica."""
    layers = ", ".join(str(last - first) for first, last in itertools.pairwise(plan.bounds))
    return f"layers of each stage: {layers}; micro-batches of each replica: {', '.join(map(str, plan.shares))}"


def options_of(plan: Plan) -> list[str]:
    """The options of ``lanner train`` for a plan; none for a single device."""
    degrees, config = plan.degrees, plan.config
    if degrees.world == 1:
        return []
    parallel = ",".join(f"{axis}={degrees.of(axis)}" for axis in degrees.order if degrees.of(axis) > 1)
    given = ["--parallel", parallel]
    for name in ("schedule", "micro_batches", "bounds", "shares", "checkpointing", "compression"):
        value = getattr(config, name)
        if value != getattr(EngineConfig(), name) and (name != "schedule" or degrees.pipeline > 1):
            text = str(value).lower() if isinstance(value, bool) else value
            given += ["--set", f"parallel.{name}={list(text) if isinstance(text, tuple) else text}".replace(" ", "")]
    return given


def _all_degrees(devices: int, table: CostTable, only: frozenset[str]) -> Iterator[Degrees]:
    divisors = [number for number in range(1, devices + 1) if devices % number == 0]
    seen = set()
    for pipeline, tensor in itertools.product(divisors, divisors):
        if devices % (pipeline * tensor) or table.heads % tensor or pipeline > len(table.forward):
            continue
        data = devices // (pipeline * tensor)
        for shards in (number for number in divisors if data % number == 0):
            sizes = {"pp": pipeline, "tp": tensor, "shard": shards, "replicate": data // shards}
            large = [axis for axis in AXES if sizes[axis] > 1]
            if not set(large) <= only:
                continue
            for order in itertools.permutations(large):
                if tensor > 1 and order[-1] != "tp":
                    continue  # Tensor parallelism communicates most, so its ranks are adjacent.
                whole = (*order, *(axis for axis in AXES if axis not in order))
                degrees = Degrees(sizes["replicate"], shards, pipeline, tensor, whole)
                if degrees not in seen:
                    seen.add(degrees)
                    yield degrees


def _micro_batches(rows: int, degrees: Degrees) -> list[int]:
    """Candidate micro-batch counts, over all replicas, that divide the rows and give each replica an equal share."""
    fitting = [number for number in range(degrees.data, rows + 1, degrees.data) if rows % number == 0]
    if degrees.pipeline == 1 and degrees.replicas == 1:
        return fitting[:1]
    wanted = [degrees.data * degrees.pipeline * factor for factor in (1, 2, 4, 8)]
    nearest = [next((number for number in fitting if number >= one), None) for one in wanted]
    return sorted({number for number in nearest if number is not None}) or fitting[-1:]


def _fits(table: CostTable, cluster: Cluster, plan: Plan, rows: int) -> bool:
    return bool((np.array(memory_of(table, plan, rows)) <= _USABLE * cluster.memory).all())
