"""How much effort a structure must spend to find what an exact scan finds, and how long a query then takes."""

import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lanner.serving.retrieval.plan import Measured
from lanner.serving.retrieval.snapshot import Snapshot

_SAMPLE = 256
"""Queries that are searched at every setting tried."""
_TIMED_SECONDS = 1.0
_WARMING = 3
"""How long single queries are timed, after a few that are not."""
_ROUNDING = 1e-5
"""Share of a score by which two ways of summing the same products may differ."""


@dataclass(frozen=True)
class Judge:
    """A sample of queries and what an exact scan of ``reference`` finds for them.

    It judges the reference's own base at any effort, and other bases of the same items at the same positions.
    """

    reference: Snapshot
    queries_BD: NDArray[np.float32]
    bar_B: NDArray[np.float32]
    """The k-th best score: of items that tie, any will do."""
    num_best: int
    """Items that were to be found, of all queries together."""
    k: int
    retrieved: int

    @classmethod
    def of(cls, reference: Snapshot, queries_BD: NDArray[np.float32], k: int, retrieved: int) -> Self:
        """``k`` best count; searches ask for ``retrieved``, no fewer."""
        if len(queries_BD) > _SAMPLE:
            queries_BD = queries_BD[np.random.default_rng(0).choice(len(queries_BD), _SAMPLE, replace=False)]
        best = reference.search(queries_BD, k, exact=True)[1]
        held = np.isfinite(best)
        bar = np.where(held, best, np.inf).min(axis=1)
        return cls(reference, queries_BD, bar - _ROUNDING * np.abs(bar), int(held.sum()), k, retrieved)

    def tuned(self, snapshot: Snapshot, recall_target: float) -> tuple[Snapshot, Measured]:
        """At the least effort that reaches ``recall_target``; where none does, the least as good as the most."""
        recall = cache(lambda effort: self._recall(replace(snapshot, effort=effort)))
        candidates = snapshot.base.candidates
        efforts = (snapshot.effort,) if candidates is None else candidates.efforts
        place = bisect_left(efforts, recall_target, key=recall)
        if place == len(efforts):
            place = bisect_left(efforts, recall(efforts[-1]), key=recall)
        chosen = replace(snapshot, effort=efforts[place])
        measured = Measured(snapshot.base.plan.kind, recall(efforts[place]), self._microseconds(chosen))
        return replace(chosen, measured=measured), measured

    def _recall(self, snapshot: Snapshot) -> float:
        rows, scores = snapshot.search(self.queries_BD, self.retrieved)
        scores = scores[:, : self.k]
        if snapshot.base is not self.reference.base:
            # Rounded vectors do not judge themselves.
            scores = self.reference.base.vectors.score_own(self.queries_BD, rows[:, : self.k])
        return float((scores >= self.bar_B[:, None]).sum() / max(self.num_best, 1))

    def _microseconds(self, snapshot: Snapshot) -> float:
        """Of single queries, so that a structure that only shines on batches does not pass for fast."""
        seconds: list[float] = []
        single = [self.queries_BD[row : row + 1] for row in range(len(self.queries_BD))]
        until = time.perf_counter() + _TIMED_SECONDS
        for query in single[:_WARMING] + single:
            begun = time.perf_counter()
            snapshot.search(query, self.retrieved)
            seconds.append(time.perf_counter() - begun)
            if begun > until and len(seconds) > 2 * _WARMING:
                break
        return float(np.median(seconds[min(_WARMING, len(single)) :])) * 1e6
