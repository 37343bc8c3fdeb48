"""Calibration: measures the batch latency of each variant at several batch sizes, before the first request."""

import itertools
import time
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.serving.scheduler.batcher import Rank
from lanner.serving.scheduler.latency_profile import SLOWEST, LatencyProfile, Times, VariantId
from lanner.serving.thread_limits import limit_threads

Q = TypeVar("Q")
R = TypeVar("R")

BATCH_SIZES = (1, 2, 4, 8, 16)
_MIN_REPEATS, _WARM_UP = 3, 1
"""Minimum number of timed batches per size, after a warm-up batch."""
_REST_S = 0.001
"""Bytes written before each batch to evict the caches, as other work does while serving."""


def calibration_histories(dataset: Dataset, number: int = 64) -> list[NDArray[np.int64]]:
    """Item rows of real users, evenly spread over history lengths; one empty history if there are none."""
    lists = dataset.histories
    known = np.flatnonzero(lists.lengths)
    ordered = known[np.argsort(lists.lengths[known], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(np.int64)
    rows = np.random.default_rng(0).permutation(ordered[places])
    return [lists[row].astype(np.int64) for row in rows] or [np.empty(0, np.int64)]


def measure_profile(
    rank: Rank[Q, R], variants: Sequence[VariantId], queries: Sequence[Q], budget_s: float = 0.2
) -> LatencyProfile:
    """Time batches of ``queries`` in this thread, limited to one core as while serving.

    budget_s: seconds per variant; exceeded only if the minimum number of batches takes longer.

    Raises:
        Whatever ``rank`` raises or returns as an outcome.
    """
    limit_threads()
    return LatencyProfile({variant: _times(rank, variant, queries, budget_s) for variant in variants})


def _times(rank: Rank[Q, R], variant: VariantId, queries: Sequence[Q], budget_s: float) -> Times:
    """(median, p99) in milliseconds by batch size; larger sizes are skipped once the budget is spent."""
    turn, found, ends = itertools.cycle(queries), dict[int, tuple[float, float]](), time.perf_counter() + budget_s
    for place, size in enumerate(BATCH_SIZES):
        now = time.perf_counter()
        if found and now >= ends:
            break
        timed, until = list[float](), now + (ends - now) / (len(BATCH_SIZES) - place)
        while len(timed) < _WARM_UP + _MIN_REPEATS or time.perf_counter() < until:
            batch = list(itertools.islice(turn, size))
            time.sleep(_REST_S)
            started = time.perf_counter()
            outcomes = rank(variant, batch)
            timed.append((time.perf_counter() - started) * 1e3)
            if failed := [one for one in outcomes if isinstance(one, Exception)]:
                raise failed[0]
        found[size] = typical_and_slow(np.array(timed[_WARM_UP:]))
    return found


def typical_and_slow(milliseconds: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 99th percentile without outliers, in which the machine was paused.

    One such pause would exclude a variant from every deadline for as long as the server runs.
    """
    p50 = float(np.median(milliseconds))
    # With three times, one of them an outlier, the median is the largest of the others.
    return p50, max(p50, float(np.percentile(milliseconds[milliseconds <= SLOWEST * p50], 99)))
