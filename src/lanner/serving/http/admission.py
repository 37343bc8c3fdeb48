"""Admission: requests that would miss their deadline are rejected before their work begins."""

import asyncio
from contextvars import ContextVar
from time import perf_counter

ARRIVED_AT: ContextVar[float | None] = ContextVar("arrived_at", default=None)
"""When the request that is answered in this context arrived at the earliest, in seconds of ``perf_counter``.

Its deadline runs from then. None: nobody measured it.
"""

_MIN_RATE = 2000.0
"""Answers a second that are assumed before any were measured."""
_RATE_WINDOW_S, _RATE_HALF_LIFE_S = 0.05, 10.0
"""The rate is measured over windows; the best one fades by half in the half-life."""
_SHARE_INSIDE = 0.5
"""Share of the deadline that an admitted request may spend inside; the rest goes to reading and writing."""
_OLDEST_SHARE = 0.4
"""Share of the deadline that a request may have waited for the event loop before it is read."""
_HEARTBEAT_S = 0.002


class Admission:
    """Bounds the requests inside to those that are answered within the deadline at the best measured rate.

    By Little's law N requests inside, of which R are answered a second, spend N / R each. What a request has waited
    for the event loop is estimated by a heartbeat: how late it comes is how late the loop is. One request a heartbeat
    is admitted however late the loop is. Used on the loop's thread, after authentication and once the body is there.
    """

    def __init__(self, deadline_s: float) -> None:
        """deadline_s: of a request that names none."""
        self._inside_s, self._oldest_s = _SHARE_INSIDE * deadline_s, _OLDEST_SHARE * deadline_s
        self.inside, self.limit = 0, int(_MIN_RATE * self._inside_s)
        self._answered, self._window_began, self._best_rate = 0, perf_counter(), 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_beat, self._late_s = 0.0, 0.0
        self._is_idle = self._may_be_late = True

    def admit(self, now: float) -> float | None:
        """When the request arrived at the earliest; None: rejected. now: seconds of ``perf_counter``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._late_s = loop, 0.0
            self._schedule_beat(loop, now)
        self._is_idle = False
        age_s = self._late_s + max(0.0, now - self._next_beat)
        is_late = age_s > self._oldest_s
        if self.inside >= self.limit or (is_late and not self._may_be_late):
            return None
        if is_late:
            self._may_be_late = False
        self.inside += 1
        return now - age_s

    def leave(self, now: float, answered: bool) -> None:
        """An admitted request ends. answered: with what was asked for; anything else says nothing of the rate."""
        self.inside -= 1
        self._answered += answered
        passed = now - self._window_began
        if passed < _RATE_WINDOW_S:
            return
        self._best_rate = max(self._answered / passed, self._best_rate * 0.5 ** (passed / _RATE_HALF_LIFE_S))
        self.limit = int(max(_MIN_RATE, self._best_rate) * self._inside_s)
        self._window_began, self._answered = now, 0

    def _beat(self) -> None:
        """Beats go on for as long as requests come."""
        now = perf_counter()
        self._late_s = max(0.0, now - self._next_beat)
        if self._is_idle or self._loop is None:
            self._loop = None
        else:
            self._schedule_beat(self._loop, now)

    def _schedule_beat(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._next_beat, self._is_idle, self._may_be_late = now + _HEARTBEAT_S, True, True
        loop.call_later(_HEARTBEAT_S, self._beat)
