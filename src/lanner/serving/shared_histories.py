"""Histories of several servers: an event that one has acknowledged is in the next answer of every other.

Before a user is answered, Redis is asked whether the entry from which they were last read still stands. Where it does
not, they are read from the entry that does, or from the store. The store stays the truth: while Redis is away servers
hear of each other by asking the store, as they do without it, and afterwards no entry from before is believed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from lanner.errors import StoreUnavailableError
from lanner.serving.histories import Histories, Known, read_known
from lanner.serving.redis_entries import AwayError, RedisConfig, RedisEntries, placed_at
from lanner.serving.store import Store

LOOK_SECONDS = 1.0
"""Between two looks whether Redis is there."""
_READERS = 4
_MOST_DELETED = 1_000
"""Entries that are deleted one by one; where more have changed, it is cheaper to believe none."""
_MOST_OWED = 10_000
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Known).decode


class SharedHistories:
    """Keeps ``Histories`` up to date by Redis. Used on the event loop's thread."""

    def __init__(
        self,
        config: RedisConfig,
        store: Store,
        length: int,
        most_users: int,
        histories: Callable[[], Iterable[Histories]],
    ) -> None:
        """length, most_users: as ``Histories``. histories: those of the versions that are served now.

        Raises:
            MissingExtraError, ConfigError: as ``RedisEntries``.
        """
        self._entries, self._store = RedisEntries(config), store
        self._length, self._most_users, self._histories = length, most_users, histories
        self._heads: OrderedDict[str, bytes] = OrderedDict()
        self._reading: dict[str, object] = {}
        self._believed_since = 0
        self._owed: OrderedDict[bytes, None] = OrderedDict()
        self._readers = ThreadPoolExecutor(_READERS, "shared-histories")
        self._unchanged = self._learnt = self._read = 0

    async def refresh(self, user_id: str) -> None:
        """See to it that the next reader finds this user as the servers have left them. Never fails."""
        ticket = self._reading[user_id] = object()
        # Whoever could not be read anew is held no more, or was not asked about: the store is there for them.
        with suppress(AwayError, StoreUnavailableError):
            await self._refresh(user_id, ticket)
        if self._reading.get(user_id) is ticket:
            del self._reading[user_id]

    async def changed(self, user_ids: Iterable[str]) -> None:
        """Tell every server that these users are to be read anew; for who wrote. Never fails."""
        keys = []
        for user_id in set(user_ids):
            self._heads.pop(user_id, None)
            self._reading.pop(user_id, None)
            keys.append(self._entries.key(user_id))
        with suppress(AwayError):
            await self._entries.delete(keys)

    async def heard(self, user_ids: Sequence[str] | None) -> None:
        """Take in whom the store names as changed, for who wrote may not have reached Redis; None: all."""
        if user_ids is not None and len(user_ids) <= _MOST_DELETED:
            await self.changed(user_ids)
            return
        self._believe_since(self._believed_since)
        with suppress(AwayError):
            self._believe_since(await self._entries.time())

    async def forget(self, user_id: str) -> None:
        """Delete a person's entry; where Redis is away, once it is back."""
        self._owed[self._entries.key(user_id)] = None
        if len(self._owed) > _MOST_OWED:
            self._owed.popitem(last=False)
        self._heads.pop(user_id, None)
        self._reading.pop(user_id, None)
        with suppress(AwayError):
            await self._pay()

    async def look(self) -> None:
        """Find out whether Redis is there; what it holds from the time when it was not is not believed."""
        before = self._entries.up
        with suppress(AwayError):
            now = await self._entries.knock()
            if not before:
                self._believe_since(now)
            await self._pay()

    def problems(self) -> list[str]:
        """One line while Redis is away."""
        if self._entries.up:
            return []
        return ["Redis does not answer: what other servers are told counts here only after a moment"]

    def figures(self) -> Mapping[str, float]:
        """For the metrics: whether Redis is there, and from where users were known."""
        return {
            "redis_up": self._entries.up,
            "redis_failures": self._entries.failures,
            "redis_users_unchanged": self._unchanged,
            "redis_users_learnt": self._learnt,
            "redis_users_read_from_store": self._read,
            "redis_users_held": len(self._heads),
        }

    async def close(self) -> None:
        """Let go of Redis and of the threads."""
        await self._entries.close()
        self._readers.shutdown(wait=False)

    async def _refresh(self, user_id: str, ticket: object) -> None:
        key = self._entries.key(user_id)
        found = await self._entries.look(key)
        if found is not None and self._heads.get(user_id) == found[0]:
            self._heads.move_to_end(user_id)
            self._unchanged += 1
            return
        self._heads.pop(user_id, None)
        for one in self._histories():
            one.drop([user_id])
        head, known = await self._known(user_id, key, found)
        if self._reading.get(user_id) is ticket:  # nothing happened to them meanwhile
            for one in self._histories():
                one.learn(user_id, known)
            self._hold(user_id, head)

    async def _known(self, user_id: str, key: bytes, found: tuple[bytes, bytes] | None) -> tuple[bytes, Known]:
        """(the head under which it was read, what is known of a user)."""
        if found is None or placed_at(found[0]) < self._believed_since:
            found = await self._entries.place(key), b""
        head, content = found
        known = _known_of(content)
        if known is not None and known.length >= self._length:
            self._learnt += 1
            return head, known
        in_thread = asyncio.get_running_loop().run_in_executor
        known = await in_thread(self._readers, read_known, self._store, user_id, self._length, True)
        self._read += 1
        with suppress(AwayError):
            await self._entries.fill(key, head, _encode(known))
        return head, known

    def _believe_since(self, time: int) -> None:
        self._believed_since = time
        self._heads.clear()
        self._reading.clear()

    async def _pay(self) -> None:
        owed = list(self._owed)
        await self._entries.delete(owed)
        for key in owed:
            self._owed.pop(key, None)

    def _hold(self, user_id: str, head: bytes) -> None:
        self._heads[user_id] = head
        self._heads.move_to_end(user_id)
        if len(self._heads) > self._most_users:
            self._heads.popitem(last=False)


def _known_of(content: bytes) -> Known | None:
    """None where nothing was filled in, or something that is not ours."""
    try:
        return _decode(content) if content else None
    except msgspec.MsgspecError:
        return None
