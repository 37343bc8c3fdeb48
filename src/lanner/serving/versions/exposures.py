"""What was shown to whom, on its way to the store: written in batches beside the requests, which never wait for it."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from threading import Event, Lock, Thread

from lanner.errors import StoreUnavailableError
from lanner.serving.store.contract import Exposure

CAPACITY = 20_000
"""Exposures that wait at most; what comes then is dropped and counted."""
BATCH = 1_000
INTERVAL_SECONDS = 0.5


class Exposures:
    """A bounded buffer and the thread that empties it; it lives until ``close``."""

    def __init__(
        self,
        write: Callable[[Sequence[Exposure]], None],
        capacity: int = CAPACITY,
        batch: int = BATCH,
        interval_s: float = INTERVAL_SECONDS,
    ) -> None:
        """write: ``store.expose``. interval_s: an exposure waits no longer while the store answers."""
        self._write, self._capacity, self._batch, self._interval_s = write, capacity, batch, interval_s
        self._waiting: deque[Exposure] = deque()
        self._lock = Lock()
        self._writing = Lock()
        self._wake = Event()
        self._closing = False
        self._written = self._dropped = 0
        self._problem = ""
        self._thread = Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def add(self, exposure: Exposure) -> bool:
        """Take one, without waiting; False where it was dropped, for too many wait or ``close`` was called."""
        with self._lock:
            if self._closing or len(self._waiting) >= self._capacity:
                self._dropped += 1
                return False
            self._waiting.append(exposure)
            full = len(self._waiting) == self._batch
        if full:
            self._wake.set()
        return True

    def forget(self, user_id: str) -> None:
        """Drop what waits of a person, so that it never comes to the store. Call it before ``store.forget_user``."""
        with self._writing, self._lock:
            self._waiting = deque(one for one in self._waiting if one.user_id != user_id)

    @property
    def problem(self) -> str:
        """Why the last batch was not written, one line; empty where it was."""
        return self._problem

    def figures(self) -> Mapping[str, float]:
        """For the metrics: how many wait, were written, and were dropped."""
        with self._lock:
            return {
                "exposures_waiting": len(self._waiting),
                "exposures_written": self._written,
                "exposures_dropped": self._dropped,
            }

    def close(self) -> None:
        """Write what waits, trying once, and end the thread. A second time does nothing."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._empty()
        self._empty()
        with self._lock:
            self._dropped += len(self._waiting)
            self._waiting.clear()

    def _empty(self) -> None:
        """Batch by batch, until nothing waits or the store does not answer."""
        while True:
            with self._writing:
                with self._lock:
                    batch = list(islice(self._waiting, self._batch))
                if not batch:
                    return
                try:
                    refused = self._write_all(batch)
                except StoreUnavailableError as error:
                    self._problem = str(error)
                    return
                with self._lock:
                    for _ in batch:
                        self._waiting.popleft()
                    self._written += len(batch) - refused
                    self._dropped += refused

    def _write_all(self, batch: Sequence[Exposure]) -> int:
        """How many the store refused for good; one of them must not cost the others."""
        try:
            self._write(batch)
        except StoreUnavailableError:
            raise
        except Exception as error:
            self._problem = str(error)
            if len(batch) == 1:
                return 1
            middle = len(batch) // 2
            return self._write_all(batch[:middle]) + self._write_all(batch[middle:])
        self._problem = ""
        return 0
