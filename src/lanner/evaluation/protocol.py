"""The evaluation protocol: scores in, report out, for any model."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.ranking import MAXIMUM_K, top_k
from lanner.data.split import HeldOut, Split
from lanner.errors import ConfigError
from lanner.evaluation import metrics as measures
from lanner.evaluation.report import Report
from lanner.evaluation.rows import areas_under_curve, find_hits, squared_and_absolute_errors

SCORES_AT_ONCE = 1 << 24
"""Scores in memory at a time, 64 MiB. Smaller blocks spend more time on synchronisation than on arithmetic."""
USERS_AT_ONCE = 1024
"""Maximum number of users per block; bounds the scorer's memory if there are few items."""

DEFAULT_METRICS = (*measures.RANKED, "coverage")


class Scorer(Protocol):
    """Anything that scores items."""

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for each user, float32 ``[B, num_items]``; higher is better.

        The caller overwrites the array and does not read it after the next call, so it may be a reused buffer.
        """
        ...


@runtime_checkable
class RankingScorer(Protocol):
    """A scorer that also ranks, as it does in production."""

    @property
    def num_items(self) -> int:
        """Number of items that can be ranked."""
        ...

    def rank(
        self, users: UserBatch, k: int, excluded: Ragged, candidates: NDArray[np.int32] | Ragged | None
    ) -> NDArray[np.int32]:
        """The top k items of each user, best first, int32 ``[B, k]`` padded with −1.

        excluded: rows never ranked, one list per user. candidates: as ``HeldOut.candidates``.
        """
        ...


_READ_SCORES = frozenset({"auc", "rmse", "mae"})
"""Metrics of scores rather than of lists."""


@dataclass
class _Results:
    """Results of the blocks, in the order of ``held_out``."""

    items: NDArray[np.int32]
    auc: NDArray[np.float64]
    squared: NDArray[np.float64]
    absolute: NDArray[np.float64]
    num_items: int = 0


def evaluate(
    scorer: Scorer,
    held_out: HeldOut | Split,
    ks: Sequence[int] = (10, 20),
    metrics: Sequence[str] | None = None,
    popularity: NDArray[np.integer] | None = None,
    item_vectors: NDArray[np.float32] | None = None,
    name: str = "",
) -> Report:
    """Rank items for every held-out user and compute metrics. For a ``Split`` the test users are evaluated.

    A ``RankingScorer`` ranks itself, unless a metric needs scores.

    Users are scored in blocks, so memory does not grow with users × items. Items in ``excluded``, non-candidates, and
    scores of −inf or NaN are never ranked; among equal scores the lower item row is first.

    Args:
        scorer: the model under evaluation.
        held_out: the users and their relevant items.
        ks: list lengths.
        metrics: recall, precision, ndcg, hr, mrr, map, coverage, novelty, diversity (each at every k), auc, and rmse
            and mae (scores taken as predicted ratings, over all rated held-out events). None: the first seven, plus
            novelty and diversity if their inputs are given.
        popularity: training interactions of each item ``[I]``, for novelty; None: counted from a ``Split``.
        item_vectors: float32 ``[I, D]``, for diversity.
        name: name of the report.

    Raises:
        ConfigError: an unknown metric, missing input of a metric, or a k below 1 or above ``MAXIMUM_K``.
        ValueError: the scorer returned another shape than ``[B, num_items]``.
    """
    if isinstance(held_out, Split):
        if popularity is None:
            popularity = np.bincount(held_out.train.histories.values, minlength=held_out.train.num_items)
        held_out = held_out.test
    wanted = _checked(metrics, ks, held_out, popularity, item_vectors)
    started = time.perf_counter()
    found = _rank(scorer, held_out, max(ks), wanted)
    return Report(
        name,
        held_out.rows,
        _per_user(found, held_out, ks, wanted, popularity, item_vectors),
        _dataset_metrics(found, held_out, ks, wanted),
        held_out.rated_items.lengths.astype(np.float64),
        time.perf_counter() - started,
    )


def _checked(
    metrics: Sequence[str] | None,
    ks: Sequence[int],
    held_out: HeldOut,
    popularity: NDArray[np.integer] | None,
    item_vectors: NDArray[np.float32] | None,
) -> tuple[str, ...]:
    """The metrics to compute, validated."""
    if not ks or min(ks) < 1 or max(ks) > MAXIMUM_K:
        raise ConfigError(f"ks must be integers from 1 to {MAXIMUM_K:,}, received {list(ks)}")
    inputs = {"novelty": ("popularity", popularity), "diversity": ("item_vectors", item_vectors)}
    if metrics is None:
        return DEFAULT_METRICS + tuple(metric for metric, (_, given) in inputs.items() if given is not None)
    inputs |= {"rmse": ("ratings", held_out.ratings), "mae": ("ratings", held_out.ratings)}
    known = (*DEFAULT_METRICS, *inputs, "auc")
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"unknown metric '{metric}'; choose from {', '.join(known)}")
        needed, given = inputs.get(metric, ("nothing", ()))
        if given is None:
            raise ConfigError(f"the metric '{metric}' needs {needed}, which is missing")
    return tuple(metrics)


def _rank(scorer: Scorer, held_out: HeldOut, k: int, wanted: Sequence[str]) -> _Results:
    users = len(held_out)
    auc, squared, absolute = np.full((3, users), np.nan)
    found = _Results(np.full((users, k), -1, np.int32), auc, squared, absolute)
    if isinstance(scorer, RankingScorer) and not _READ_SCORES & set(wanted):
        found.num_items = scorer.num_items
        size = _block_size(found.num_items)
        for start in range(0, users, size):
            rows = np.arange(start, min(start + size, users))
            batch = held_out.take(rows)
            found.items[rows] = scorer.rank(batch.users, k, batch.excluded, batch.candidates)
        return found
    for rows, scores in _blocks(scorer, held_out):
        found.num_items = scores.shape[1]
        positives = held_out.positives.take(rows)
        if held_out.ratings is not None and ("rmse" in wanted or "mae" in wanted):
            first, last = held_out.rated_items.indptr[[rows[0], rows[-1] + 1]]
            rated = held_out.rated_items.take(rows)
            errors = squared_and_absolute_errors(scores, rated, held_out.ratings[first:last])
            found.squared[rows], found.absolute[rows] = errors
        narrow(scores, held_out, rows)
        if "auc" in wanted:
            found.auc[rows] = areas_under_curve(scores, positives.indptr, positives.values)
        found.items[rows] = top_k(scores, k)[0]
    return found


def _blocks(scorer: Scorer, held_out: HeldOut) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Positions of users and their scores by block; the first block has one user, to learn the number of items."""
    start, size = 0, 1
    while start < len(held_out):
        rows = np.arange(start, min(start + size, len(held_out)))
        users = held_out.users.take(rows)
        # Copies only if the type, the layout or writability requires it.
        scores = np.require(scorer.score(users), np.float32, ["C", "W"])
        if scores.ndim != 2 or len(scores) != len(users):
            raise ValueError(f"the scorer returned shape {scores.shape} for {len(users)} users, not [B, num_items]")
        yield rows, scores
        start += len(users)
        size = _block_size(scores.shape[1])


def _block_size(num_items: int) -> int:
    """Users per block, so that memory stays bounded."""
    return max(1, min(USERS_AT_ONCE, SCORES_AT_ONCE // max(num_items, 1)))


def narrow(scores: NDArray[np.float32], held_out: HeldOut, rows: NDArray[np.int64]) -> None:
    """Set −inf for items that must not be ranked for the users ``rows`` of ``held_out``."""
    candidates = held_out.candidates
    if isinstance(candidates, Ragged):
        mine = candidates.take(rows)
        _mask_others(scores, mine.row_of_value, mine.values)
    elif candidates is not None:
        _mask_others(scores, slice(None), candidates)
    excluded = held_out.excluded.take(rows)
    scores[excluded.row_of_value, excluded.values] = -np.inf


def _mask_others(scores: NDArray[np.float32], rows: NDArray[np.int64] | slice, columns: NDArray[np.int32]) -> None:
    kept = scores[rows, columns]
    scores.fill(-np.inf)
    scores[rows, columns] = kept


def _per_user(
    found: _Results,
    held_out: HeldOut,
    ks: Sequence[int],
    wanted: Sequence[str],
    popularity: NDArray[np.integer] | None,
    item_vectors: NDArray[np.float32] | None,
) -> dict[str, NDArray[np.float64]]:
    hits = find_hits(found.items, held_out.positives.indptr, held_out.positives.values)
    counts = held_out.positives.lengths
    values: dict[str, NDArray[np.float64]] = {}
    for metric in wanted:
        for k in ks:
            at_k = f"{metric}_at_{k}"
            if metric in measures.RANKED:
                values[at_k] = measures.RANKED[metric](hits, counts, k)
            elif metric == "novelty" and popularity is not None:
                values[at_k] = measures.novelty(found.items, k, popularity)
            elif metric == "diversity" and item_vectors is not None:
                values[at_k] = measures.diversity(found.items, k, item_vectors)
    whole = {"auc": found.auc, "rmse": found.squared, "mae": found.absolute}
    return values | {metric: whole[metric] for metric in wanted if metric in whole}


def _dataset_metrics(found: _Results, held_out: HeldOut, ks: Sequence[int], wanted: Sequence[str]) -> dict[str, float]:
    if "coverage" not in wanted or not len(held_out):
        return {}
    candidates = held_out.candidates
    rankable = len(candidates) if isinstance(candidates, np.ndarray) else found.num_items
    return {f"coverage_at_{k}": measures.coverage(found.items, k, rankable) for k in ks}
