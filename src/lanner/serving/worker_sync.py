"""State shared by the worker processes of one server: a few numbers in a memory-mapped file.

Layout, int64 each: the generation, the item generation, then per worker the applied store sequence (−1: not running)
and its last heartbeat. Each number has one writer at a time and is read and written atomically, so there are no locks.
"""

import mmap
import os
import threading
import time
from pathlib import Path

from lanner.errors import StorageError

_STALE_SECONDS = 2.0
"""Seconds without a heartbeat after which a worker is reported."""
_SIZE = 8
_ABSENT = -1


class WorkerSync:
    """One worker's view of the shared numbers. Without a path they are private to this process: the only worker."""

    def __init__(self, path: Path | None, worker: int = 0, workers: int = 1) -> None:
        """path: a file made by ``create``. worker: this worker's number, from 0.

        Raises:
            StorageError: the file is missing or made for another number of workers.
        """
        self.worker, self.workers = worker, workers
        self.folder = None if path is None else path.parent
        """The server's shared folder, removed when it stops; None: there are no other workers."""
        size = _SIZE * (2 + 2 * workers)
        memory: bytearray | mmap.mmap = bytearray(size) if path is None else _map(path, size)
        self._numbers = memoryview(memory).cast("q")
        self._bumping = threading.Lock()
        self._bumped = 0
        if path is None:
            self._numbers[2] = _ABSENT

    @classmethod
    def create(cls, path: Path, workers: int) -> None:
        """Create the file, before any worker is started."""
        numbers = memoryview(bytearray(_SIZE * (2 + 2 * workers))).cast("q")
        for worker in range(workers):
            numbers[2 + 2 * worker] = _ABSENT
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(numbers.cast("B"))

    # --- change notification ---------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Changes with every ``bump`` of any worker; compare with ``!=``, it is not monotonic."""
        return self._numbers[0]

    @property
    def items_generation(self) -> int:
        """The same for changes that may concern items."""
        return self._numbers[1]

    def bump(self, items: bool = True) -> None:
        """Notify every worker of a store change; from any thread. items: whether items may have changed."""
        # Microseconds plus the worker number make each value unique. With a shared counter one of two concurrent bumps
        # would be lost, and a worker that compared in between would miss it.
        with self._bumping:
            self._bumped = max(self._bumped + 1, time.monotonic_ns() // 1000)
            self._numbers[0] = self._bumped * self.workers + self.worker
            if items:
                self._numbers[1] = self._numbers[0]

    def applied(self, sequence: int) -> None:
        """This worker has applied every change up to ``sequence``; from the first call on, others wait for it."""
        self._numbers[2 + 2 * self.worker] = sequence

    def all_applied(self, sequence: int) -> bool:
        """Whether every running worker has applied all changes up to ``sequence``."""
        return not any(_ABSENT < self._numbers[2 + 2 * one] < sequence for one in range(self.workers))

    # --- liveness --------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Record a heartbeat; called on the event loop."""
        self._numbers[3 + 2 * self.worker] = time.monotonic_ns()

    def silent_s(self, worker: int) -> float | None:
        """Seconds since a worker's last heartbeat; None: not started."""
        beat = self._numbers[3 + 2 * worker]
        return (time.monotonic_ns() - beat) / 1e9 if beat else None

    def retire(self, worker: int) -> None:
        """Mark a worker as ended: other workers do not wait for it until it has restarted. Called by the supervisor."""
        self._numbers[2 + 2 * worker], self._numbers[3 + 2 * worker] = _ABSENT, 0

    def problems(self) -> list[str]:
        """One line for each other worker that is down or unresponsive."""
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
        raise StorageError(f"{path}: cannot be memory-mapped ({error.strerror})") from None
