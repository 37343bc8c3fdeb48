"""Batch latency by backend, variant and batch size: calibrated once, then corrected by observations."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lanner.errors import ConfigError

NORMAL_P99 = 2.3263478740408408
"""99th percentile of the standard normal: a log-normal has p99 / p50 = exp(σ · NORMAL_P99)."""
SLOWEST, FASTEST = 8.0, 0.25
"""Bounds of the correction factor; beyond them the calibration is wrong."""
_WEIGHT = 0.05
"""Weight of one observation in the correction: roughly the last twenty batches count."""
_DECAY_S = 1.0
"""Time constant with which an unused correction decays to 1."""

Times = Mapping[int, tuple[float, float]]
"""Batch size → (p50, p99) in milliseconds."""


class VariantId(NamedTuple):
    """A variant on a backend."""

    backend: str
    variant: str


class Curve:
    """Seconds by batch size: linear between calibrated sizes, non-decreasing.

    largest: largest calibrated size. ratio: observed latency relative to its calibrated value.
    """

    __slots__ = ("_mean_s", "_p50_s", "_p99_s", "_unseen_s", "largest", "ratio")

    def __init__(self, times: Times) -> None:
        sizes = sorted(times)
        p50_s, p99_s = (_interpolated(sizes, [times[size][column] for size in sizes]) for column in (0, 1))
        sigma = np.log(p99_s / p50_s) / NORMAL_P99
        self._p50_s: list[float] = [0.0, *p50_s.tolist()]
        self._p99_s: list[float] = [0.0, *p99_s.tolist()]
        self._mean_s: list[float] = [0.0, *np.maximum.accumulate(p50_s * np.exp(sigma**2 / 2)).tolist()]
        self.largest: int = sizes[-1]
        self.ratio = 1.0
        self._unseen_s = 0.0

    def p50_s(self, size: int) -> float:
        """Median latency of a batch."""
        return self._p50_s[size] * self.ratio

    def p99_s(self, size: int) -> float:
        """99th percentile."""
        return self._p99_s[size] * self.ratio

    def mean_s(self, size: int) -> float:
        """Mean latency, if it is log-normal."""
        return self._mean_s[size] * self.ratio

    def largest_within(self, seconds: float) -> int:
        """The largest batch whose p99 is at most ``seconds``; 0 if there is none."""
        return max(0, bisect_right(self._p99_s, seconds / self.ratio) - 1)

    def largest_mean_within(self, seconds: float) -> int:
        """The largest batch whose mean is at most ``seconds``; 0 if there is none."""
        return max(0, bisect_right(self._mean_s, seconds / self.ratio) - 1)

    def fade(self, seconds: float) -> None:
        """Decay the correction after ``seconds`` without observations."""
        self._unseen_s += seconds
        if self._unseen_s > _DECAY_S:
            self.ratio = 1 + (self.ratio - 1) * math.exp(-seconds / _DECAY_S)

    def observe(self, size: int, seconds: float) -> None:
        """Update the correction with one batch."""
        self._unseen_s = 0.0
        seen = min(max(seconds / self._mean_s[size], FASTEST), SLOWEST)
        self.ratio += _WEIGHT * (seen - self.ratio)


class LatencyProfile:
    """Latency curves of all variants. measured: their calibration."""

    def __init__(self, measured: Mapping[VariantId, Times]) -> None:
        """measured: (p50, p99) in milliseconds by batch size.

        Raises:
            ConfigError: empty, or an invalid size or time.
        """
        if not measured:
            raise ConfigError("the latency profile is empty; calibrate at least one variant")
        for name, times in measured.items():
            _check(f"latency profile of {name.variant} on {name.backend}", times)
        self.measured = {name: dict(times) for name, times in measured.items()}
        self._curves = {name: Curve(times) for name, times in measured.items()}

    def curve(self, name: VariantId) -> Curve:
        """The curve of a variant.

        Raises:
            ConfigError: it was not calibrated.
        """
        if name not in self._curves:
            raise ConfigError(f"the latency profile has no variant '{name.variant}' on {name.backend}; calibrate it")
        return self._curves[name]

    def ratios(self) -> dict[VariantId, float]:
        """Batch latency relative to its calibrated value."""
        return {name: curve.ratio for name, curve in self._curves.items()}

    def fade(self, seconds: float) -> None:
        """Decay all corrections."""
        for curve in self._curves.values():
            curve.fade(seconds)

    def observe(self, name: VariantId, size: int, seconds: float) -> None:
        """Update a variant with one batch.

        Slowdowns are mostly machine-wide. Variants of the same backend with a higher ratio therefore recover with it,
        down to their calibration; otherwise an unused variant would stay slow.
        """
        seen = self._curves[name]
        seen.observe(size, seconds)
        least = max(seen.ratio, 1.0)
        for other, curve in self._curves.items():
            if other.backend == name.backend and curve.ratio > least:
                curve.ratio += _WEIGHT * (least - curve.ratio)


def _interpolated(
    sizes: Sequence[int], milliseconds: Sequence[float]
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Seconds for every size from 1 to the largest."""
    return np.interp(np.arange(1, sizes[-1] + 1), sizes, np.maximum.accumulate(milliseconds) / 1e3)


def _check(place: str, times: Times) -> None:
    if not times:
        raise ConfigError(f"{place}: no batch size was calibrated")
    for size, (p50, p99) in times.items():
        if size < 1:
            raise ConfigError(f"{place}: batch size {size}, it must be at least 1")
        if not (math.isfinite(p50) and math.isfinite(p99) and 0 < p50 <= p99):
            received = f"batch size {size}: p50 is {p50} ms and p99 {p99} ms"
            raise ConfigError(f"{place}, {received}; they must be finite, 0 < p50 <= p99")
