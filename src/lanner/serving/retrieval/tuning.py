"""How much effort a structure must spend to find what an exact scan finds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lanner.serving.retrieval.snapshot import Snapshot

_SAMPLE = 256
"""Queries that are searched at every setting tried."""
_ROUNDING = 1e-5
"""Share of a score by which two ways of summing the same products may differ."""


def cheapest_effort(
    snapshot: Snapshot, queries_BD: NDArray[np.float32], recall_target: float, k: int, retrieved: int
) -> tuple[int, float]:
    """The least effort that reaches ``recall_target`` on a sample of the queries, and the recall measured there.

    Where none does, the most effort and its recall. Arguments as ``tune``, already checked.
    """
    if snapshot.base.candidates is None:
        return snapshot.effort, 1.0
    if len(queries_BD) > _SAMPLE:
        queries_BD = queries_BD[np.random.default_rng(0).choice(len(queries_BD), _SAMPLE, replace=False)]
    best = snapshot.search(queries_BD, k, exact=True)[1]
    # The k-th best score is the bar: of items that tie, any will do.
    held = np.isfinite(best)
    bar = np.where(held, best, np.inf).min(axis=1)
    bar -= _ROUNDING * np.abs(bar)
    efforts = snapshot.base.candidates.efforts
    measured: dict[int, float] = {}
    low, high = 0, len(efforts) - 1
    while low <= high:
        middle = (low + high) // 2
        scores = replace(snapshot, effort=efforts[middle]).search(queries_BD, retrieved)[1][:, :k]
        measured[middle] = float((scores >= bar[:, None]).sum() / max(held.sum(), 1))
        low, high = (low, middle - 1) if measured[middle] >= recall_target else (middle + 1, high)
    place = min(low, len(efforts) - 1)
    return efforts[place], measured[place]
