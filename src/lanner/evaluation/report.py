"""Results of an evaluation: one value per user and metric, their means and confidence intervals."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError
from lanner.evaluation.intervals import Comparison, bootstrap_means, interval, paired

_ROOTED = "rmse"
"""Stored as mean squared error per user; the root is taken of the overall mean."""


@dataclass(frozen=True)
class Report:
    """Metrics over U users.

    rows: int64 ``[U]`` user rows, so that two reports can be paired. per_user: float64 ``[U]`` each, NaN where a metric
    is undefined for a user (a user without ratings); ``rmse`` holds mean squared errors. overall: metrics that are
    not means over users (coverage). ratings_per_user: float64 ``[U]``, the weight of users in ``rmse`` and ``mae``.
    """

    name: str
    rows: NDArray[np.int64]
    per_user: dict[str, NDArray[np.float64]]
    overall: dict[str, float] = field(default_factory=dict)
    ratings_per_user: NDArray[np.float64] | None = None
    seconds: float = 0.0
    """Wall-clock time of scoring and ranking together."""

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every metric by name, such as ``recall_at_20``."""
        means = {name: self._mean(name) for name in self.per_user}
        return means | self.overall

    @cached_property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """Bootstrap 95 % interval of each metric that is a mean over users: (low, high)."""
        if not self.per_user:
            return {}
        values = np.stack(list(self.per_user.values()), 1)
        weights = np.stack([self._weights(name) for name in self.per_user], 1)
        limits = interval(bootstrap_means(values, weights))
        for column, name in enumerate(self.per_user):
            if name == _ROOTED:
                limits[:, column] = np.sqrt(limits[:, column])
        return {name: (float(low), float(high)) for name, low, high in zip(self.per_user, *limits, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible: name, users, metrics and ci95."""
        return {
            "name": self.name,
            "users": len(self.rows),
            "metrics": self.metrics,
            "ci95": {name: list(limits) for name, limits in self.ci95.items()},
        }

    def _weights(self, name: str) -> NDArray[np.float64]:
        if name in (_ROOTED, "mae") and self.ratings_per_user is not None:
            return self.ratings_per_user
        return np.ones(len(self.rows))

    def _mean(self, name: str) -> float:
        values = self.per_user[name]
        known = ~np.isnan(values)
        mean = np.average(values[known], weights=self._weights(name)[known]) if known.any() else np.nan
        return float(np.sqrt(mean) if name == _ROOTED else mean)


def compare(first: Report, second: Report, metric: str, seed: int = 0) -> Comparison:
    """Whether ``first`` is better than ``second`` in ``metric``, paired by user.

    Raises:
        ConfigError: the metric is not in both reports, or the users differ.
    """
    for report in (first, second):
        if metric not in report.per_user:
            raise ConfigError(f"no metric '{metric}' per user in '{report.name}'; it has {list(report.per_user)}")
    if not np.array_equal(first.rows, second.rows):
        raise ConfigError(
            f"reports of {len(first.rows)} and {len(second.rows)} users cannot be paired: evaluate both on one split"
        )
    return paired(metric, first.per_user[metric], second.per_user[metric], seed)
