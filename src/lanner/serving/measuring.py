"""How long each variant takes on each backend and for each batch size, measured before the first request is taken."""

import itertools
import time
from collections.abc import Sequence

import numpy as np

from lanner.serving.answering import Question, work_on
from lanner.serving.dispatcher import on_one_core
from lanner.serving.engine import Engine
from lanner.serving.model import ServedModel
from lanner.serving.profile import histories_of
from lanner.serving.scheduling import LatencyProfile

BATCH_SIZES = (1, 4, 16)
_REQUESTS = 64
_MOST_BATCHES, _FIRST = 48, 2
"""Batches of a size that are timed, after the first few."""
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
    milliseconds = []
    turn = itertools.cycle(questions)
    for _ in range(min(_MOST_BATCHES, max(_REQUESTS // size, 12)) + _FIRST):
        batch = list(itertools.islice(turn, size))
        begun = time.perf_counter()
        work_on(engine, batch)
        milliseconds.append((time.perf_counter() - begun) * 1e3)
    p50, p99 = np.percentile(milliseconds[_FIRST:], (50, 99))
    return float(p50), float(p99)
