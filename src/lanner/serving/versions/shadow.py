"""Shadow traffic: a share of the requests is mirrored to the challenger in the background, and compared."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from lanner.errors import ConfigError
from lanner.serving.messages import RecommendRequest, ShadowFigures

MOST_WAITING = 64
"""Maximum number of queued requests; further ones are dropped and counted."""
RECENT = 2_000
"""Number of recent latencies used for the quantiles."""


class Shadow:
    """A sampler, a bounded queue, and one task that calls the challenger. Used on one event loop."""

    def __init__(
        self,
        ask: Callable[[RecommendRequest], Awaitable[Sequence[str]]],
        share: float,
        most_waiting: int = MOST_WAITING,
        seed: int | None = None,
    ) -> None:
        """ask: returns the challenger's item ids for a request, best first. share: of the requests, 0 to 1.

        Raises:
            ConfigError: ``share`` is outside 0 … 1.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"shadow share is {share}, it must be between 0 and 1")
        self._ask, self._share, self._random = ask, share, random.Random(seed)
        self._queue: asyncio.Queue[tuple[RecommendRequest, Sequence[str], float]] = asyncio.Queue(most_waiting)
        self._compared = self._correlated = self._dropped = self._failed = 0
        self._overlap = self._correlation = 0.0
        self._milliseconds: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the background task."""
        self._task = asyncio.create_task(self._run())

    def offer(self, request: RecommendRequest, item_ids: Sequence[str], milliseconds: float) -> bool:
        """Offer a request with the champion's answer; never waits. Returns whether it will be compared."""
        if self._random.random() >= self._share:
            return False
        if self._queue.full():
            self._dropped += 1
            return False
        self._queue.put_nowait((request, item_ids, milliseconds))
        return True

    def figures(self) -> ShadowFigures:
        """Statistics so far."""
        times = np.percentile(self._milliseconds, (50, 99), axis=0).tolist() if self._milliseconds else [[None] * 2] * 2
        (champion_p50, challenger_p50), (champion_p99, challenger_p99) = times
        return ShadowFigures(
            compared=self._compared,
            dropped=self._dropped,
            failed=self._failed,
            overlap=self._overlap / self._compared if self._compared else None,
            rank_correlation=self._correlation / self._correlated if self._correlated else None,
            champion_p50_ms=champion_p50,
            champion_p99_ms=champion_p99,
            challenger_p50_ms=challenger_p50,
            challenger_p99_ms=challenger_p99,
            problem=self._problem,
        )

    async def close(self) -> None:
        """End the task; queued requests are dropped. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._compare(*await self._queue.get())

    async def _compare(self, request: RecommendRequest, champion: Sequence[str], milliseconds: float) -> None:
        started = time.perf_counter()
        try:
            challenger = await self._ask(request)
        except Exception as error:  # any challenger failure is only counted
            self._failed += 1
            self._problem = " ".join(str(error).split()) or type(error).__name__
            return
        correlation = rank_correlation(champion, challenger)
        self._problem = ""
        self._compared += 1
        self._overlap += overlap(champion, challenger)
        if correlation is not None:
            self._correlated += 1
            self._correlation += correlation
        self._milliseconds.append((milliseconds, (time.perf_counter() - started) * 1e3))


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Common items as a share of the longer list; 1 for two empty lists."""
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_correlation(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Spearman rank correlation over the items in both lists; None for fewer than two."""
    both = set(first) & set(second)
    ranks = {item: rank for rank, item in enumerate(one for one in second if one in both)}
    count = len(both)
    if count < 2:
        return None
    apart = sum((rank - ranks[item]) ** 2 for rank, item in enumerate(one for one in first if one in both))
    return 1 - 6 * apart / (count * (count**2 - 1))
