"""How long each variant takes on each backend and for each batch size, measured before the first request is taken."""

import itertools
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.serving.answering import Question, work_on
from lanner.serving.dispatcher import on_one_core
from lanner.serving.engine import Engine
from lanner.serving.model import ServedModel
from lanner.serving.profile import histories_of
from lanner.serving.scheduling import LatencyProfile
from lanner.serving.scheduling.profile import SLOWEST

BATCH_SIZES = (1, 4, 16)
_REQUESTS = 64
_MOST_BATCHES, _FEWEST_BATCHES, _FIRST = 48, 6, 2
"""Batches of a size that are timed, after the first few."""
_ENOUGH_MS = 20.0
"""Beyond the fewest no more are timed than take so long: a server that starts is waited for."""
_K = 10


def measure_profile(model: ServedModel, history_length: int) -> LatencyProfile:
    """From plain requests of real histories, worked on as those that are served."""
    histories = [one[-history_length:].astype(np.int64) for one in histories_of(model.dataset.histories, _REQUESTS)]
    questions = [Question(one, None, None, _K) for one in histories or [np.empty(0, np.int64)]]
    table: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    with on_one_core():
        for (backend, variant), engine in model.engines.items():
            times = {size: _milliseconds(engine, questions, size) for size in BATCH_SIZES}
            table.setdefault(backend, {})[variant] = times
    return LatencyProfile(table)


def _milliseconds(engine: Engine, questions: Sequence[Question], size: int) -> tuple[float, float]:
    """Median and 99th percentile of a batch."""
    turn, timed, spent = itertools.cycle(questions), list[float](), 0.0
    while len(timed) < _FIRST + _FEWEST_BATCHES or (spent < _ENOUGH_MS and len(timed) < _FIRST + _MOST_BATCHES):
        batch = list(itertools.islice(turn, size))
        begun = time.perf_counter()
        work_on(engine, batch)
        timed.append((time.perf_counter() - begun) * 1e3)
        spent += timed[-1]
    return typical_and_slow(np.array(timed[_FIRST:]))


def typical_and_slow(milliseconds: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 99th percentile without those times in which the machine stood still rather than worked.

    One such pause would bar a variant from every deadline for as long as the server runs.
    """
    p50 = float(np.median(milliseconds))
    return p50, float(np.percentile(milliseconds[milliseconds <= SLOWEST * p50], 99))
