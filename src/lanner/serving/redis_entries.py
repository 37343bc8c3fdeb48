"""What several servers share in Redis: an entry a user, asked for and written within a few milliseconds or not at all.

An entry is a head and what was read of the store after that head was placed. A head is never placed twice, and begins
with Redis' own time. Who changes a user deletes the entry, so whatever was read before cannot be filled in any more.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from lanner.errors import ConfigError, MissingExtraError

_KEY_BYTES = 16
_TIME_DIGITS = 16
_HEAD_BYTES = 32
_CONNECTIONS = 8
_CONNECT_SECONDS = 1.0
"""For the look of every second, which is nobody's request."""
_KEYS_A_CALL = 1_000
_PLACE = """local time = redis.call('TIME')
local head = string.format('%010d%06d', time[1], time[2]) .. ARGV[1]
redis.call('SET', KEYS[1], head, 'PX', ARGV[2])
return head"""
_FILL = f"""if redis.call('GETRANGE', KEYS[1], 0, {_HEAD_BYTES - 1}) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
end"""

_log = logging.getLogger(__name__)
_Look = tuple[bytes, "asyncio.Future[bytes | None]"]


@dataclass(frozen=True)
class RedisConfig:
    """A Redis in which the servers of one store tell each other of users at once. It needs no persistence."""

    url: str = ""
    """``redis://host:6379/0``, ``rediss://`` or ``unix://``; empty: none, servers hear of each other by the store."""
    prefix: str = "lanner"
    """Of every key: alike for servers of one store, different for stores that share a Redis."""
    timeout_ms: float = 5.0
    """A call that takes longer is given up, and Redis is left alone until it answers in time again."""
    ttl_seconds: float = 3600.0
    """An entry lives no longer. How many there are is bounded by Redis' own ``maxmemory`` with ``allkeys-lru``."""

    def __post_init__(self) -> None:
        for name in ("timeout_ms", "ttl_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"redis.{name} is {getattr(self, name)}, it must be above 0")


class AwayError(Exception):
    """Redis did not answer in time, or refused; nothing depends on it."""


class RedisEntries:
    """Used on the event loop's thread. While Redis is away every call raises ``AwayError`` without asking it."""

    def __init__(self, config: RedisConfig) -> None:
        """Connects later.

        Raises:
            MissingExtraError: redis is not installed. ConfigError: a URL that it cannot read.
        """
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise MissingExtraError("redis", "redis", "histories shared in Redis") from None
        self._config, self._milliseconds = config, max(1, round(config.ttl_seconds * 1e3))
        try:
            # Without retries: a lost connection has to be noticed, for what was not deleted meanwhile may be stale.
            pool = BlockingConnectionPool.from_url(
                config.url,
                max_connections=_CONNECTIONS,
                timeout=_CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except ValueError:
            raise ConfigError("redis.url is none that Redis' client reads; give redis://host:port/number") from None
        self._client = Redis.from_pool(pool)
        self._place, self._fill = self._client.register_script(_PLACE), self._client.register_script(_FILL)
        self._wanted: list[_Look] = []
        self._looking: asyncio.Task[None] | None = None
        self.up = False
        """Whether Redis answered last time."""
        self.failures = 0
        """Calls that Redis did not answer, of those that were made of it."""

    def key(self, user_id: str) -> bytes:
        """Of a digest, so that ids of any length and kind do."""
        digest = blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).hexdigest()
        return f"{self._config.prefix}:{digest}".encode()

    async def look(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The head and what was filled in, which may be nothing yet. Looks at the same time are one call."""
        if not self.up:
            raise AwayError
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._wanted.append((key, future))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all())
        value = await future
        return None if value is None else (value[:_HEAD_BYTES], value[_HEAD_BYTES:])

    async def place(self, key: bytes) -> bytes:
        """Put a new head, and nothing else, over what stood there."""
        chance = secrets.token_hex((_HEAD_BYTES - _TIME_DIGITS) // 2)
        head: bytes = await self._ask(lambda: self._place(keys=[key], args=[chance, self._milliseconds]))
        return head

    async def fill(self, key: bytes, head: bytes, content: bytes) -> None:
        """Fill in what was read after ``head`` was placed; nothing happens where it stands there no more."""
        await self._ask(lambda: self._fill(keys=[key], args=[head, content, self._milliseconds]))

    async def delete(self, keys: Sequence[bytes]) -> None:
        """Delete entries."""
        for first in range(0, len(keys), _KEYS_A_CALL):
            part = keys[first : first + _KEYS_A_CALL]
            await self._ask(partial(self._client.delete, *part))

    async def time(self) -> int:
        """Microseconds since 1970 by Redis' clock."""
        seconds, microseconds = await self._ask(self._client.time)
        return int(seconds) * 1_000_000 + int(microseconds)

    async def knock(self) -> int:
        """``time``, asked also while Redis is away: it is back once it answers in time."""
        if not self.up:
            try:
                await _in_time(self._client.ping(), _CONNECT_SECONDS)
            except Exception as error:
                raise self._lost(error) from error
            self.up = True
        return await self.time()

    async def close(self) -> None:
        """Let go of the connections."""
        self.up = False
        await self._client.aclose()

    async def _look_for_all(self) -> None:
        """One call at a time; what is wanted meanwhile goes into the next."""
        wanted: list[_Look] = []
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, []
                values = await self._ask(partial(self._client.mget, [key for key, _ in wanted]))
                for (_, future), value in zip(wanted, values, strict=True):
                    if not future.done():
                        future.set_result(value)
        except AwayError as error:
            # Those who came meanwhile would only wait for the same.
            for _, future in [*wanted, *self._wanted]:
                if not future.done():
                    future.set_exception(error)
            self._wanted = []
        finally:
            self._looking = None

    async def _ask(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if not self.up:
            raise AwayError
        try:
            return await _in_time(call(), self._config.timeout_ms / 1e3)
        except Exception as error:  # whatever it is: nobody's request may fail for it
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> AwayError:
        if self.up:
            _log.warning("Redis does not answer: %s", str(error) or type(error).__name__)
        self.up = False
        self.failures += 1
        return AwayError()


async def _in_time(call: Awaitable[Any], seconds: float) -> Any:
    """The answer. Unlike ``asyncio.timeout``, which forgets an answer that came while the loop itself was late."""
    asked = asyncio.ensure_future(call)
    try:
        await asyncio.wait((asked,), timeout=seconds)
        if not asked.done():
            raise TimeoutError(f"no answer within {seconds * 1e3:g} ms")
        return asked.result()
    finally:
        asked.cancel()


def placed_at(head: bytes) -> int:
    """Microseconds since 1970, by Redis' clock; 0 for what is no head."""
    digits = head[:_TIME_DIGITS]
    return int(digits) if len(head) == _HEAD_BYTES and digits.isdigit() else 0
