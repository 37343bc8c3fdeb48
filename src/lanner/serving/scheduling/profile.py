"""How long a batch takes: measured per backend, variant and batch size, corrected by what is seen while serving."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np

from lanner.errors import ConfigError

NORMAL_P99 = 2.3263478740408408
"""The 99th percentile of the standard normal: a log-normal with it has p99 / p50 = exp(σ · NORMAL_P99)."""
MEMORY = 0.05
"""Weight of one observation in the correction: about the last twenty batches count."""
FADING_S = 1.0
"""A correction that was not renewed for so long comes down to a third in as much again: what was slow may be so no
more."""
SLOWEST, FASTEST = 8.0, 0.25
"""Bounds of the correction; beyond them a measurement is broken and should be made anew."""

Times = Mapping[int, tuple[float, float]]
"""Batch size → (p50, p99) in milliseconds."""


class Curve:
    """Seconds by batch size, of one variant on one backend. Between measured sizes linear, never falling with size."""

    __slots__ = ("_mean_s", "_p50_s", "_p99_s", "_unseen_s", "largest", "ratio")

    def __init__(self, times: Times) -> None:
        sizes = sorted(times)
        every = np.arange(1, sizes[-1] + 1)
        p50, p99 = (np.maximum.accumulate([times[size][column] for size in sizes]) / 1e3 for column in (0, 1))
        p50_s, p99_s = np.interp(every, sizes, p50), np.interp(every, sizes, p99)
        sigma = np.log(p99_s / p50_s) / NORMAL_P99
        self._p50_s: list[float] = [0.0, *p50_s.tolist()]
        self._p99_s: list[float] = [0.0, *p99_s.tolist()]
        self._mean_s: list[float] = [0.0, *(p50_s * np.exp(sigma**2 / 2)).tolist()]
        self.largest: int = sizes[-1]
        self.ratio: float = 1.0
        self._unseen_s = 0.0

    def p50_s(self, size: int) -> float:
        """Half of the batches take no longer."""
        return self._p50_s[size] * self.ratio

    def p99_s(self, size: int) -> float:
        """All but one in a hundred take no longer."""
        return self._p99_s[size] * self.ratio

    def mean_s(self, size: int) -> float:
        """What a batch takes on average, were its time log-normal."""
        return self._mean_s[size] * self.ratio

    def largest_within(self, seconds: float) -> int:
        """The largest batch whose p99 is at most ``seconds``; 0 where none is."""
        return max(0, bisect_right(self._p99_s, seconds / self.ratio) - 1)

    def fade(self, seconds: float) -> None:
        """So much time has passed; what nothing was seen of goes back towards what was measured."""
        self._unseen_s += seconds
        if self._unseen_s > FADING_S:
            self.ratio = 1 + (self.ratio - 1) * math.exp(-seconds / FADING_S)

    def observe(self, size: int, seconds: float) -> float:
        """Let one batch correct the curve; returns the new ratio of observed to measured times."""
        self._unseen_s = 0.0
        seen = min(max(seconds / self._mean_s[size], FASTEST), SLOWEST)
        self.ratio += MEMORY * (seen - self.ratio)
        return self.ratio


class LatencyProfile:
    """Every measured curve. ``observe`` corrects one while serving; ``to_dict`` gives back what was measured."""

    def __init__(self, measured: Mapping[str, Mapping[str, Times]]) -> None:
        """measured: backend → variant → batch size → (p50, p99) in milliseconds.

        Raises:
            ConfigError: nothing was measured, or a size or a time makes no sense.
        """
        self._measured = {
            (backend, variant): dict(times) for backend, table in measured.items() for variant, times in table.items()
        }
        if not self._measured:
            raise ConfigError("the latency profile is empty; measure at least one variant on one backend")
        for (backend, variant), times in self._measured.items():
            _check(f"latency profile, {backend}, {variant}", times)
        self._curves = {key: Curve(times) for key, times in self._measured.items()}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "LatencyProfile":
        """From what ``to_dict`` gave, as JSON holds it.

        Raises:
            ConfigError: the table is of another form, or a size or a time makes no sense.
        """
        try:
            return cls(
                {
                    backend: {
                        variant: {int(size): (float(p50), float(p99)) for size, (p50, p99) in times.items()}
                        for variant, times in variants.items()
                    }
                    for backend, variants in table.items()
                }
            )
        except (AttributeError, TypeError, ValueError) as error:
            expected = '{"backend": {"variant": {"batch size": [p50_ms, p99_ms]}}}'
            raise ConfigError(f"the latency profile is not of the form {expected}: {error}") from None

    def to_dict(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """What was measured, without corrections; JSON can hold it."""
        table: dict[str, dict[str, dict[str, list[float]]]] = {}
        for (backend, variant), times in self._measured.items():
            table.setdefault(backend, {})[variant] = {str(size): list(pair) for size, pair in times.items()}
        return table

    def curve(self, backend: str, variant: str) -> Curve | None:
        """The curve of a variant on a backend; None where it was not measured there."""
        return self._curves.get((backend, variant))

    def ratios(self) -> dict[tuple[str, str], float]:
        """How many times as long batches take lately as was measured, by backend and variant."""
        return {key: curve.ratio for key, curve in self._curves.items()}

    def fade(self, seconds: float) -> None:
        """Let so much time pass over the corrections of all curves."""
        for curve in self._curves.values():
            curve.fade(seconds)

    def observe(self, backend: str, variant: str, size: int, seconds: float) -> float:
        """Let one served batch correct its curve; returns the new ratio of observed to measured times.

        What slows one variant down is mostly the machine: those of the same backend that were last seen slower come
        down with it, though not below what was measured, or a rung that an overload left would be thought slow until it
        is tried.
        """
        ratio = self._curves[backend, variant].observe(size, seconds)
        for place, curve in self._curves.items():
            if place[0] == backend and curve.ratio > max(ratio, 1.0):
                curve.ratio += MEMORY * (max(ratio, 1.0) - curve.ratio)
        return ratio


def _check(place: str, times: Times) -> None:
    if not times:
        raise ConfigError(f"{place}: no batch size was measured")
    for size, (p50, p99) in times.items():
        if size < 1:
            raise ConfigError(f"{place}: batch size {size}, it must be at least 1")
        if not (math.isfinite(p50) and math.isfinite(p99) and 0 < p50 <= p99):
            received = f"batch size {size}: p50 is {p50} ms and p99 {p99} ms"
            raise ConfigError(f"{place}, {received}; they must be finite, 0 < p50 <= p99")
