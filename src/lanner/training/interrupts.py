"""Defers Ctrl-C until training reaches a point from which it can resume."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Inside the block, the first Ctrl-C only sets a flag, which the yielded function returns; a second stops at once.

    An exception in the middle of an update would leave parameters and optimiser state inconsistent, and a checkpoint
    of them could not resume to the same weights.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    # Only the main thread receives signals and may set handlers.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, note) if in_main else None
    try:
        yield lambda: noted
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
