"""Measured timeline of a pipeline step on every rank: compute, communication and bubble, as spans and as a plot."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import multiprocessing

from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.engine import Engine
from lanner.distributed.profiling import chain_with_texts
from lanner.distributed.simulator import Event, Operation
from lanner.errors import ConfigError, LannerError, optional_module
from lanner.models.neural_config import Device, Dtype

What = Literal["forward", "backward", "input gradient", "weight gradient", "communication", "bubble"]
KINDS: tuple[What, ...] = get_args(What)
_KIND_NAMES: dict[str, What] = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient"}
_WARM_UP = 3


class Span(NamedTuple):
    """What a rank did from ``begin`` to ``end``, in seconds since the step began. micro_batch: -1 for none.

    communication: waiting for a result that another rank has already computed, or for the gradient all-reduce; includes
    the schedule's own small overhead. bubble: waiting for a result that is not computed yet.
    """

    rank: int
    what: What
    begin: float
    end: float
    micro_batch: int = -1


def spans_of(events: Sequence[Event], ends: Sequence[float], degrees: Degrees) -> list[Span]:
    """The spans of all ranks. events: of all ranks. ends: when the gradient all-reduce of each rank finished."""
    start, slowest = min(one.begin for one in events), max(one.end for one in events)
    pipeline = {rank: tuple(degrees.ranks_along("pp", rank)) for rank in range(degrees.world)}
    done = {(pipeline[one.rank], one.operation): one for one in events}
    found: list[Span] = []

    def idle(rank: int, begin: float, ready: float, end: float) -> None:
        ready = min(max(begin, ready), end)
        found.append(Span(rank, "bubble", begin - start, ready - start))
        found.append(Span(rank, "communication", ready - start, end - start))

    for rank in range(degrees.world):
        clock = start
        for one in sorted((one for one in events if one.rank == rank), key=lambda one: one.begin):
            before = [done[key] for key in _dependencies(one.operation, pipeline[rank]) if key in done]
            known = one.begin if clock == start else clock
            idle(rank, clock, max((each.end for each in before if each.rank != rank), default=known), one.begin)
            found.append(
                Span(
                    rank, _KIND_NAMES[one.operation.kind], one.begin - start, one.end - start, one.operation.micro_batch
                )
            )
            clock = one.end
        idle(rank, clock, slowest, max(ends[rank], slowest))
    return [one for one in found if one.end > one.begin]


def _dependencies(operation: Operation, pipeline: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Operation]]:
    """Operations of other stages that must finish before an operation can start."""
    if operation.kind == "F":
        yield pipeline, operation._replace(stage=operation.stage - 1)
    elif operation.kind in "BI":
        for kind in ("B", "I"):
            yield pipeline, Operation(operation.stage + 1, kind, operation.micro_batch)


def share(spans: Sequence[Span], what: What) -> float:
    """The share of all ranks' time that is spent on ``what``."""
    total = (max(one.rank for one in spans) + 1) * max(one.end for one in spans)
    return sum(one.end - one.begin for one in spans if one.what == what) / total


def measure(
    model: str | None,
    config: EngineConfig,
    rows: int,
    tokens: int,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> list[Span]:
    """Measure a step of a language model (as in ``profile_model``) on local ranks, after warm-up steps.

    rows: texts per batch, of ``tokens`` tokens each. device: auto: on GPUs if there is one for each rank.

    Raises:
        ConfigError: there is no pipeline, the degrees or rows do not fit the model, the model does not exist, or there
            are fewer GPUs than ranks.
    """
    degrees, gpus = config.degrees, torch.cuda.device_count()
    if degrees.pipeline < 2:
        raise ConfigError(f"{degrees.arithmetic}: a pipeline step needs pp 2 or more, as in --parallel pp=2")
    if device == "cuda" and gpus < degrees.world:
        raise ConfigError(f"--device cuda: {degrees.arithmetic}, but torch sees {gpus} CUDA devices; give auto or cpu")
    if gpus < degrees.world:
        device = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, device != "cpu", config, (model, rows, tokens, device, dtype))
        processes: Any = multiprocessing  # implicit re-exports
        processes.start_processes(_rank, given, nprocs=degrees.world, start_method="spawn")
        told = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(degrees.world)]
    refusal = next((one["refusal"] for one in told if "refusal" in one), None)
    if refusal is not None:
        raise ConfigError(refusal)
    events = [
        Event(rank, Operation(*operation), begin, end)
        for rank, one in enumerate(told)
        for operation, begin, end in one["events"]
    ]
    return spans_of(events, [one["end"] for one in told], degrees)


def _rank(rank: int, folder: str, on_gpu: bool, config: EngineConfig, asked: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    world, backend = config.degrees.world, "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        told = _steps(config, *asked)
    except LannerError as error:
        told = {"refusal": str(error)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _steps(config: EngineConfig, *asked: Any) -> dict[str, Any]:
    chain, ids = chain_with_texts(*asked)
    engine = Engine(chain, config, lambda trained: torch.optim.AdamW(trained, 1e-5, foreach=False), ids.device)
    ended = [0.0]

    def end(*given: Any) -> None:
        if ids.device.type == "cuda":
            torch.cuda.synchronize()
        ended.append(time.perf_counter())

    engine.optimizer.register_step_pre_hook(end)
    for _ in range(_WARM_UP + 1):
        dist.barrier()
        engine.step(ids, torch.ones_like(ids), ids, lambda vectors, target: vectors.square().mean())
    assert engine._pipeline is not None
    events = [(one.operation, one.begin, one.end) for one in engine._pipeline.events]
    return {"events": events, "end": ended[-1]}


_GREYS: dict[What, str] = {
    "forward": "0.85",
    "backward": "0.6",
    "input gradient": "0.6",
    "weight gradient": "0.3",
    "communication": "1.0",
    "bubble": "1.0",
}
_HATCHES: dict[What, str] = {"input gradient": "..", "communication": "/////"}


def draw(path: Path, spans: Sequence[Span], title: str) -> None:
    """Plot a row of bars for each rank; legible in greyscale. path: .svg or .png.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    made = optional_module("matplotlib.figure", "matplotlib", "plot", "a timeline")
    patches = optional_module("matplotlib.patches", "matplotlib", "plot", "a timeline")
    ranks, seconds = max(one.rank for one in spans) + 1, max(one.end for one in spans)
    figure = made.Figure(figsize=(11, 0.5 * ranks + 1.6), layout="constrained")
    axes = figure.subplots()
    looks: dict[What, dict[str, Any]] = {
        what: {"facecolor": grey, "hatch": _HATCHES.get(what), "edgecolor": "0.25" if what != "bubble" else "0.6"}
        for what, grey in _GREYS.items()
    }
    for one in spans:
        width = (one.end - one.begin) * 1e3
        axes.barh(one.rank, width, left=one.begin * 1e3, height=0.8, linewidth=0.5, **looks[one.what])
        if one.micro_batch >= 0 and width > 0.012 * seconds * 1e3:
            colour = "white" if one.what == "weight gradient" else "black"
            axes.text(one.begin * 1e3 + width / 2, one.rank, str(one.micro_batch), ha="center", va="center",
                      color=colour, fontsize=7)  # fmt: skip
    axes.set(yticks=range(ranks), yticklabels=[f"rank {rank}" for rank in range(ranks)], xlabel="milliseconds")
    axes.set_xlim(0, seconds * 1e3)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    shown = [what for what in KINDS if any(one.what == what for one in spans)]
    labels = [patches.Patch(label=what, linewidth=0.5, **looks[what]) for what in shown]
    figure.legend(handles=labels, loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8)
    figure.savefig(path)
