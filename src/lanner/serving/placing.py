"""Changed items are taken in by one thread, beside the requests and after them.

To read an item's text and place it takes as long as to answer tens of requests. The thread stands back in the system's
queue and rests after each turn, the longer the busier the loop is: under load requests come first, and items wait or,
where they would wait for more than a second, are refused.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter, sleep

from lanner.errors import OverloadedError

_NICENESS = 5
_PATIENCE_S = 1.0
_FIRST_GUESS_S, _NOTHING_S = 0.03, 0.001
"""What a turn is taken to last before one was seen; a shorter one found nothing to do."""
_MEMORY = 0.1
"""Weight of one turn in what turns are taken to last."""
_CALM, _FULL, _LONGEST_REST = 0.4, 0.8, 12.0
"""How busy the loop may be before items are in its way, and where it has nothing to spare: it waits for sockets and for
the interpreter, too. However busy, items have a thirteenth of the time."""


class Placing:
    """All but ``_turn`` is called on the event loop's thread."""

    def __init__(self, take_in: Callable[[], None], busy: Callable[[], float]) -> None:
        """take_in: brings every version to what the store says. busy: the share of its time that the loop works.

        Both are called in the thread of items.
        """
        self._take_in, self._busy = take_in, busy
        self._thread = ThreadPoolExecutor(1, "lanner-placing", initializer=_step_back)
        self._waiting, self._turn_s, self._rests_until = 0, _FIRST_GUESS_S, 0.0

    @contextmanager
    def queued(self) -> Iterator[None]:
        """While an item is written and placed.

        Raises:
            OverloadedError: so many wait that this one would not be placed within a second.
        """
        if self._waiting >= max(1, int(_PATIENCE_S / (self._turn_s * (1 + self._rest)))):
            raise OverloadedError("too many items are being placed; send this one again in a moment", _PATIENCE_S)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def catch_up(self) -> None:
        """Let every version take in the items that changed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._turn)

    def close(self) -> None:
        """Let the last turn end."""
        self._thread.shutdown()

    @property
    def _rest(self) -> float:
        """For each second of work."""
        busy = self._busy()
        return min(max(0.0, busy - _CALM) / max(_FULL - busy, 1e-9), _LONGEST_REST)

    def _turn(self) -> None:
        sleep(max(0.0, self._rests_until - perf_counter()))
        begun = perf_counter()
        self._take_in()
        ended = perf_counter()
        if ended - begun > _NOTHING_S:
            self._turn_s += _MEMORY * (ended - begun - self._turn_s)
        self._rests_until = ended + (ended - begun) * self._rest


def _step_back() -> None:
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
