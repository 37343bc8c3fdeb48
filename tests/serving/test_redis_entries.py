import asyncio
import sys
import time

import pytest

pytest.importorskip("redis", reason="the extra 'redis' is not installed")

from lanner.errors import ConfigError, MissingExtraError
from lanner.serving.redis_entries import AwayError, RedisConfig, RedisEntries, placed_at


def talk(server, conversation, **settings):
    async def all_of_it():
        # Patient: the machine of the tests may be busy.
        entries = RedisEntries(RedisConfig(server.url, **{"timeout_ms": 2000, **settings}))
        await entries.knock()
        try:
            await conversation(entries)
        finally:
            await entries.close()

    asyncio.run(all_of_it())


def test_what_was_read_is_filled_in_only_under_the_head_that_was_placed_before(redis_server):
    async def conversation(entries):
        key = entries.key("ann")
        assert await entries.look(key) is None
        first = await entries.place(key)
        assert await entries.look(key) == (first, b"")
        second = await entries.place(key)
        assert second != first
        await entries.fill(key, first, b"old")
        assert await entries.look(key) == (second, b"")
        await entries.fill(key, second, b"new\0\xff")
        assert await entries.look(key) == (second, b"new\0\xff")
        await entries.delete([key, entries.key("bob")])
        await entries.fill(key, second, b"new")
        assert await entries.look(key) is None

    talk(redis_server, conversation)


def test_heads_rise_with_the_time_of_redis(redis_server):
    async def conversation(entries):
        before = await entries.time()
        placed = placed_at(await entries.place(b"a"))
        assert before < placed < await entries.time()
        assert placed == pytest.approx(time.time() * 1e6, abs=5e6)
        assert [placed_at(b""), placed_at(b"1" * 16), placed_at(b"x" * 32)] == [0, 0, 0]

    talk(redis_server, conversation)


def test_an_entry_lives_no_longer_than_it_may_and_names_nobody(redis_server):
    async def conversation(entries):
        key = entries.key("ann-the-first")
        await entries.fill(key, await entries.place(key), b"x")
        assert 0 < await entries._client.pttl(key) <= 30_000
        assert [b"ann" in one for one in await entries._client.keys("shop:*")] == [False]

    talk(redis_server, conversation, ttl_seconds=30, prefix="shop")


def test_looks_at_the_same_time_are_one_call(redis_server):
    async def conversation(entries):
        calls, mget = [], entries._client.mget

        async def counted(keys):
            calls.append(len(keys))
            return await mget(keys)

        entries._client.mget = counted
        heads = [await entries.place(entries.key(str(n))) for n in range(50)]
        found = await asyncio.gather(*(entries.look(entries.key(str(n))) for n in range(50)))
        assert [head for head, _ in found] == heads
        assert calls == [50]

    talk(redis_server, conversation)


def test_one_that_hangs_is_given_up_once_and_then_left_alone(redis_server):
    async def conversation(entries):
        await entries.look(b"a")
        redis_server.hang(True)
        begun = time.perf_counter()
        both = await asyncio.gather(entries.look(b"a"), entries.look(b"b"), return_exceptions=True)
        assert [type(one) for one in both] == [AwayError, AwayError]
        assert time.perf_counter() - begun < 1
        begun = time.perf_counter()
        for call in (entries.look(b"a"), entries.place(b"a"), entries.delete([b"a"]), entries.time()):
            with pytest.raises(AwayError):
                await call
        assert time.perf_counter() - begun < 0.05
        assert (entries.up, entries.failures) == (False, 1)
        redis_server.hang(False)
        entries._config = RedisConfig(redis_server.url, timeout_ms=2000)
        assert await entries.knock() > 0
        assert await entries.look(b"a") is None

    talk(redis_server, conversation, timeout_ms=100)


def test_a_loop_that_was_late_itself_does_not_blame_redis(redis_server):
    async def conversation(entries):
        head = await entries.place(b"a")
        for _ in range(20):
            looking = asyncio.create_task(entries.look(b"a"))
            for _ in range(5):
                await asyncio.sleep(0)  # it is sent
            time.sleep(0.06)
            assert await looking == (head, b"")

    talk(redis_server, conversation, timeout_ms=40)


def test_one_that_is_gone_is_found_again(redis_server):
    async def conversation(entries):
        await entries.place(b"a")
        redis_server.stop()
        with pytest.raises(AwayError):
            await entries.look(b"a")
        with pytest.raises(AwayError):
            await entries.knock()
        redis_server.start()
        await entries.knock()
        assert await entries.look(b"a") is None

    talk(redis_server, conversation)


def test_a_full_redis_is_one_that_is_away(redis_server):
    async def conversation(entries):
        await entries._client.config_set("maxmemory", 1)
        with pytest.raises(AwayError):
            await entries.place(b"a")

    talk(redis_server, conversation)


def test_an_address_that_is_none(caplog):
    with pytest.raises(ConfigError, match=r"redis\.url is none"):
        RedisEntries(RedisConfig("http://host:secret@x"))
    with pytest.raises(ConfigError, match=r"redis\.timeout_ms is 0"):
        RedisConfig(timeout_ms=0)


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingExtraError, match=r"lanner\[redis\]"):
        RedisEntries(RedisConfig("redis://localhost"))
