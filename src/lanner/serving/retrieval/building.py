"""Which structure serves a catalogue: where size and settings leave a choice, each is built, tuned and timed."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lanner.serving.retrieval.candidates import Candidates, Cells, Graph
from lanner.serving.retrieval.plan import Measured, Plan, RetrievalConfig, choose
from lanner.serving.retrieval.snapshot import Base, Snapshot
from lanner.serving.retrieval.tuning import Judge
from lanner.serving.retrieval.vectors import FloatVectors, Vectors, encode

_LOG = logging.getLogger(__name__)
BEST = 10
"""How many of the best count where nothing else is asked."""
_STAND_INS = 64
"""Items that stand in for queries where none are given."""
_TRIAL_SHARE = 10
_TRIAL_GROWTH = 1.5
"""The graph is tried on one item in ten first. With ten times the items it took 1.7 to 8.8 times as long for the same
recall wherever it was measured, so where 1.5 times the trial's time is no less than what another structure takes for
all items, the whole is not built.

µs a query for the 10 best at recall .99, 100,000 items on one core of two; in brackets the graph of 10,000 of them:
vectors of benchmarks/compression.py, 64 dimensions: scan 1,040, INT8 1,220, IVF-PQ 360, graph 1,200 (700);
the same, 256 dimensions: scan 3,570, INT8 2,420, IVF-PQ 690, graph 7,110 (1,270); Gaussian, 64: scan 870, INT8 1,720,
IVF-PQ 1,110, graph 1,950 (230); Gaussian, 256: scan 3,380, INT8 1,670, IVF-PQ and graph by scanning nearly all."""


@dataclass(frozen=True)
class Sample:
    """What to judge structures by."""

    queries_BD: NDArray[np.float32] | None = None
    """None: items stand in."""
    k: int = BEST
    retrieved: int = BEST

    def judge(self, reference: Snapshot) -> Judge:
        """With the exact answers of ``reference``, which holds an item at least."""
        queries_BD = self.queries_BD
        if queries_BD is None:
            items = reference.base.vectors.shape[0]
            chosen = np.random.default_rng(0).choice(items, min(_STAND_INS, items), replace=False)
            queries_BD = reference.base.vectors.decode(chosen)
        return Judge.of(reference, queries_BD, self.k, self.retrieved)


def structure(plan: Plan, item_ID: NDArray[np.float32]) -> Snapshot:
    """What ``plan`` names, not tuned yet; rows are positions.

    Raises:
        ValueError: a number is beyond the range of float16.
        MissingExtraError: the structure needs faiss, which is not installed.
    """
    vectors: Vectors
    candidates: Candidates | None = None
    if plan.kind == "hnsw":
        candidates = Graph.build(item_ID)
        vectors = candidates.vectors
    else:
        vectors = encode(item_ID, plan.precision)
        candidates = Cells.build(item_ID) if plan.kind == "ivf-pq" else None
    return Snapshot.of(Base(plan, vectors, candidates, None), 1, len(item_ID))


def fastest(item_ID: NDArray[np.float32], config: RetrievalConfig, sample: Sample) -> Snapshot:
    """The structure that answers the sample fastest of those that reach the recall target; rows are positions.

    Where none does, the one of highest recall. Two are held at a time. Errors as ``build_index``.
    """
    plans = choose(len(item_ID), item_ID.shape[1], config)
    if not len(item_ID):
        return structure(plans[0], item_ID)
    judge = sample.judge(_as_given(item_ID))
    best: tuple[Snapshot, Measured] | None = None
    for plan in plans:
        if plan.kind == "hnsw" and best is not None and not _may_pay(item_ID, config.recall_target, judge, best[1]):
            continue
        found = judge.tuned(structure(plan, item_ID), config.recall_target)
        _LOG.info("retrieval of %d items of %d dimensions: %s", *item_ID.shape, found[1])
        if best is None or _rank(found[1], config.recall_target) < _rank(best[1], config.recall_target):
            best = found
    assert best is not None
    return best[0]


def _as_given(item_ID: NDArray[np.float32]) -> Snapshot:
    """The items as they came, which every structure is judged by."""
    return Snapshot.of(Base(Plan("exact", "float32"), FloatVectors(item_ID), None, None), 1, len(item_ID))


def _may_pay(item_ID: NDArray[np.float32], recall_target: float, judge: Judge, best: Measured) -> bool:
    """Whether a graph of all items may beat ``best``, told from one of a share of them."""
    if best.recall < recall_target:
        return True
    part_ID = item_ID[np.random.default_rng(0).choice(len(item_ID), len(item_ID) // _TRIAL_SHARE, replace=False)]
    trial = Judge.of(_as_given(part_ID), judge.queries_BD, judge.k, judge.retrieved)
    measured = trial.tuned(structure(Plan("hnsw", "float16"), part_ID), recall_target)[1]
    pays = _TRIAL_GROWTH * measured.microseconds < best.microseconds
    verdict = "may pay" if pays else "cannot pay"
    _LOG.info("retrieval by a graph of one item in %d: %s; one of all items %s", _TRIAL_SHARE, measured, verdict)
    return pays


def _rank(measured: Measured, recall_target: float) -> tuple[float, float]:
    """Less is better: recall as far as the target, then time."""
    return -min(measured.recall, recall_target), measured.microseconds
