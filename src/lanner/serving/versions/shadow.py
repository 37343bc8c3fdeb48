"""Shadow traffic: a share of the requests is asked of the challenger too, beside the caller's way, and compared."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

import numpy as np

from lanner.errors import ConfigError

MOST_WAITING = 64
"""Requests that wait for the challenger; what comes then is dropped and counted."""
RECENT = 2_000
"""Latencies that the quantiles are of."""
_POLL_SECONDS = 0.2

Request = TypeVar("Request")


@dataclass(frozen=True)
class ShadowSummary:
    """What was found so far; means over all comparisons, latencies over the last ``RECENT``. NaN: nothing yet."""

    compared: int
    dropped: int
    """Sampled, but too many waited."""
    failed: int
    """Requests that the challenger did not answer."""
    overlap: float
    """Share of the longer list that stands in both, mean."""
    rank_correlation: float
    """Spearman's, over the items in both lists where there are two or more, mean."""
    champion_p50_ms: float
    champion_p99_ms: float
    challenger_p50_ms: float
    challenger_p99_ms: float
    problem: str
    """Why the challenger did not answer the last request, one line; empty once it answers again."""


class Shadow(Generic[Request]):
    """A sampler, a bounded queue, and one thread that asks the challenger; it lives until ``close``."""

    def __init__(
        self,
        ask: Callable[[Request], Sequence[str]],
        share: float,
        most_waiting: int = MOST_WAITING,
        seed: int | None = None,
    ) -> None:
        """ask: the challenger's item ids for a request, best first. share: of the requests, 0 to 1.

        Raises:
            ConfigError: ``share`` is no share.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"shadow share is {share}, it must lie between 0 and 1")
        self._ask, self._share, self._random = ask, share, random.Random(seed)
        self._queue: Queue[tuple[Request, Sequence[str], float]] = Queue(most_waiting)
        self._closing = Event()
        self._lock = Lock()
        self._compared = self._correlated = self._dropped = self._failed = 0
        self._overlap = self._correlation = 0.0
        self._milliseconds: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._problem = ""
        self._thread = Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, request: Request, item_ids: Sequence[str], milliseconds: float) -> bool:
        """Hand over a request that the champion has answered so; never waits. Returns whether it will be compared."""
        if self._random.random() >= self._share:
            return False
        try:
            self._queue.put_nowait((request, item_ids, milliseconds))
        except Full:
            with self._lock:
                self._dropped += 1
            return False
        return True

    def summary(self) -> ShadowSummary:
        """What was found so far."""
        with self._lock:
            times = np.array(self._milliseconds or [(np.nan, np.nan)])
            (champion_p50, challenger_p50), (champion_p99, challenger_p99) = np.percentile(times, (50, 99), axis=0)
            return ShadowSummary(
                compared=self._compared,
                dropped=self._dropped,
                failed=self._failed,
                overlap=self._overlap / self._compared if self._compared else np.nan,
                rank_correlation=self._correlation / self._correlated if self._correlated else np.nan,
                champion_p50_ms=float(champion_p50),
                champion_p99_ms=float(champion_p99),
                challenger_p50_ms=float(challenger_p50),
                challenger_p99_ms=float(challenger_p99),
                problem=self._problem,
            )

    def close(self) -> None:
        """End the thread after the request it is at; what waits is dropped. A second time does nothing."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                request, champion, milliseconds = self._queue.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            self._compare(request, champion, milliseconds)

    def _compare(self, request: Request, champion: Sequence[str], milliseconds: float) -> None:
        started = time.perf_counter()
        try:
            challenger = self._ask(request)
        except Exception as error:  # a challenger may fail in any way, and only be counted for it
            with self._lock:
                self._failed += 1
                self._problem = " ".join(str(error).split()) or type(error).__name__
            return
        took = (time.perf_counter() - started) * 1e3
        correlation = rank_correlation(champion, challenger)
        with self._lock:
            self._problem = ""
            self._compared += 1
            self._overlap += overlap(champion, challenger)
            if correlation is not None:
                self._correlated += 1
                self._correlation += correlation
            self._milliseconds.append((milliseconds, took))


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the longer list that stands in both; 1 for two empty ones."""
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_correlation(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Spearman's correlation of the places of the items in both lists; None for fewer than two."""
    both = set(first) & set(second)
    places = {item: place for place, item in enumerate(one for one in second if one in both)}
    count = len(both)
    if count < 2:
        return None
    apart = sum((place - places[item]) ** 2 for place, item in enumerate(one for one in first if one in both))
    return 1 - 6 * apart / (count * (count**2 - 1))
