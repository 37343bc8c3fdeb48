"""Confidence intervals of means over users (bootstrap), and paired tests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_TAILS = (2.5, 97.5)
_RESAMPLES_AT_ONCE = 64


def bootstrap_means(
    values: NDArray[np.float64], weights: NDArray[np.float64] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Bootstrap means of ``values`` ``[U, M]`` over resampled users, ``[resamples, M]``; NaN entries are ignored.

    weights: ``[U, M]`` weight of each entry; None: 1. All columns share the resamples.
    """
    known = ~np.isnan(values)
    weights = known.astype(np.float64) if weights is None else np.where(known, weights, 0)
    weighted = np.where(known, values, 0) * weights
    rng, num_users = np.random.default_rng(seed), len(values)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        draws = rng.integers(0, num_users, (size, num_users), dtype=np.int32)
        times = np.stack([np.bincount(one, minlength=num_users) for one in draws]).astype(np.float64)
        total = times @ weights
        means[start : start + size] = np.divide(
            times @ weighted, total, out=np.full_like(total, np.nan), where=total > 0
        )
    return means


def interval(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle 95 % of resampled means ``[resamples, M]``: ``[2, M]``, low and high."""
    limits: NDArray[np.float64] = np.nanpercentile(means, _TAILS, axis=0)
    return limits


@dataclass(frozen=True)
class Comparison:
    """Comparison of two models on the same users. ``difference``: mean of first − second."""

    metric: str
    difference: float
    ci95: tuple[float, float]
    """Paired bootstrap 95 % interval of the difference."""
    p_wilcoxon: float
    p_t: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


def paired(metric: str, first: NDArray[np.float64], second: NDArray[np.float64], seed: int = 0) -> Comparison:
    """Compare two models' values for the same users, ``[U]`` each; users with a NaN are ignored."""
    from scipy import stats  # slow import (1 s)

    differences = (first - second)[~np.isnan(first - second)]
    low, high = interval(bootstrap_means(differences[:, None], seed=seed))[:, 0]
    if not differences.any():
        return Comparison(metric, 0.0, (0.0, 0.0), 1.0, 1.0)
    return Comparison(
        metric,
        float(differences.mean()),
        (float(low), float(high)),
        float(stats.wilcoxon(differences).pvalue),
        float(stats.ttest_1samp(differences, 0).pvalue),
    )
