"""Profile a request: time of each ranking stage on this machine, compared with the hardware limit (roofline)."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import Bundle
from lanner.artifacts.variants import Variant
from lanner.encoders import TextReader, check_backend, open_text_reader
from lanner.errors import BundleError, ConfigError, MissingExtraError
from lanner.inference.ranker import Asked, Query, Ranker
from lanner.inference.tables import nbytes
from lanner.serving.acceleration import ACCELERATED, accelerator_of, source_of
from lanner.serving.calibration import calibration_histories
from lanner.serving.index_cache import cached_index

STAGES = ("encode", "aggregate", "retrieve", "rank", "explain")
"""In request order: encode a text, read and average the history's vectors (graph aggregation at request time),
retrieve candidates, rank them with the head, and explain the best."""
_STEPS = {"_user": "aggregate", "_scan": "retrieve", "_search": "retrieve", "_head": "rank", "_explained": "explain"}
"""Ranker steps and the stage each belongs to."""
_CANDIDATES, _TOP_K, _UNMEASURED = 200, 10, 3
_COPY_BYTES = 64 << 20


@dataclass(frozen=True)
class StageTime:
    """One stage: median and p99 in ms, bytes read and multiply-adds per request."""

    stage: str
    p50_ms: float
    p99_ms: float
    bytes_read: float
    operations: float

    def bound_ms(self, ceilings: Mapping[str, float]) -> float:
        """Roofline bound in ms: the larger of the memory time and the compute time."""
        of_memory = self.bytes_read / ceilings["bytes_per_s"]
        return 1e3 * max(of_memory, 2 * self.operations / ceilings["operations_per_s"])


def machine_ceilings() -> dict[str, float]:
    """Measured bandwidth in bytes/s (large copy, read plus write) and float32 operations/s (large matrix product)."""
    source, target, square = (
        np.ones(_COPY_BYTES, np.uint8),
        np.empty(_COPY_BYTES, np.uint8),
        np.ones((1024, 1024), np.float32),
    )

    def seconds(work: Callable[[], Any]) -> float:
        clock = _Clock()
        for _ in range(5):
            clock("", work)
        return min(clock.seconds[""])

    copied, multiplied = seconds(lambda: np.copyto(target, source)), seconds(lambda: square @ square)
    return {"bytes_per_s": 2 * _COPY_BYTES / copied, "operations_per_s": 2 * 1024**3 / multiplied}


def profile(
    bundle: Bundle,
    variants: Sequence[str] = (),
    *,
    requests: int = 200,
    text: str | None = None,
    backend: str | None = None,
    threads: int = 1,
) -> dict[str, list[StageTime]]:
    """Profile the named variants, or all, on histories of real users.

    text: encoded with each request by variants that use texts, in ``backend``; None: the fastest one installed.

    Raises:
        ConfigError: an unknown variant or backend. MissingExtraError: the backend's library is not installed.
    """
    if backend is not None:
        check_backend(backend)
    found, texts = {}, bundle.text_files
    histories = calibration_histories(bundle.dataset, requests)
    for name in variants or bundle.variants:
        variant = bundle.variant(name)
        index = cached_index(variant.model, f"{bundle.version} {name}", bundle.dataset, _CANDIDATES)
        ranker, reader = Ranker(variant.model, index=index, candidates=_CANDIDATES), None
        if text and texts is not None and ranker.reads_text:
            reader = open_text_reader(variant, texts, backend, threads)
        times = _times(ranker, histories, reader, text)
        work = _work(variant, float(np.mean([len(rows) for rows in histories])), text or "", index is None)
        found[name] = [
            StageTime(stage, float(np.median(times[stage])), float(np.percentile(times[stage], 99)), *work[stage])
            for stage in STAGES
            if stage in times
        ]
        if reader is not None:
            reader.close()
    return found


@dataclass(frozen=True)
class Predicted:
    """Latency of an accelerator: median and p99 in ms, from cycles at a clock. stated: how, for display."""

    variant: str
    stated: str
    p50_ms: float
    p99_ms: float


def predicted(bundle: Bundle, requests: int = 200) -> Predicted | None:
    """Latency of a bundle's accelerator on the smallest device that fits, on histories of real users.

    Histories that the accelerator leaves to the processor do not count. None: no variant has an
    integer form, or no history remains.

    Raises:
        MissingExtraError: the extra ``fpga`` is not installed.
    """
    try:
        backend = accelerator_of(bundle, "emulator")
    except (BundleError, ConfigError):
        return None
    from lanner.accelerators.build import emulated, fitting_device, prediction

    times_ms = []
    for history in calibration_histories(bundle.dataset, requests):
        rows = np.unique(history)
        if len(rows) and backend.covers(len(rows), _TOP_K):
            before = backend.figures()["cycles"]
            backend.rank([Asked(rows, np.full(len(rows), 1 / len(rows), np.float32), rows, _TOP_K)])
            times_ms.append((backend.figures()["cycles"] - before) / backend.mhz / 1e3)
    if not times_ms:
        return None
    contract = backend.contract
    stated = prediction(emulated(contract, _TOP_K), fitting_device(contract, _TOP_K), backend.mhz)
    p50, p99 = (float(np.percentile(times_ms, share)) for share in (50, 99))
    return Predicted(f"{source_of(bundle)}, {ACCELERATED}", stated, p50, p99)


class _Clock:
    """Accumulates seconds per stage of the calls made through it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = work(*arguments)
        self.seconds.setdefault(stage, []).append(time.perf_counter() - started)
        return result


def _times(
    ranker: Ranker, histories: Sequence[NDArray[np.int64]], reader: TextReader | None, text: str | None
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds per stage and request."""
    clock = _Clock()
    for step, stage in _STEPS.items():
        setattr(ranker, step, partial(clock, stage, getattr(ranker, step)))
    for number, rows in enumerate([*histories[:_UNMEASURED], *histories]):
        if number == _UNMEASURED:
            clock.seconds.clear()
        query = Query(rows, seen=rows, k=_TOP_K, explain=True)
        if reader is not None:
            query = replace(query, text_features=clock("encode", reader.read, [f"{text} {number}"])[0])
        ranker.rank([query])
    return {stage: np.array(seconds) * 1e3 for stage, seconds in clock.seconds.items()}


def _work(variant: Variant, history: float, text: str, scans: bool) -> dict[str, tuple[float, float]]:
    """(bytes read, multiply-adds) per stage: counted, not measured, and without the savings of an index."""
    model, shape, weights = variant.model, variant.figures.get("encoder_shape"), 0
    if shape is not None:
        widths = zip(shape["heads"], shape["feed_forward"], strict=True)
        weights = sum(2 * shape["hidden"] * (2 * heads * shape["head_size"] + inner) for heads, inner in widths)
    read, scanned = history * nbytes(model.source_ID) / max(1, model.num_items), float(scans)
    head = (0.0, 0.0)
    if model.head is not None:
        ranked = min(_CANDIDATES, model.num_items)
        head = ranked / model.num_items * nbytes(model.head.item_IH), float(ranked * len(model.head.out_H))
    return {
        "encode": (4.0 * weights, float((len(text.split()) + 2) * weights)),
        "aggregate": (read, history * model.dimensions),
        "retrieve": (scanned * nbytes(model.target_ID), scanned * model.num_items * model.dimensions),
        "rank": head,
        "explain": (read, _TOP_K * history * model.dimensions),
    }


def draw(path: Path, stages: Mapping[str, Sequence[StageTime]]) -> None:
    """Draw stacked bars of median time per stage, one bar per variant, into ``path``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "plotting the profile") from None
    figure = Figure(figsize=(8, 0.6 * len(stages) + 1.6), layout="constrained")
    axes, left = figure.subplots(), np.zeros(len(stages))
    for stage in STAGES:
        widths = np.array([sum(time.p50_ms for time in times if time.stage == stage) for times in stages.values()])
        axes.barh(list(stages), widths, left=left, label=stage)
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("median milliseconds per request")
    axes.legend(ncols=len(STAGES), frameon=False, loc="lower right")
    figure.savefig(path)
