"""Who is turned away at the door: the scheduler knows what waits for an engine, not what waits for the loop itself."""

import asyncio
from time import perf_counter

_LEAST_RATE, _FEW = 2000.0, 1
"""So many a second are taken to be answered whatever was measured, for a first burst has no past; and so many are let
in each turn of the loop, however late it is."""
_SHARE = 0.5
"""Of the deadline that may pass in here; the rest is spent on the way in and out."""
_WINDOW_S = 0.05
_HALVED_S = 10.0
"""The highest rate measured fades by half in so many seconds."""
_BEAT_S = 0.002
_AGE = 0.4
"""Of the deadline that a request may be old already when its turn comes."""


class Door:
    """Lets in as many requests as leave within their deadline at the rate at which they have left at best.

    By Little's law N requests inside, of which R leave a second, spend N / R each. How long one has waited outside is
    seen by a beat of the loop: who is read now came during this turn or the one before. A refusal is a fraction of the
    work of an answer, and keeps those in time who are inside. Used on the loop's thread.
    """

    def __init__(self, deadline_s: float) -> None:
        """deadline_s: of a request that names none."""
        self._within_s, self._oldest_s = _SHARE * deadline_s, _AGE * deadline_s
        self._inside, self._left, self._most = 0, 0, int(_LEAST_RATE * self._within_s)
        self._since, self._best_rate = perf_counter(), 0.0
        self._beats, self._came, self._due, self._late_s, self._few = False, False, 0.0, 0.0, _FEW

    def lets_in(self, now: float) -> bool:
        """Whether one more is inside now, or would be late. now: seconds of ``perf_counter``."""
        self._came = True
        if not self._beats:
            self._beat()
        is_late = self.age_s(now) > self._oldest_s
        if self._inside >= self._most or (is_late and not self._few):
            return False
        self._few -= is_late
        self._inside += 1
        return True

    def age_s(self, now: float) -> float:
        """How long ago at most a request came that is read now."""
        return self._late_s + max(0.0, now - self._due) if self._beats else 0.0

    def leave(self, now: float) -> None:
        """One has its reply."""
        self._inside -= 1
        self._left += 1
        passed = now - self._since
        if passed < _WINDOW_S:
            return
        self._best_rate = max(self._left / passed, self._best_rate * 0.5 ** (passed / _HALVED_S))
        self._most = int(max(_LEAST_RATE, self._best_rate) * self._within_s)
        self._since, self._left = now, 0

    def _beat(self) -> None:
        """Come back soon, as long as anybody comes; by how much later than soon is how late the loop is."""
        now = perf_counter()
        self._late_s = max(0.0, now - self._due) if self._beats else 0.0
        self._beats, self._came, self._due, self._few = self._came, False, now + _BEAT_S, _FEW
        if self._beats:
            asyncio.get_running_loop().call_later(_BEAT_S, self._beat)
