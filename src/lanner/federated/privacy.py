"""User-level differential privacy of the sums: the analytic Gaussian mechanism (Balle & Wang, ICML 2018)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from lanner.errors import ConfigError


@dataclass(frozen=True)
class Privacy:
    """ε and δ, for sets of users that differ in one user."""

    epsilon: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise ConfigError(f"epsilon must be above 0 and delta within 0 … 1, received {self.epsilon}, {self.delta}")


@dataclass(frozen=True)
class Release:
    """A published statistic. sensitivity: the most that one user can change it, as a Euclidean norm."""

    sensitivity: float

    def sigma(self, privacy: Privacy) -> float:
        """The smallest standard deviation of Gaussian noise that guarantees ``privacy``."""

        def delta_at(log_sigma: float) -> float:
            ratio = self.sensitivity / np.exp(log_sigma)
            first = norm.cdf(ratio / 2 - privacy.epsilon / ratio)
            second = np.exp(privacy.epsilon + norm.logcdf(-ratio / 2 - privacy.epsilon / ratio))
            return float(first - second) - privacy.delta

        return float(np.exp(brentq(delta_at, np.log(self.sensitivity) - 10, np.log(self.sensitivity) + 20)))

    def noise(self, privacy: Privacy, clients: int, random: np.random.Generator, size: int) -> NDArray[np.float64]:
        """A client's share of the noise: summed over all clients it has ``sigma``, so no trusted party is needed.

        A client can subtract its own share; if n clients collude, σ falls by a factor of √((clients − n) / clients).
        """
        return random.normal(0, self.sigma(privacy) / np.sqrt(clients), size)


BY_USER = Release(1.0)
"""For sums weighted by user: ‖x xᵀ‖ / n = 1, and the upper triangle's norm is at most that."""
