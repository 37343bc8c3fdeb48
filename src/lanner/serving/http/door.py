"""Who is turned away at the door: the scheduler knows what waits for an engine, not what waits for the loop itself."""

from time import perf_counter

_LEAST = 32
"""So many are let in whatever was measured: a first burst has no past."""
_SHARE = 0.6
"""Of the deadline that may pass in here; the rest is spent on the way in and out."""
_WINDOW_S = 0.05
_HALVED_S = 10.0
"""The highest rate measured fades by half in so many seconds."""


class Door:
    """Lets in as many requests as leave within their deadline at the rate at which they have left at best.

    By Little's law N requests inside, of which R leave a second, spend N / R each. Where the event loop is what
    everybody waits for, a reply of one line is a fraction of the work, and keeps those in time who are inside.
    """

    def __init__(self, deadline_s: float) -> None:
        """deadline_s: of a request that names none."""
        self._within_s = _SHARE * deadline_s
        self._inside, self._left, self._most = 0, 0, _LEAST
        self._since, self._best_rate = perf_counter(), 0.0

    @property
    def is_full(self) -> bool:
        """Whether the next one would be late."""
        return self._inside >= self._most

    def enter(self) -> None:
        """One more is inside."""
        self._inside += 1

    def leave(self, now: float) -> None:
        """One has its reply. now: seconds of ``perf_counter``."""
        self._inside -= 1
        self._left += 1
        passed = now - self._since
        if passed < _WINDOW_S:
            return
        self._best_rate = max(self._left / passed, self._best_rate * 0.5 ** (passed / _HALVED_S))
        self._most = max(_LEAST, int(self._best_rate * self._within_s))
        self._since, self._left = now, 0
