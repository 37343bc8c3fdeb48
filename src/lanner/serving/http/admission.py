"""Admission control: requests that would miss their deadline are rejected before parsing."""

import asyncio
from contextvars import ContextVar
from time import perf_counter

ARRIVED_AT: ContextVar[float | None] = ContextVar("arrived_at", default=None)
"""Earliest possible arrival of the current request, in seconds of ``perf_counter``; its deadline counts from then.

None: not measured.
"""

_MIN_RATE = 2000.0
"""Requests per second assumed before any were measured."""
_RATE_WINDOW_S, _RATE_HALF_LIFE_S = 0.05, 10.0
"""The rate is measured over windows; the maximum decays with this half-life."""
_SHARE_INSIDE = 0.5
"""Share of the deadline that an admitted request may spend in the server; the rest is for reading and writing."""
_OLDEST_SHARE = 0.4
"""Share of the deadline that a request may wait for the event loop before it is parsed."""
_HEARTBEAT_S = 0.002


class Admission:
    """Limits requests in flight to those that can be answered within the deadline at the best measured rate.

    By Little's law, N requests in flight at R completions per second take N / R seconds each. A heartbeat estimates how
    long a request waited for the event loop: its delay is the loop's lag. One request per heartbeat is admitted however
    large the lag. Used on the loop's thread, after authentication and once the body has been read.
    """

    def __init__(self, deadline_s: float) -> None:
        """deadline_s: deadline of requests that do not name one."""
        self._inside_s, self._oldest_s = _SHARE_INSIDE * deadline_s, _OLDEST_SHARE * deadline_s
        self.inside, self.limit = 0, int(_MIN_RATE * self._inside_s)
        self._answered, self._window_began, self._best_rate = 0, perf_counter(), 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_beat, self._late_s = 0.0, 0.0
        self._is_idle = self._may_be_late = True

    def admit(self, now: float) -> float | None:
        """Earliest possible arrival of the request; None: rejected. now: seconds of ``perf_counter``."""
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
        """An admitted request ends. answered: False for failures, which do not count towards the rate."""
        self.inside -= 1
        self._answered += answered
        passed = now - self._window_began
        if passed < _RATE_WINDOW_S:
            return
        self._best_rate = max(self._answered / passed, self._best_rate * 0.5 ** (passed / _RATE_HALF_LIFE_S))
        self.limit = int(max(_MIN_RATE, self._best_rate) * self._inside_s)
        self._window_began, self._answered = now, 0

    def _beat(self) -> None:
        """Continue the heartbeat while requests arrive."""
        now = perf_counter()
        self._late_s = max(0.0, now - self._next_beat)
        if self._is_idle or self._loop is None:
            self._loop = None
        else:
            self._schedule_beat(self._loop, now)

    def _schedule_beat(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._next_beat, self._is_idle, self._may_be_late = now + _HEARTBEAT_S, True, True
        loop.call_later(_HEARTBEAT_S, self._beat)
