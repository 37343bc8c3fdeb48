"""Auto-parallelisation: searches degrees, placement, schedule and compression for the fastest predicted step.

Pure functions; nothing is run.
"""

import itertools
from collections.abc import Iterator, Sequence

from lanner.distributed.balance import partition, shares
from lanner.distributed.cluster import Cluster
from lanner.distributed.degrees import AXES, Degrees
from lanner.distributed.prediction import CostTable, Plan, Prediction, predict, slowness_of, stages_per_rank
from lanner.errors import ConfigError


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
                        table, cluster, degrees, schedule, micro_batches, compression, checkpointing, balanced
                    )
                    one = None if plan is None else predict(table, cluster, plan, rows)
                    if one is not None and _fits(one, cluster):
                        found.append(one)
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
) -> Plan | None:
    """The plan with the best bounds and shares for unequal devices; None if the model cannot be split this way."""
    slow = slowness_of(cluster, degrees)
    stages = degrees.pipeline * stages_per_rank(schedule)
    if stages > len(table.forward):
        return None
    costs = [first + second for first, second in zip(table.forward, table.backward, strict=True)]
    # A stage has the same layers in every replica, so its slowest device decides.
    worst = [max(slow[part][stage] for part in range(degrees.data)) for stage in range(degrees.pipeline)]
    even = [1.0] * stages
    bounds = partition(costs, worst if balanced and stages == len(worst) else even)
    given = [micro_batches // degrees.data] * degrees.replicas
    if balanced and degrees.shards == 1 and degrees.replicas > 1:
        paces = [
            max(sum(costs[bounds[stage] : bounds[stage + 1]]) * slow[part][stage % degrees.pipeline]
                for stage in range(stages))
            for part in range(degrees.replicas)
        ]  # fmt: skip
        given = list(shares(micro_batches, paces))
    return Plan(degrees, schedule, micro_batches, compression, checkpointing, bounds, tuple(given))


def explain(found: Sequence[Prediction], runners_up: int = 3) -> list[str]:
    """The chosen plan, and why the runners-up are slower; one line each."""
    best = found[0]
    lines = [
        f"{best.name}: {best.seconds * 1e3:,.0f} ms a step, {best.utilisation:.0%} of the devices' time is work, "
        f"bubble {best.bubble:.0%}, {best.traffic / 2**20:,.1f} MiB sent ({best.core / 2**20:,.1f} between racks), "
        f"{best.memory / 2**30:,.2f} GiB on the fullest device"
    ]
    seen = {_degrees_of(best)}
    for one in found[1:]:
        if _degrees_of(one) in seen:
            continue
        seen.add(_degrees_of(one))
        worse = max(one.parts, key=lambda part: one.parts[part] - best.parts[part])
        lines.append(
            f"{one.name}: {one.seconds / best.seconds - 1:.0%} slower, "
            f"{(one.parts[worse] - best.parts[worse]) * 1e3:,.0f} ms of it by {worse.replace('_', ' ')}"
        )
        if len(lines) > runners_up:
            break
    return lines


def _degrees_of(one: Prediction) -> Degrees:
    return one.plan.degrees


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
    return [number for number in fitting if number in wanted] or fitting[:1]


def _fits(one: Prediction, cluster: Cluster) -> bool:
    return one.memory <= 0.92 * min(device.memory for device in cluster.devices)
