"""What came of the requests of the last seconds, in bounded memory; time comes from outside."""

import math
from collections import Counter, deque

from lanner.errors import ConfigError
from lanner.serving.messages import RecentFigures

_SLOTS = 10
"""Parts of the window; what is older leaves one part at a time."""
_SMALLEST_MS = 0.01
_PER_E_FOLD = 20.0
"""Buckets of the latency while it grows by a factor of e: each is 5 % wide, so a figure is within 2.5 %."""
_BUCKETS = 340
_LONGEST_MS = _SMALLEST_MS * math.exp((_BUCKETS - 1) / _PER_E_FOLD)
"""Nearly four minutes; what is longer counts as that."""


class _Slot:
    __slots__ = ("answers", "backends", "in_time", "latencies", "number", "refused", "variants")

    def __init__(self, number: int) -> None:
        self.number, self.answers, self.in_time, self.refused = number, 0, 0, 0
        self.variants: dict[str, int] = {}
        self.backends: dict[str, int] = {}
        self.latencies = [0] * _BUCKETS


class Recent:
    """Rates, latencies and shares over a sliding window. Called from one thread.

    Variants and backends are the bundle's words, a fixed few, never what a caller wrote.
    """

    def __init__(self, began: float, seconds: float = 5.0) -> None:
        """began: now, on the clock that every call is given.

        Raises:
            ConfigError: seconds are not above 0.
        """
        if not 0 < seconds < math.inf:
            raise ConfigError(f"recent: received a window of {seconds} s, expected more than 0")
        self._began, self._width = began, seconds / _SLOTS
        self._last = _Slot(int(began // self._width))
        self._slots: deque[_Slot] = deque([self._last], maxlen=_SLOTS)
        self._ends = (self._last.number + 1) * self._width

    def answered(self, now: float, milliseconds: float, variant: str, backend: str, in_time: bool) -> None:
        """Count one answer. milliseconds: from its arrival. in_time: before its deadline."""
        slot = self._last if now < self._ends else self._begin(now)
        slot.answers += 1
        slot.in_time += in_time
        slot.variants[variant] = slot.variants.get(variant, 0) + 1
        slot.backends[backend] = slot.backends.get(backend, 0) + 1
        slot.latencies[_bucket(milliseconds)] += 1

    def refused(self, now: float) -> None:
        """Count one request that was turned away without work."""
        slot = self._last if now < self._ends else self._begin(now)
        slot.refused += 1

    def figures(self, now: float) -> RecentFigures:
        """Over the slots that still lie in the window; the newest of them is not full."""
        newest = max(self._last.number, int(now // self._width))
        inside = [one for one in self._slots if one.number > newest - _SLOTS]
        since = max(self._began, (newest - _SLOTS + 1) * self._width)
        # A server that began a moment ago would otherwise show one request as thousands a second.
        covered = max(now - since, self._width)
        answers, refused = sum(one.answers for one in inside), sum(one.refused for one in inside)
        latencies = [sum(counts) for counts in zip(*(one.latencies for one in inside), strict=True)] if answers else []
        return RecentFigures(
            window_s=covered,
            requests_per_s=(answers + refused) / covered,
            goodput_per_s=sum(one.in_time for one in inside) / covered,
            refused_per_s=refused / covered,
            p50_ms=_quantile(latencies, 0.5 * answers),
            p99_ms=_quantile(latencies, 0.99 * answers),
            by_variant=_shares([one.variants for one in inside], answers),
            by_backend=_shares([one.backends for one in inside], answers),
        )

    def _begin(self, now: float) -> _Slot:
        self._last = _Slot(int(now // self._width))
        self._ends = (self._last.number + 1) * self._width
        self._slots.append(self._last)
        return self._last


def _bucket(milliseconds: float) -> int:
    if not milliseconds > _SMALLEST_MS:
        return 0
    return int(math.log(min(milliseconds, _LONGEST_MS) / _SMALLEST_MS) * _PER_E_FOLD)


def _quantile(latencies: list[int], rank: float) -> float | None:
    """The middle of the bucket in which the ``rank``-th lies; None of nothing."""
    below = 0
    for bucket, count in enumerate(latencies):
        below += count
        if count and below >= rank:
            return _SMALLEST_MS * math.exp((bucket + 0.5) / _PER_E_FOLD)
    return None


def _shares(parts: list[dict[str, int]], answers: int) -> dict[str, float]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {name: count / answers for name, count in total.items()}
