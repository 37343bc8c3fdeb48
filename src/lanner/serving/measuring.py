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
from lanner.serving.scheduling import LatencyProfile
from lanner.serving.scheduling.profile import SLOWEST, Times
from lanner.serving.together import answer_together

BATCH_SIZES = (1, 4, 16)
_REQUESTS = 64
_FEWEST_BATCHES, _FIRST = 6, 2
"""Batches of a size that are timed at least, after the first few."""
_ENOUGH_S, _REST_S = 0.02, 0.002
"""Beyond the fewest no more are timed than take so long, rests included: a server that starts is waited for."""
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
    """Milliseconds of batches of plain requests, worked on as those that are served: (median, p99) by batch size.

    With a rest before each, as they have while serving: what one batch alone finds in no cache costs it as much again,
    and sixteen at once share that.
    """
    with on_one_core():
        return {size: _milliseconds(engine, histories, size) for size in BATCH_SIZES}


def _milliseconds(engine: Engine, histories: Sequence[NDArray[np.int64]], size: int) -> tuple[float, float]:
    turn, timed, until = itertools.cycle(histories), list[float](), time.perf_counter() + _ENOUGH_S
    while len(timed) < _FIRST + _FEWEST_BATCHES or time.perf_counter() < until:
        batch = list(itertools.islice(turn, size))
        time.sleep(_REST_S)
        begun = time.perf_counter()
        answer_together(engine, batch, [_K] * size, [True] * size)
        timed.append((time.perf_counter() - begun) * 1e3)
    return typical_and_slow(np.array(timed[_FIRST:]))


def typical_and_slow(milliseconds: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 99th percentile without those times in which the machine stood still rather than worked.

    One such pause would bar a variant from every deadline for as long as the server runs.
    """
    p50 = float(np.median(milliseconds))
    return p50, float(np.percentile(milliseconds[milliseconds <= SLOWEST * p50], 99))
