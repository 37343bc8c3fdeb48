"""Metrics as pure functions, one value per user, float64 ``[U]``, unless noted otherwise.

``hits`` is bool ``[U, K]``: whether each recommended item is relevant, best first. ``num_relevant`` is int ``[U]``, at
least 1. A metric at k uses the first k columns; shorter lists are padded with False.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]


def recall(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """Share of the relevant items in the first k."""
    return _sums(hits[:, :k]) / num_relevant


def precision(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """Share of the k positions with a relevant item; an empty position is a miss."""
    return _sums(hits[:, :k]) / k


def hit_rate(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """1 if at least one of the first k is relevant, else 0."""
    return np.minimum(_sums(hits[:, :k]), 1)


def ndcg(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """DCG Σ hit_p / log2(p + 1) divided by that of the ideal list, which has min(relevant, k) hits."""
    gains = 1 / np.log2(np.arange(2, k + 2))
    best: Values = np.cumsum(gains)[np.minimum(num_relevant, k) - 1]
    return _sums(_over_places(hits, k) * gains) / best


def reciprocal_rank(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """1 / rank of the first relevant item, 0 if none is in the first k."""
    first: Counts = hits[:, :k].argmax(1)
    return hit_rate(hits, num_relevant, k) / (first + 1)


def average_precision(hits: Hits, num_relevant: Counts, k: int) -> Values:
    """Mean over *all* relevant items of the precision at their rank (0 beyond k), as in trec_eval."""
    places = _over_places(hits, k)
    return _sums(places * places.cumsum(1) / np.arange(1, k + 1)) / num_relevant


def _sums(table: NDArray[np.bool_] | Values) -> Values:
    sums: Values = table.sum(1, dtype=np.float64)
    return sums


def _over_places(hits: Hits, k: int) -> Values:
    """float64 ``[U, k]``, padded with misses."""
    first = hits[:, :k].astype(np.float64)
    return np.pad(first, ((0, 0), (0, k - first.shape[1])))


RANKED: dict[str, Callable[[Hits, Counts, int], Values]] = {
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "hr": hit_rate,
    "mrr": reciprocal_rank,
    "map": average_precision,
}
"""Ranking metrics by their name in reports: ``<name>_at_<k>``."""


def coverage(items: NDArray[np.int32], k: int, num_rankable: int) -> float:
    """Share of the rankable items recommended to at least one user. items: ``[U, K]``, −1 for none."""
    top = items[:, :k]
    return np.count_nonzero(np.bincount(top[top >= 0])) / num_rankable


def novelty(items: NDArray[np.int32], k: int, popularity: NDArray[np.integer]) -> Values:
    """Mean of −log2(share of all interactions) over the list, in bits; NaN for an empty list.

    popularity: training interactions of each item ``[I]``; unseen items count as having one.
    """
    counts = np.maximum(popularity, 1)
    bits = -np.log2(counts / max(int(popularity.sum()), 1))
    return _mean_where(bits[items[:, :k]], items[:, :k] >= 0)


def diversity(items: NDArray[np.int32], k: int, vectors: NDArray[np.float32]) -> Values:
    """Mean of 1 − cosine over the pairs of a list; NaN for lists with fewer than two items.

    vectors: float32 ``[I, D]``, any norm; the zero vector has cosine 0 with all others.
    """
    top = items[:, :k]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    total, own = np.zeros((len(top), vectors.shape[1])), np.zeros(len(top))
    for column in top.T:
        part = np.where(column[:, None] >= 0, unit[column], 0)
        total += part
        own += (part * part).sum(1)
    # ‖Σ v‖² − Σ ‖v‖² is the sum of the cosines over all ordered pairs.
    size = _sums(top >= 0)
    pairs = np.where(size > 1, size * (size - 1), np.nan)
    return 1 - (_sums(total * total) - own) / pairs


def _mean_where(values: Values, known: Hits) -> Values:
    counts = np.where(known.any(1), _sums(known), np.nan)
    return _sums(np.where(known, values, 0)) / counts
