"""How long each variant takes on each backend and for each batch size, measured before the first request is taken."""

import time

import numpy as np
from numpy.typing import NDArray

from lanner.serving.answering import Question, find
from lanner.serving.engine import Engine
from lanner.serving.model import ServedModel
from lanner.serving.profile import histories_of
from lanner.serving.scheduling import LatencyProfile

BATCH_SIZES = (1, 4, 16)
_REQUESTS = 64
_K = 10


def measure_profile(model: ServedModel, history_length: int) -> LatencyProfile:
    """From requests of real histories; a batch is worked on one request after another, so its time is their sum."""
    histories = [one[-history_length:].astype(np.int64) for one in histories_of(model.dataset.histories, _REQUESTS)]
    if not histories:
        histories = [np.empty(0, np.int64)]
    table: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for (backend, variant), engine in model.engines.items():
        table.setdefault(backend, {})[variant] = _times(engine, histories)
    return LatencyProfile(table)


def _times(engine: Engine, histories: list[NDArray[np.int64]]) -> dict[int, tuple[float, float]]:
    milliseconds = []
    for history in [*histories[:5], *histories]:
        begun = time.perf_counter()
        find(engine, Question(history, None, None, _K))
        milliseconds.append((time.perf_counter() - begun) * 1e3)
    p50, p99 = np.percentile(milliseconds[5:], (50, 99))
    return {size: (float(p50) * size, float(max(p99, p50)) * size) for size in BATCH_SIZES}
