"""Where the time of a request goes: each stage of the engine, on this machine, beside what its memory could do."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.ladder import Ladder, Rung, TextReader, TextSample
from lanner.data.ragged import Ragged
from lanner.errors import MissingExtraError
from lanner.models.request_form import Int8Rows, Table
from lanner.serving.backends import Backend, open_backend
from lanner.serving.engine import Asked, Engine

STAGES = ("gather", "aggregate", "encode", "fuse", "retrieve", "rank", "explain")
"""In the order of a request: what was met is gathered and averaged (all that graph aggregation is at request time), a
text is read, both are joined, candidates are retrieved and ranked, and the k best are taken apart into reasons."""
PORTABLE = ("torch", "onnxruntime", "openvino", "numba")
"""Backends measured when a ladder is written; those not installed are left out."""
A_TEXT = " ".join(["a quiet film about two brothers who leave the city for the sea, told slowly and without music"] * 2)
BATCH_SIZES = (1, 8, 64)
_COPIED = 64 << 20


@dataclass(frozen=True)
class StageTime:
    """One stage: milliseconds at the median and the 99th percentile, bytes read and multiply-adds a request."""

    stage: str
    p50_ms: float
    p99_ms: float
    bytes_read: int
    operations: int

    def bound_ms(self, ceilings: Mapping[str, float]) -> float:
        """The roofline: what this machine would need for the bytes or for the operations, whichever is more."""
        of_memory = self.bytes_read / ceilings["bytes_per_s"]
        return 1e3 * max(of_memory, 2 * self.operations / ceilings["operations_per_s"])


def machine_ceilings(repetitions: int = 5) -> dict[str, float]:
    """Measured: bytes/s of a large copy (read and written), and float32 operations/s of a large product."""
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
    square = np.ones((1024, 1024), np.float32)
    copied = min(_seconds(lambda: np.copyto(target, source)) for _ in range(repetitions))
    multiplied = min(_seconds(lambda: square @ square) for _ in range(repetitions))
    return {"bytes_per_s": 2 * _COPIED / copied, "operations_per_s": 2 * 1024**3 / multiplied}


def profile(engine: Engine, histories: Sequence[NDArray[np.integer]], text: str | None, k: int = 10) -> list[StageTime]:
    """Time each stage of ``engine`` over one request a history, after one unmeasured round."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    lengths = []
    for number, history in enumerate([*histories[:3], *histories]):
        clock = _Clock()
        met = engine.known(history)
        sources_MD = clock("gather", partial(engine.gather, met))
        mean_D = clock("aggregate", partial(engine.aggregate, sources_MD))
        unread = None if text is None else f"{text} {number}"
        read = clock("encode", partial(engine.encode, unread, None, len(met)))
        asker = clock("fuse", partial(engine.fuse, mean_D, read))
        rows, scores = clock("retrieve", partial(engine.retrieve, asker, k, deny=met))
        ranked = clock("rank", partial(engine.rank, asker, rows, scores, k))
        clock("explain", partial(engine.explain, Asked(met, sources_MD, asker), ranked.items))
        if number >= 3:
            lengths.append(len(met))
            for stage, seconds in clock.seconds.items():
                times[stage].append(seconds * 1e3)
    counted = _work(engine, float(np.mean(lengths)) if lengths else 0.0, text, k)
    return [
        StageTime(stage, float(np.median(times[stage])), float(np.percentile(times[stage], 99)), *counted[stage])
        for stage in STAGES
        if times[stage]
    ]


def profile_ladder(
    ladder: Ladder,
    variants: Sequence[str],
    backend: str,
    histories: Ragged,
    requests: int,
    text: str | None,
    threads: int,
) -> dict[str, list[StageTime]]:
    """The stages of some rungs (all where none is named); a rung that reads no profiles is asked without the text."""
    reader, asked = ladder.reader, histories_of(histories, requests)
    found = {}
    for name in variants or ladder.names:
        rung = ladder.rung(name)
        runtime = open_backend(backend, rung, reader, threads)
        reads = rung.form.profile_FD is not None and reader is not None
        found[name] = profile(Engine(rung, runtime), asked, text if reads else None)
        runtime.close()
    return found


def measure_rung(
    rung: Rung,
    reader: TextReader | None,
    sample: TextSample | None = None,
    backends: Sequence[str] | None = None,
    threads: int = 2,
) -> dict[str, Any]:
    """Milliseconds at the median of scoring the catalogue, per batch size, and of reading a text.

    By backend, all portable ones where none is named. With a ``sample``, also texts a second and the mean cosine to
    the whole encoder's vectors.
    """
    latency: dict[str, Any] = {}
    for name in backends or PORTABLE:
        try:
            backend = open_backend(name, rung, reader, threads)
        except MissingExtraError:
            continue
        users = np.random.default_rng(0).normal(size=(max(BATCH_SIZES), rung.form.dimensions)).astype(np.float32)
        score = {str(size): median_ms(partial(backend.score_vectors, users[:size])) for size in BATCH_SIZES}
        latency[name] = {"score_p50_ms": score}
        if reader is not None and "encoder_shape" in rung.figures:
            latency[name]["encode_p50_ms"] = median_ms(partial(backend.encode, [A_TEXT]))
            if sample is not None:
                latency[name] |= _of_sample(backend, sample)
        backend.close()
    return {"latency": latency, "size_mib": rung.num_bytes / 2**20, "encoder_mib": rung.encoder_bytes / 2**20}


def _of_sample(backend: Backend, sample: TextSample) -> dict[str, float]:
    vectors_TE = backend.encode(sample.texts)
    cosine = float((vectors_TE * sample.vectors_TE).sum(axis=1).mean())
    return {"texts_per_s": len(sample.texts) / _seconds(lambda: backend.encode(sample.texts)), "cosine": cosine}


def median_ms(work: Callable[[], Any], repetitions: int = 30) -> float:
    """Median milliseconds of ``work``, after three unmeasured calls."""
    for _ in range(3):
        work()
    return float(np.median([_seconds(work) for _ in range(repetitions)]) * 1e3)


def draw(path: Path, stages: Mapping[str, Sequence[StageTime]]) -> None:
    """Stacked bars of the median time per stage, one bar a variant, as a picture at ``path``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "a picture of the profile") from None
    figure = Figure(figsize=(8, 0.6 * len(stages) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(stages))
    for stage in STAGES:
        widths = np.array([sum(t.p50_ms for t in times if t.stage == stage) for times in stages.values()])
        axes.barh(list(stages), widths, left=left, label=stage)
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a request, median")
    axes.legend(ncols=len(STAGES), frameon=False, loc="lower right")
    figure.savefig(path)


class _Clock:
    """Seconds of each stage of one request."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - begun
        return result


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _work(engine: Engine, met: float, text: str | None, k: int) -> dict[str, tuple[int, int]]:
    """(bytes read, multiply-adds) of each stage: counted, not measured."""
    form, head = engine.form, engine.form.head
    shape = None if engine.backend is None else engine.backend.rung.figures.get("encoder_shape")
    tokens = 0 if text is None else len(text.split()) + 2
    layers = 0
    if shape is not None:
        widths = zip(shape["heads"], shape["feed_forward"], strict=True)
        hidden = shape["hidden"]
        layers = sum(4 * hidden * heads * shape["head_size"] + 2 * hidden * inner for heads, inner in widths)
    pairs = 0 if head is None else engine.candidates * len(head.out_H)
    fused = 0 if head is None else head.user_DH.size
    gathered = round(met * form.dimensions)
    return {
        "gather": (round(met * _row_bytes(form.source_ID)), 0),
        "aggregate": (4 * gathered, gathered),
        "encode": (0, 0) if text is None else (4 * layers, tokens * layers),
        "fuse": (4 * fused, fused),
        "retrieve": (form.num_items * _row_bytes(form.target_ID), form.num_items * form.dimensions),
        "rank": (0 if head is None else engine.candidates * _row_bytes(head.item_IH), pairs),
        "explain": (4 * (k * form.dimensions + gathered), k * gathered),
    }


def _row_bytes(table: Table) -> int:
    return int(table.codes.shape[1] + 4 if isinstance(table, Int8Rows) else table.shape[1] * table.itemsize)


def histories_of(lists: Ragged, number: int) -> list[NDArray[np.int32]]:
    """The histories of at most ``number`` users who have one, evenly spread over their lengths."""
    known = np.flatnonzero(lists.lengths)
    ordered = known[np.argsort(lists.lengths[known], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(np.int64)
    return [lists[row] for row in np.random.default_rng(0).permutation(ordered[places])]
