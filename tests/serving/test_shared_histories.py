"""Servers over one store and one Redis; what each holds in memory is a dict."""

import asyncio
import threading
from contextlib import suppress

import pytest

pytest.importorskip("redis", reason="the extra 'redis' is not installed")

from lanner.errors import StoreUnavailableError
from lanner.serving.histories import read_known
from lanner.serving.messages import Event, User
from lanner.serving.redis_entries import AwayError, RedisConfig
from lanner.serving.shared_histories import SharedHistories
from lanner.serving.store import open_store

NOW = 1_700_000_000.0


class Server:
    """What ``LannerService`` does with its histories, without a model."""

    def __init__(self, url, path, length=10, most_users=100):
        self.store = open_store(str(path))
        self.held = {}
        self.shared = SharedHistories(RedisConfig(url, timeout_ms=2000), self.store, length, most_users, lambda: [self])
        self.length = length

    def learn(self, user_id, known):
        self.held[user_id] = known

    def drop(self, user_ids):
        for user_id in user_ids:
            self.held.pop(user_id, None)

    async def asked(self, user_id="ann"):
        """Items of the history from which an answer would be made."""
        await self.shared.refresh(user_id)
        if user_id not in self.held:
            self.held[user_id] = read_known(self.store, user_id, self.length, True)
        return self.held[user_id].item_ids

    async def told(self, item, user_id="ann"):
        self.store.append([Event(user_id=user_id, item_id=item)], NOW)
        await self.shared.changed([user_id])

    @property
    def figures(self):
        return self.shared.figures()


@pytest.fixture
def talk(redis_server, tmp_path):
    def all_of_it(conversation, servers=2, **settings):
        async def run():
            made = [Server(redis_server.url, tmp_path / "events.db", **settings) for _ in range(servers)]
            for server in made:
                await server.shared.look()
            try:
                await conversation(*made)
            finally:
                for server in made:
                    await server.shared.close()
                    server.store.close()

        asyncio.run(run())

    return all_of_it


def test_what_one_was_told_is_in_the_next_answer_of_the_other(talk):
    async def conversation(one, other):
        assert await other.asked() == []
        for n in range(20):
            teller, asked = (one, other) if n % 2 else (other, one)
            await teller.told(str(n))
            assert (await asked.asked())[-1] == str(n)
            assert (await teller.asked())[-1] == str(n)

    talk(conversation)


def test_the_store_is_read_once_for_all_servers(talk):
    async def conversation(one, *others):
        await one.told("sea")
        for server in (one, *others):
            assert await server.asked() == ["sea"]
            assert await server.asked() == ["sea"]
        assert [server.figures["redis_users_read_from_store"] for server in (one, *others)] == [1, 0, 0]
        assert [server.figures["redis_users_learnt"] for server in (one, *others)] == [0, 1, 1]
        assert [server.figures["redis_users_unchanged"] for server in (one, *others)] == [1, 1, 1]

    talk(conversation, servers=3)


def test_what_was_read_before_a_change_is_not_believed_after_it(talk, monkeypatch):
    async def conversation(one, other):
        reading, go_on = threading.Event(), threading.Event()
        histories = other.store.histories

        def slow(*arguments):
            found = histories(*arguments)
            reading.set()
            go_on.wait(5)
            return found

        monkeypatch.setattr(other.store, "histories", slow)
        asked = asyncio.create_task(other.asked())
        await asyncio.to_thread(reading.wait, 5)
        await one.told("sea")
        go_on.set()
        await asked
        assert await one.asked() == ["sea"]
        assert await other.asked() == ["sea"]

    talk(conversation)


def test_what_happens_here_while_a_user_is_read_is_not_overwritten(talk, monkeypatch):
    async def conversation(server):
        reading, go_on = threading.Event(), threading.Event()
        histories = server.store.histories

        def slow(*arguments):
            found = histories(*arguments)
            reading.set()
            go_on.wait(5)
            return found

        monkeypatch.setattr(server.store, "histories", slow)
        refreshing = asyncio.create_task(server.shared.refresh("ann"))
        await asyncio.to_thread(reading.wait, 5)
        await server.told("sea")
        go_on.set()
        await refreshing
        assert server.held == {}

    talk(conversation, servers=1)


def test_while_redis_hangs_each_answers_from_the_store_and_says_so(talk, redis_server):
    async def conversation(one, other):
        await one.told("sea")
        assert await other.asked() == ["sea"]
        redis_server.hang(True)
        one.shared._entries._config = other.shared._entries._config = RedisConfig(redis_server.url, timeout_ms=50)
        await one.told("war")
        assert await one.asked() == ["sea", "war"]
        await other.shared.refresh("ann")
        assert one.shared.problems() == other.shared.problems() != []
        assert (one.figures["redis_up"], one.figures["redis_failures"]) == (False, 1)
        other.drop(["ann"])  # as the service does with whom the store names
        await other.shared.heard(["ann"])
        assert await other.asked() == ["sea", "war"]
        redis_server.hang(False)
        for server in (one, other):
            server.shared._entries._config = RedisConfig(redis_server.url, timeout_ms=2000)
            await server.shared.look()
            assert server.shared.problems() == []
        # The entry from before, which nobody could delete, is still there, and believed by neither.
        assert await one.asked() == ["sea", "war"]
        assert await other.asked() == ["sea", "war"]

    talk(conversation)


def test_who_could_not_reach_redis_is_heard_of_by_the_store(talk):
    async def conversation(one, other, third):
        await one.told("sea")
        assert await other.asked() == await third.asked() == ["sea"]
        one.shared._entries.up = False
        await one.told("war")
        assert await other.asked() == ["sea"]
        await other.shared.heard(["ann"])
        assert await other.asked() == ["sea", "war"]
        assert await third.asked() == ["sea", "war"]

    talk(conversation, servers=3)


def test_after_somebody_was_forgotten_nothing_from_before_is_believed(talk):
    async def conversation(one, other):
        await one.told("sea")
        await one.told("war", "bob")
        assert await other.asked() == ["sea"]
        assert await other.asked("bob") == ["war"]
        one.store.forget_user("ann")
        await other.shared.heard(None)
        assert await other.asked() == []
        assert other.held["ann"].forgotten
        assert await other.asked("bob") == ["war"]
        assert other.figures["redis_users_read_from_store"] == 4

    talk(conversation)


def test_a_forgotten_persons_entry_goes_and_where_redis_is_away_once_it_is_back(talk):
    async def conversation(one, other):
        entries = one.shared._entries
        for user_id in ("ann", "bob"):
            await one.told("sea", user_id)
            await other.asked(user_id)
        await one.shared.forget("ann")
        assert await entries.look(entries.key("ann")) is None
        entries.up = False
        await one.shared.forget("bob")
        with suppress(AwayError):
            await entries.look(entries.key("bob"))
        assert await other.shared._entries.look(entries.key("bob")) is not None
        await one.shared.look()
        assert await entries.look(entries.key("bob")) is None

    talk(conversation)


def test_a_profile_and_a_shorter_or_damaged_entry(talk):
    async def conversation(one, other):
        for n in range(12):
            await one.told(str(n))
        one.store.put_user("ann", User(profile="sails"))
        await one.shared.changed(["ann"])
        one.shared._length = one.length = 3
        assert await one.asked() == ["9", "10", "11"]
        assert len(await other.asked()) == 10
        assert other.held["ann"].told == "sails"
        entries = other.shared._entries
        await entries.fill(entries.key("bob"), await entries.place(entries.key("bob")), b"\xc1 nonsense")
        assert await other.asked("bob") == []

    talk(conversation)


def test_users_held_are_bounded(talk):
    async def conversation(server):
        for n in range(10):
            await server.asked(str(n))
        assert server.figures["redis_users_held"] == 5
        assert server.shared._reading == {}

    talk(conversation, servers=1, most_users=5)


def test_while_the_store_is_away_nothing_outdated_is_held(talk, monkeypatch):
    async def conversation(one, other):
        await other.asked()
        await one.told("sea")

        def gone(*_):
            raise StoreUnavailableError("the store does not answer")

        monkeypatch.setattr(other.store, "histories", gone)
        await other.shared.refresh("ann")
        assert other.held == {}
        monkeypatch.undo()
        assert await other.asked() == ["sea"]

    talk(conversation)
