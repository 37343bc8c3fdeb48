"""The exposure log: written to the store in batches by a background task."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from lanner.errors import StoreUnavailableError
from lanner.serving.store import Exposure

CAPACITY = 20_000
"""Maximum number of queued exposures; further ones are dropped and counted."""
BATCH = 1_000
INTERVAL_SECONDS = 0.5


class Exposures:
    """A bounded buffer and the task that flushes it. Used on one event loop; writes run in a thread."""

    def __init__(
        self,
        write: Callable[[Sequence[Exposure]], None],
        capacity: int = CAPACITY,
        batch: int = BATCH,
        interval_s: float = INTERVAL_SECONDS,
    ) -> None:
        """write: ``store.expose``. interval_s: maximum delay of a write while the store is available."""
        self._write, self._capacity, self._batch, self._interval_s = write, capacity, batch, interval_s
        self._waiting: deque[Exposure] = deque()
        self._writing, self._wake = asyncio.Lock(), asyncio.Event()
        self._closing = False
        self._written = self._dropped = 0
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        """Last write error, one line; empty after a success."""

    def start(self) -> None:
        """Start the flushing task."""
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """Number of queued exposures."""
        return len(self._waiting)

    def add(self, exposure: Exposure) -> bool:
        """Queue an exposure without waiting; False if it was dropped: the queue is full, or closed."""
        if self._closing or len(self._waiting) >= self._capacity:
            self._dropped += 1
            return False
        self._waiting.append(exposure)
        if len(self._waiting) == self._batch:
            self._wake.set()
        return True

    async def forget(self, user_id: str) -> None:
        """Drop a user's queued exposures, after the write in progress."""
        async with self._writing:
            self._waiting = deque(one for one in self._waiting if one.user_id != user_id)

    def figures(self) -> dict[str, float]:
        """For the metrics: exposures queued, written, and dropped."""
        counts = {"waiting": len(self._waiting), "written": self._written, "dropped": self._dropped}
        return {f"exposures_{name}": float(count) for name, count in counts.items()}

    async def close(self) -> None:
        """Flush once and end the task. Idempotent."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            self._wake.clear()
            await self._flush()
        await self._flush()
        self._dropped += len(self._waiting)
        self._waiting.clear()

    async def _flush(self) -> None:
        """Write batch by batch until the queue is empty or the store is unavailable."""
        while self._waiting:
            async with self._writing:
                batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
                try:
                    refused = await asyncio.to_thread(self._write_all, batch)
                except StoreUnavailableError as error:
                    self.problem = str(error)
                    self._waiting.extendleft(reversed(batch))
                    return
                self._written += len(batch) - refused
                self._dropped += refused

    def _write_all(self, batch: Sequence[Exposure]) -> int:
        """Returns the number of rejected rows; the batch is bisected, so that a bad row costs no other."""
        try:
            self._write(batch)
        except StoreUnavailableError:
            raise
        except Exception as error:
            self.problem = str(error)
            if len(batch) == 1:
                return 1
            middle = len(batch) // 2
            return self._write_all(batch[:middle]) + self._write_all(batch[middle:])
        self.problem = ""
        return 0
