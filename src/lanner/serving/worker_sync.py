"""What the worker processes of one server share: a few numbers in a mapped file.

Layout, int64 each: the generation, the generation of items, then per worker the store sequence it has applied (−1: it
is not running) and its last heartbeat. Each number has one writer at a time and is read and written whole, so there are
no locks.
"""

import mmap
import os
import threading
import time
from pathlib import Path

from lanner.errors import StorageError

_STALE_SECONDS = 2.0
"""A worker whose event loop has not run for so long is reported."""
_SIZE = 8
_ABSENT = -1


class WorkerSync:
    """The shared numbers as one worker sees them. With no path they are this process's own: it is the only worker."""

    def __init__(self, path: Path | None, worker: int = 0, workers: int = 1) -> None:
        """path: a file that ``create`` made. worker: this one's number, from 0.

        Raises:
            StorageError: the file is missing or of another number of workers.
        """
        self.worker, self.workers = worker, workers
        self.folder = None if path is None else path.parent
        """Of this server, gone when it ends; None: there are no other workers."""
        size = _SIZE * (2 + 2 * workers)
        memory: bytearray | mmap.mmap = bytearray(size) if path is None else _map(path, size)
        self._numbers = memoryview(memory).cast("q")
        self._bumping = threading.Lock()
        self._bumped = 0
        if path is None:
            self._numbers[2] = _ABSENT

    @classmethod
    def create(cls, path: Path, workers: int) -> None:
        """Make the file; no worker is running."""
        numbers = memoryview(bytearray(_SIZE * (2 + 2 * workers))).cast("q")
        for worker in range(workers):
            numbers[2 + 2 * worker] = _ABSENT
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(numbers.cast("B"))

    # --- what was written ------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Another number after every ``bump`` of any worker; compare with ``!=``, for it does not rise."""
        return self._numbers[0]

    @property
    def items_generation(self) -> int:
        """The same, of changes that may be of items."""
        return self._numbers[1]

    def bump(self, items: bool = True) -> None:
        """Tell every worker that the store has changed; from any thread. items: whether items may have changed."""
        # Microseconds and the worker's number make each value unique. A shared counter would lose one of two bumps at
        # once, and a worker that has compared in between would never learn of it.
        with self._bumping:
            self._bumped = max(self._bumped + 1, time.monotonic_ns() // 1000)
            self._numbers[0] = self._bumped * self.workers + self.worker
            if items:
                self._numbers[1] = self._numbers[0]

    def applied(self, sequence: int) -> None:
        """This worker has applied every change up to ``sequence``. From the first call on, others wait for it."""
        self._numbers[2 + 2 * self.worker] = sequence

    def all_applied(self, sequence: int) -> bool:
        """Whether every running worker has applied each change up to ``sequence``."""
        return not any(_ABSENT < self._numbers[2 + 2 * one] < sequence for one in range(self.workers))

    # --- who is alive ----------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """This worker's event loop runs; called on it."""
        self._numbers[3 + 2 * self.worker] = time.monotonic_ns()

    def silent_s(self, worker: int) -> float | None:
        """Seconds since a worker's last heartbeat; None where it has not started."""
        beat = self._numbers[3 + 2 * worker]
        return (time.monotonic_ns() - beat) / 1e9 if beat else None

    def retire(self, worker: int) -> None:
        """A worker has ended: nobody waits for it until it has started again. Called by the supervisor."""
        self._numbers[2 + 2 * worker], self._numbers[3 + 2 * worker] = _ABSENT, 0

    def problems(self) -> list[str]:
        """One line for each other worker that is not running or does not respond."""
        lines = []
        for worker in range(self.workers):
            silent = self.silent_s(worker) if worker != self.worker else 0.0
            if silent is None:
                lines.append(f"worker {worker} is not running")
            elif silent > _STALE_SECONDS:
                lines.append(f"worker {worker} does not respond")
        return lines


def _map(path: Path, size: int) -> mmap.mmap:
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise StorageError(f"{path}: not made for this number of workers")
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise StorageError(f"{path}: cannot be mapped ({error.strerror})") from None
