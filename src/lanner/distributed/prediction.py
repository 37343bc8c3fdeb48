"""Predicts a plan's step time, traffic, memory and pipeline bubble from a cost table and a cluster.

Pure functions; nothing is run.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lanner.distributed.buckets import bucket_bytes
from lanner.distributed.cluster import Cluster, Link
from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.layout import Layout, Path, hop_between, layout_of, ranks_of
from lanner.distributed.schedules import rank_of, schedule_kind, stages_of
from lanner.distributed.simulator import Timeline, order_of, simulate

_RATIOS = {"none": 1.0, "fp16": 0.5, "int8": 0.2539, "sign": 0.0352}
_GATHERED = ("int8", "sign", "topk")
_STATE_BYTES = 12
"""Float32 gradient and both AdamW moments, per trained parameter."""


@dataclass(frozen=True)
class CostTable:
    """A model's costs for one row (text) on a device of slowness 1; tuples are per layer.

    forward, backward: seconds. gradient: bytes of trained parameters. weights: bytes. hop: bytes passed between layers.
    kept: bytes of activations kept for the backward pass. overhead: fixed seconds per operation. sum_overhead: fixed
    seconds (latency) of an all-reduce, of activations or of a gradient bucket.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    gradient: tuple[float, ...]
    weights: tuple[float, ...]
    hop: float
    kept: tuple[float, ...]
    heads: int
    overhead: float = 0.0
    sum_overhead: float = 0.0


@dataclass(frozen=True)
class Plan:
    """One way to parallelise a step, as ``config.EngineConfig`` takes it."""

    degrees: Degrees
    schedule: str
    micro_batches: int
    """Total over all replicas."""
    compression: str
    checkpointing: bool
    bounds: tuple[int, ...]
    shares: tuple[int, ...]

    @property
    def config(self) -> EngineConfig:
        """The settings of a run by this plan."""
        degrees = self.degrees
        return EngineConfig(
            degrees,
            self.schedule,
            self.micro_batches // degrees.data,
            bounds=self.bounds if degrees.pipeline > 1 else None,
            shares=self.shares if len(set(self.shares)) > 1 else None,
            checkpointing=self.checkpointing,
            compression=self.compression,
        )


@dataclass(frozen=True)
class Prediction:
    """Predicted cost of a plan. traffic, core: bytes sent per step, in total and between racks; memory: bytes on each
    rank; utilisation: work ÷ (ranks × seconds)."""

    plan: Plan
    seconds: float
    traffic: float
    core: float
    memory: tuple[float, ...]
    bubble: float
    utilisation: float
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the pipeline, of all-reduces inside layers, and of exposed (not overlapped) gradient all-reduces."""

    @property
    def name(self) -> str:
        """Short description of the plan; micro-batches are those of a rank."""
        plan = self.plan
        counts = "–".join(str(count) for count in sorted({min(plan.shares), max(plan.shares)}))
        degrees = ", ".join(
            f"{axis} {plan.degrees.of(axis)}" for axis in plan.degrees.order if plan.degrees.of(axis) > 1
        )
        pipeline = f", {plan.schedule}" if plan.degrees.pipeline > 1 else ""
        more = "" if plan.compression == "none" else f", {plan.compression}"
        return f"{degrees or 'one device'}{pipeline}, {counts} micro-batches{more}" + (
            ", checkpointed" if plan.checkpointing else ""
        )


def predict(table: CostTable, cluster: Cluster, plan: Plan, rows: int) -> Prediction:
    """Time, traffic and memory of a step under a plan."""
    degrees = plan.degrees
    size = rows / plan.micro_batches
    layout = layout_of(cluster, degrees)
    stages, kind = len(plan.bounds) - 1, schedule_kind(plan.schedule)
    # With activation checkpointing, the forward pass runs twice.
    again = 1.0 if plan.checkpointing else 0.0
    pipelines: list[tuple[Timeline, int]] = []
    inside = 0.0
    for path, each, count in _alike(layout, plan):
        forward, backward = [], []
        for stage in range(stages):
            at = rank_of(stage, degrees.pipeline, kind)
            layers = slice(plan.bounds[stage], plan.bounds[stage + 1])
            pace = path.slowness[at] * size / degrees.tensor
            sums = 0.0
            if degrees.tensor > 1:
                one = _ring(table.hop * size, degrees.tensor, path.inside[at]) + table.sum_overhead
                sums = 2 * (layers.stop - layers.start) * one
            forward.append(sum(table.forward[layers]) * pace + sums)
            backward.append(sum(table.backward[layers]) * pace + sums + again * forward[-1])
            inside += (2 + again) * sums * each * count
        passed = table.hop * size
        hops = tuple((link.seconds(passed), passed / link.bandwidth) for link in path.hops)
        timeline = _pipeline(plan.schedule, degrees.pipeline, each, tuple(forward), tuple(backward), hops,
                             table.overhead)  # fmt: skip
        pipelines.append((timeline, count))
    slowest = max(one.seconds for one, _ in pipelines)
    synced, traffic, core = _gradients(table, layout, plan)
    sent, crossed = _activations(table, layout, plan, rows)
    buckets, window = _num_buckets(table, plan), 0.0
    if degrees.data > 1:
        synced += buckets * _sums(plan.compression) * table.sum_overhead
    if degrees.pipeline == degrees.tensor == 1:
        window = sum(table.backward) * size * (1 - 1 / buckets)
    exposed = max(synced - window, synced / buckets)
    seconds = slowest + exposed
    work = sum(sum(one.busy) * count for one, count in pipelines) * degrees.tensor - inside * degrees.tensor
    return Prediction(
        plan,
        seconds,
        traffic + sent,
        core + crossed,
        memory_of(table, plan, rows),
        max(one.bubble for one, _ in pipelines),
        work / (1 + again / 3) / (degrees.world * seconds),
        {"pipeline": slowest, "inside_layers": inside / degrees.data, "gradients": exposed},
    )


def ratio_of(compression: str) -> float:
    """Bytes sent per byte of a float32 gradient; for powersgd, of 256 × 256 matrices."""
    name, _, figure = compression.partition(":")
    if name == "topk":
        return 1.5 * float(figure or 0.01)
    if name == "powersgd":
        return min(1.0, int(figure or 4) / 128)
    return _RATIOS[name]


def _sums(compression: str) -> int:
    """Consecutive all-reduces of a bucket: PowerSGD's second factor depends on the sum of the first."""
    return 2 if compression.startswith("powersgd") else 1


def _alike(layout: Layout, plan: Plan) -> Iterator[tuple[Path, int, int]]:
    """The distinct parts of the batch: their path, their micro-batches, and how many there are."""
    share = np.repeat(plan.shares, plan.degrees.shards)
    found, counts = np.unique(np.stack([layout.path_of_part, share]), axis=1, return_counts=True)
    for (path, each), count in zip(found.T.tolist(), counts.tolist(), strict=True):
        yield layout.paths[path], each, count


def _ring(size: float, count: int, link: Link) -> float:
    return link.seconds(2 * (count - 1) / count * size, 2 * (count - 1))


@lru_cache(4096)
def _pipeline(
    schedule: str,
    ranks: int,
    micro_batches: int,
    forward: tuple[float, ...],
    backward: tuple[float, ...],
    hops: tuple[tuple[float, float], ...],
    overhead: float,
) -> Timeline:
    order = order_of(schedule, ranks, micro_batches)
    place = [rank_of(stage, ranks, schedule_kind(schedule)) for stage in range(len(forward))]

    def hop(one: int, other: int) -> tuple[float, float]:
        begin, end = place[one], place[other]
        return (0.0, 0.0) if begin == end else hops[hop_between(begin, end)]

    return simulate(order, forward, backward, hop, overhead=overhead)


def _gradients(table: CostTable, layout: Layout, plan: Plan) -> tuple[float, float, float]:
    """Seconds of the slowest gradient all-reduce; bytes sent in total and between racks."""
    degrees, worst, traffic, core = plan.degrees, 0.0, 0.0, 0.0
    ratio, kind = ratio_of(plan.compression), schedule_kind(plan.schedule)
    for stage, rings in enumerate(layout.rings):
        stages = stages_of(stage, degrees.pipeline, kind)
        layers = [layer for one in stages for layer in range(plan.bounds[one], plan.bounds[one + 1])]
        gradient = sum(table.gradient[layer] for layer in layers) / degrees.tensor
        weights = sum(table.weights[layer] for layer in layers) / degrees.tensor
        sent = 0.0
        if degrees.replicas > 1:
            count, part_size = degrees.replicas, gradient / degrees.shards
            gathered = plan.compression.partition(":")[0] in _GATHERED
            sent += part_size * ratio * ((count - 1) if gathered else 2 * (count - 1) / count)
        if degrees.shards > 1:
            passes = 2 * (plan.micro_batches // degrees.data if degrees.pipeline == 1 else 1)
            sent += (gradient + weights * passes) * (degrees.shards - 1) / degrees.shards
        for ring, number in rings.items():
            jam = layout.crossing_rings if ring.crossings else 1
            messages = 2 * (degrees.data - 1) * _sums(plan.compression)
            worst = max(worst, ring.link.seconds(sent * jam, messages))
            traffic += sent * degrees.data * number
            core += sent * ring.crossings * number
    return worst, traffic, core


def _activations(table: CostTable, layout: Layout, plan: Plan, rows: int) -> tuple[float, float]:
    """Bytes sent between stages and by the all-reduces inside layers: in total, and between racks."""
    degrees, kind = plan.degrees, schedule_kind(plan.schedule)
    place = [rank_of(stage, degrees.pipeline, kind) for stage in range(len(plan.bounds) - 1)]
    steps = [pair for pair in itertools.pairwise(place) if pair[0] != pair[1]]
    per_hop = 2 * table.hop * rows / degrees.data * degrees.tensor
    traffic = per_hop * len(steps) * degrees.data
    core = per_hop * sum(layout.crossing_hops[hop_between(*pair)] for pair in steps)
    # Two all-reduces of a layer in each pass, see ``tensor``; with checkpointing, the forward pass runs twice.
    sums = 2 * (3 if plan.checkpointing else 2)
    per_neighbour = sums * 2 * (degrees.tensor - 1) / degrees.tensor * table.hop * rows / plan.micro_batches
    for stage, (begin, end) in enumerate(itertools.pairwise(plan.bounds)):
        sent = per_neighbour * (end - begin)
        traffic += sent * degrees.tensor * plan.micro_batches
        core += sent * float(np.repeat(plan.shares, degrees.shards) @ layout.tensor_crossings[:, place[stage]])
    return traffic, core


def _num_buckets(table: CostTable, plan: Plan) -> int:
    """Number of gradient all-reduces in a step; FSDP2 has one per layer."""
    total = int(sum(table.gradient) / plan.degrees.pipeline / plan.degrees.tensor)
    if plan.degrees.shards > 1 or not total:
        return len(table.forward)
    return math.ceil(total / bucket_bytes(total, ratio_of(plan.compression)))


def memory_of(table: CostTable, plan: Plan, rows: int) -> tuple[float, ...]:
    """Bytes on each rank: weights, their gradients and optimiser state, and the activations kept at the fullest."""
    degrees, size = plan.degrees, rows / plan.micro_batches
    layers = [range(*pair) for pair in itertools.pairwise(plan.bounds)]
    held = state_bytes(table, degrees)
    whole = [sum(table.kept[layer] for layer in one) * size / degrees.tensor for one in layers]
    # With checkpointing, a micro-batch keeps the inputs of its layers; the rest of a layer is recomputed in turn.
    kept = [table.hop * len(one) * size for one in layers] if plan.checkpointing else whole
    again = [max(table.kept[layer] for layer in one) * size / degrees.tensor * plan.checkpointing for one in layers]
    kind = schedule_kind(plan.schedule)
    at_rest = np.zeros(degrees.pipeline)
    for at in range(degrees.pipeline):
        mine = stages_of(at, degrees.pipeline, kind) if degrees.pipeline > 1 else [0]
        at_rest[at] = sum(held[layer] for stage in mine for layer in layers[stage])
    shares, share_of_replica = np.unique(plan.shares, return_inverse=True)
    # Without a pipeline, each micro-batch has its backward pass before the next begins.
    most = [
        _peaks(plan.schedule, degrees.pipeline, each if degrees.pipeline > 1 else 1, tuple(kept), tuple(whole),
               tuple(again))
        for each in shares.tolist()
    ]  # fmt: skip
    filled = np.array(most) + at_rest
    found = np.empty(degrees.world)
    found[ranks_of(degrees)] = filled[np.repeat(share_of_replica, degrees.shards), :, None]
    return tuple(found.tolist())


def state_bytes(table: CostTable, degrees: Degrees) -> list[float]:
    """Bytes of each layer's weights, gradients and optimiser state on a rank that has the layer."""
    return [
        (weights + gradient / 4 * _STATE_BYTES) / degrees.tensor / degrees.shards
        for weights, gradient in zip(table.weights, table.gradient, strict=True)
    ]


def in_flight(schedule: str, ranks: int, micro_batches: int) -> tuple[float, ...]:
    """Most micro-batches of which each pipeline rank keeps activations at once, over all its stages."""
    stages = ranks * schedule_kind(schedule).stages_per_rank
    return _peaks(schedule, ranks, micro_batches, (1.0,) * stages, (1.0,) * stages, (0.0,) * stages)


@lru_cache(4096)
def _peaks(
    schedule: str,
    ranks: int,
    micro_batches: int,
    kept: tuple[float, ...],
    whole: tuple[float, ...],
    again: tuple[float, ...],
) -> tuple[float, ...]:
    """Most bytes of activations on each pipeline rank at once.

    Per stage and micro-batch; kept: from the forward pass on. whole: all activations of its layers. again: recomputed
    for a layer during the backward pass, 0 without checkpointing.
    """
    found = []
    for operations in order_of(schedule, ranks, micro_batches):
        now = most = 0.0
        for stage, kind, _ in operations:
            # The weight gradients of a split backward pass need all that its input gradients needed.
            split = whole[stage] if again[stage] else 0.0
            if kind == "F":
                now += kept[stage]
            elif kind == "I":
                now += split
            most = max(most, now + (again[stage] if kind == "B" else 0.0))
            if kind == "W":
                now -= kept[stage] + split
            elif kind == "B":
                now -= kept[stage]
        found.append(most)
    return tuple(found)
