"""How long each variant takes on each backend and for each batch size, measured before the first request is taken."""

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.serving.cores import on_one_core
from lanner.serving.engine import Engine
from lanner.serving.profile import histories_of
from lanner.serving.scheduling.profile import LatencyProfile, Times
from lanner.serving.together import answer_together

BATCH_SIZES = (1, 4, 16)
_REQUESTS = 64
_MOST_BATCHES, _FIRST = 48, 2
"""Batches of a size that are timed, after the first few."""
_K = 10


def asked_histories(dataset: Dataset, length: int) -> list[NDArray[np.int64]]:
    """Histories of real users, as they are asked for: what is timed. Nobody's, where nobody is known."""
    found = [one[-length:].astype(np.int64) for one in histories_of(dataset.histories, _REQUESTS)]
    return found or [np.empty(0, np.int64)]


def measure_profile(
    engines: Mapping[tuple[str, str], Engine], histories: Sequence[NDArray[np.int64]]
) -> LatencyProfile:
    """Of engines by (backend, variant), in this process."""
    table: dict[str, dict[str, Times]] = {}
    for (backend, variant), engine in engines.items():
        table.setdefault(backend, {})[variant] = measured_times(engine, histories)
    return LatencyProfile(table)


def measured_times(engine: Engine, histories: Sequence[NDArray[np.int64]]) -> Times:
    """Milliseconds of batches of plain requests, worked on as those that are served: (median, p99) by batch size."""
    with on_one_core():
        return {size: _milliseconds(engine, histories, size) for size in BATCH_SIZES}


def _milliseconds(engine: Engine, histories: Sequence[NDArray[np.int64]], size: int) -> tuple[float, float]:
    milliseconds = []
    turn = itertools.cycle(histories)
    for _ in range(min(_MOST_BATCHES, max(_REQUESTS // size, 12)) + _FIRST):
        batch = list(itertools.islice(turn, size))
        begun = time.perf_counter()
        answer_together(engine, batch, [_K] * size, [True] * size)
        milliseconds.append((time.perf_counter() - begun) * 1e3)
    p50, p99 = np.percentile(milliseconds[_FIRST:], (50, 99))
    return float(p50), float(p99)
