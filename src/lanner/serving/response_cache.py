"""The response cache, and request coalescing: identical concurrent requests share one computation."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from lanner.serving.messages import RecommendAnswer

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_ANSWER_BYTES, _ITEM_BYTES, _REASON_BYTES = 700, 170, 130
"""Approximate bytes per entry beside its own texts; ids and titles are shared with the catalog."""
_MAX_BYTES = 64 << 20
"""Byte limit of the cache; a response larger than a hundredth of it is not cached."""


class CacheKey(NamedTuple):
    """catalog, user: versions of the catalog and of the user state. request: as JSON."""

    catalog: int
    user: int
    request: bytes


class ResponseCache:
    """LRU cache of responses. Used on the event loop only.

    held_bytes: approximate size of the cached responses.
    """

    def __init__(self, most: int, most_bytes: int = _MAX_BYTES) -> None:
        """most: maximum number of responses; 0: no cache. most_bytes: approximate size limit."""
        self._most, self._most_bytes, self.held_bytes = most, most_bytes, 0
        self._kept: OrderedDict[CacheKey, RecommendAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: CacheKey) -> RecommendAnswer | None:
        """The cached response, or None."""
        answer = self._kept.get(key)
        if answer is not None:
            self._kept.move_to_end(key)
        return answer

    def put(self, key: CacheKey, answer: RecommendAnswer) -> None:
        """Cache a response; entries of older catalog versions are dropped."""
        if not self._most or _bytes_of(key, answer) > self._most_bytes // 100:
            return
        if self._kept and next(iter(self._kept)).catalog != key.catalog:
            self.clear()
        self._drop(key)
        self._kept[key] = answer
        self.held_bytes += _bytes_of(key, answer)
        while len(self._kept) > self._most or self.held_bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Drop all entries."""
        self._kept.clear()
        self.held_bytes = 0

    def _drop(self, key: CacheKey) -> None:
        answer = self._kept.pop(key, None)
        self.held_bytes -= 0 if answer is None else _bytes_of(key, answer)


def _bytes_of(key: CacheKey, answer: RecommendAnswer) -> int:
    reasons = sum(len(item.reasons) * _REASON_BYTES + len(item.because) for item in answer.items)
    return _ANSWER_BYTES + len(key.request) + len(answer.items) * _ITEM_BYTES + reasons


class SingleFlight(Generic[K, V]):
    """Coalesces identical concurrent requests into one computation."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Future[V]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of ``work``, or of an identical call in progress.

        The first caller does the work; if it is cancelled, one of the waiting callers takes over.
        """
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait((flight,))
            if not flight.cancelled():
                return flight.result()
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            result = await work()
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # marks the exception as retrieved
            raise
        else:
            flight.set_result(result)
            return result
        finally:
            del self._flights[key]
            flight.cancel()  # no effect if it is done
