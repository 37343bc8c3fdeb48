"""Ctrl-C held back until training stands at a point from which it can go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Inside the block the first Ctrl-C is only noted, and the function given tells of it; a second one stops at once.

    An exception in the middle of an update would leave parameters and optimizer half a step apart, and no checkpoint
    of that could resume to the same weights.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    # Signals reach the main thread only; elsewhere there is nothing to hold back, nor leave to try.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, note) if in_main else None
    try:
        yield lambda: noted
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
