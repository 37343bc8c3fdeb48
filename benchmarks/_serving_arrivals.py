"""Arrival times of requests: Poisson, in phases of different rates, or following real timestamps."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError


def poisson(phases: Sequence[tuple[float, float]], seed: int) -> NDArray[np.float64]:
    """Sorted seconds from 0. phases: consecutive (requests a second, seconds); bursts are short phases.

    Raises:
        ConfigError: a rate is negative or a phase's length is not positive and finite.
    """
    random, begun, parts = np.random.default_rng(seed), 0.0, []
    for rate, seconds in phases:
        if not (0 <= rate < math.inf and 0 < seconds < math.inf):
            raise ConfigError(f"a phase of {rate} requests a second for {seconds} s; both must be finite, not negative")
        parts.append(begun + np.sort(random.uniform(0, seconds, random.poisson(rate * seconds))))
        begun += seconds
    return np.concatenate(parts) if parts else np.empty(0)


def like_timestamps(timestamps: Sequence[float] | NDArray[np.number], rate: float) -> NDArray[np.float64]:
    """Seconds from 0 with the gaps of ``timestamps`` (any unit, any order), scaled to ``rate`` requests a second.

    Raises:
        ConfigError: the timestamps span no time, or the rate is not positive.
    """
    ordered = np.sort(np.asarray(timestamps, np.float64))
    if len(ordered) < 2 or not np.isfinite(ordered).all() or ordered[-1] == ordered[0] or not 0 < rate < math.inf:
        raise ConfigError(f"cannot stretch {len(ordered)} timestamps to {rate} a second; give finite ones that differ")
    stretched: NDArray[np.float64] = (ordered - ordered[0]) * ((len(ordered) - 1) / rate / np.ptp(ordered))
    return stretched
