"""Request rates, latencies and shares over a sliding window, in bounded memory; the caller passes the time."""

import math
from collections import Counter, deque
from itertools import accumulate

from lanner.serving.messages import RecentFigures

_WINDOW_S, _SLOTS = 5.0, 10
"""Slots of the window; old data leave one slot at a time."""
_SMALLEST_MS, _PER_E_FOLD, _BUCKETS = 0.01, 20.0, 340
"""Latency buckets, each 5 % wide (quantiles within 2.5 %), up to four minutes."""
_LONGEST_MS = _SMALLEST_MS * math.exp((_BUCKETS - 1) / _PER_E_FOLD)
_FIRST_BUCKET = _PER_E_FOLD * math.log(_SMALLEST_MS)


class _Slot:
    __slots__ = ("answers", "in_time", "latencies", "number", "refused")

    def __init__(self, number: int) -> None:
        self.number, self.in_time, self.refused = number, 0, 0
        self.answers: dict[tuple[str, str], int] = {}
        self.latencies = [0] * _BUCKETS


class RollingStats:
    """Used from one thread. Variant and backend names come from the bundle, never from user input."""

    def __init__(self, began: float) -> None:
        """began: current time on the clock used in every call."""
        self._began, self._width = began, _WINDOW_S / _SLOTS
        self._slots: deque[_Slot] = deque([_Slot(int(began // self._width))], maxlen=_SLOTS)
        self._newest, self._ends = self._slots[-1], (self._slots[-1].number + 1) * self._width

    def answered(self, now: float, milliseconds: float, variant: str, backend: str, in_time: bool) -> None:
        """Count a response. milliseconds: since arrival. in_time: before its deadline."""
        slot = self._newest if now < self._ends else self._slot(now)
        key = variant, backend
        if key in slot.answers:
            slot.answers[key] += 1
        else:
            slot.answers[key] = 1
        if in_time:
            slot.in_time += 1
        bucket = 0
        if _SMALLEST_MS < milliseconds < _LONGEST_MS:
            bucket = int(math.log(milliseconds) * _PER_E_FOLD - _FIRST_BUCKET)
        elif milliseconds >= _LONGEST_MS:
            bucket = _BUCKETS - 1
        slot.latencies[bucket] += 1

    def refused(self, now: float) -> None:
        """Count a request rejected without processing."""
        self._slot(now).refused += 1

    def figures(self, now: float) -> RecentFigures:
        """Statistics over the slots in the window; the newest one is incomplete."""
        newest = max(self._slots[-1].number, int(now // self._width))
        inside = [one for one in self._slots if one.number > newest - _SLOTS]
        # Avoids extrapolating a single request to thousands per second just after startup.
        covered = max(now - max(self._began, (newest - _SLOTS + 1) * self._width), self._width)
        variants, backends = Counter[str](), Counter[str]()
        for slot in inside:
            for (variant, backend), count in slot.answers.items():
                variants[variant] += count
                backends[backend] += count
        answers, refused = variants.total(), sum(one.refused for one in inside)
        below = list(accumulate(map(sum, zip(*(one.latencies for one in inside), strict=True)))) if answers else []
        return RecentFigures(
            window_s=covered,
            requests_per_s=(answers + refused) / covered,
            goodput_per_s=sum(one.in_time for one in inside) / covered,
            refused_per_s=refused / covered,
            p50_ms=_quantile(below, 0.5),
            p99_ms=_quantile(below, 0.99),
            by_variant={name: count / answers for name, count in variants.items()},
            by_backend={name: count / answers for name, count in backends.items()},
        )

    def _slot(self, now: float) -> _Slot:
        number = int(now // self._width)
        if number > self._newest.number:
            self._newest, self._ends = _Slot(number), (number + 1) * self._width
            self._slots.append(self._newest)
        return self._newest


def _quantile(below: list[int], share: float) -> float | None:
    """The middle of the bucket that contains the quantile; None if empty. below: cumulative counts."""
    if not below:
        return None
    bucket = next(place for place, count in enumerate(below) if count >= share * below[-1] and count)
    return _SMALLEST_MS * math.exp((bucket + 0.5) / _PER_E_FOLD)
