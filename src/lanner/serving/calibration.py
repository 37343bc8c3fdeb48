"""How long each variant takes to rank batches of several sizes, measured before the first request is taken."""

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
_FEWEST, _FIRST = 3, 1
"""Batches of a size that are timed at least, after the first, which finds cold caches."""
_REST_S = 0.001
"""Before each batch, as they have while serving, where other work has emptied the caches."""


def calibration_histories(dataset: Dataset, number: int = 64) -> list[NDArray[np.int64]]:
    """Item rows of real users, evenly spread over the lengths of their histories; an empty one where nobody has any."""
    lists = dataset.histories
    known = np.flatnonzero(lists.lengths)
    ordered = known[np.argsort(lists.lengths[known], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(np.int64)
    rows = np.random.default_rng(0).permutation(ordered[places])
    return [lists[row].astype(np.int64) for row in rows] or [np.empty(0, np.int64)]


def measure_profile(
    rank: Rank[Q, R], variants: Sequence[VariantId], queries: Sequence[Q], budget_s: float = 0.2
) -> LatencyProfile:
    """Time batches of ``queries`` in this thread, limited to one core as it is while serving.

    budget_s: for each variant; exceeded only where the fewest batches take longer.

    Raises:
        What ``rank`` raises or gives.
    """
    limit_threads()
    return LatencyProfile({variant: _times(rank, variant, queries, budget_s) for variant in variants})


def _times(rank: Rank[Q, R], variant: VariantId, queries: Sequence[Q], budget_s: float) -> Times:
    """(median, p99) in milliseconds by batch size. Where the budget is spent no larger sizes are tried."""
    turn, found, ends = itertools.cycle(queries), dict[int, tuple[float, float]](), time.perf_counter() + budget_s
    for place, size in enumerate(BATCH_SIZES):
        now = time.perf_counter()
        if found and now >= ends:
            break
        timed, until = list[float](), now + (ends - now) / (len(BATCH_SIZES) - place)
        while len(timed) < _FIRST + _FEWEST or time.perf_counter() < until:
            batch = list(itertools.islice(turn, size))
            time.sleep(_REST_S)
            begun = time.perf_counter()
            outcomes = rank(variant, batch)
            timed.append((time.perf_counter() - begun) * 1e3)
            if failed := [one for one in outcomes if isinstance(one, Exception)]:
                raise failed[0]
        found[size] = typical_and_slow(np.array(timed[_FIRST:]))
    return found


def typical_and_slow(milliseconds: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 99th percentile without the times in which the machine stood still rather than worked.

    One such pause would bar a variant from every deadline for as long as the server runs.
    """
    p50 = float(np.median(milliseconds))
    # Of three times one of which is a pause, the median is the largest of the others.
    return p50, max(p50, float(np.percentile(milliseconds[milliseconds <= SLOWEST * p50], 99)))
