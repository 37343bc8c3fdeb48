"""Group commit: which writes share a commit, isolated failures, and the queue limit."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lanner.errors import ConfigError, DataError, StoreUnavailableError
from lanner.serving.messages import Event, EventsAnswer, Item
from lanner.serving.store.sqlite import SqliteStore
from lanner.serving.store.writer import Writer


@pytest.fixture
def commits():
    return []


@pytest.fixture
def writer(commits):
    def transact(work):
        done = []
        results = work(done)
        commits.append(done)
        return results

    made = Writer(transact, queue_limit=10)
    yield made
    made.close()


class Held:
    """The writing thread, busy until let go."""

    def __init__(self, writer):
        self.begun, self.release = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=writer.submit, args=(self._act,))
        self._thread.start()
        self.begun.wait(5)

    def _act(self, connection):
        self.begun.set()
        self.release.wait(5)

    def let_go(self):
        self.release.set()
        self._thread.join()


def queued(writer, count):
    while len(writer._queue) < count:
        time.sleep(0.001)


def test_what_waits_is_committed_together_in_order(writer, commits):
    held = Held(writer)
    with ThreadPoolExecutor(3) as threads:
        calls = []
        for n in range(3):
            calls.append(threads.submit(writer.submit, lambda done, n=n: done.append(n) or n * 10))
            queued(writer, n + 1)
        held.let_go()
        assert [call.result(5) for call in calls] == [0, 10, 20]
    assert commits == [[], [0, 1, 2]]
    assert (writer.commits, writer.batches) == (2, 4)


def test_one_that_fails_fails_alone(writer, commits):
    def fail(done):
        raise DataError("not this one")

    held = Held(writer)
    with ThreadPoolExecutor(3) as threads:
        good = [threads.submit(writer.submit, lambda done: done.append("good"))]
        bad = threads.submit(writer.submit, fail)
        good.append(threads.submit(writer.submit, lambda done: done.append("good")))
        queued(writer, 3)
        held.let_go()
        with pytest.raises(DataError, match="not this one"):
            bad.result(5)
        for one in good:
            one.result(5)
    assert commits == [[], ["good"], ["good"]]


def test_a_store_that_is_gone_is_gone_for_all_at_once(writer, commits):
    tried = []

    def gone(done):
        tried.append(1)
        raise StoreUnavailableError("gone")

    held = Held(writer)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(writer.submit, gone) for _ in range(3)]
        queued(writer, 3)
        held.let_go()
        for call in calls:
            with pytest.raises(StoreUnavailableError):
                call.result(5)
    assert tried == [1], "not once for each of those who wait"
    assert writer.submit(lambda done: 7) == 7


def test_more_than_may_wait_is_refused_at_once(writer):
    held = Held(writer)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(writer.submit, lambda done: None, 9)
        queued(writer, 1)
        with pytest.raises(StoreUnavailableError, match="9 events are queued and 2 more exceed the limit of 10"):
            writer.submit(lambda done: None, 2)
        held.let_go()
        waiting.result(5)
    assert writer.submit(lambda done: 3, 10) == 3


def test_a_batch_larger_than_the_queue_is_refused_by_the_store(tmp_path):
    store = SqliteStore(tmp_path / "events.db", queue_limit=3)
    with pytest.raises(StoreUnavailableError, match="limit of 3; try again later"):
        store.append([Event(user_id="ann", item_id="a")] * 4, 0.0)
    assert store.append([Event(user_id="ann", item_id="a")] * 3, 0.0) == EventsAnswer(accepted=3, duplicates=0)
    store.close()


def test_a_failing_batch_leaves_nothing_and_the_others_everything(opens):
    store = opens()

    def half(connection):
        store._all(connection, "DELETE FROM events WHERE sequence > ?", [(0,)])
        raise DataError("half way")

    store.append([Event(user_id="ann", item_id="a")], 0.0)
    held = Held(store._writer)
    with ThreadPoolExecutor(2) as threads:
        bad = threads.submit(store._writer.submit, half)
        queued(store._writer, 1)
        good = threads.submit(store.append, [Event(user_id="ann", item_id="b")], 0.0)
        queued(store._writer, 2)
        held.let_go()
        assert good.result(5).accepted == 1
        with pytest.raises(DataError):
            bad.result(5)
    assert [one.item_id for one in opens().histories(["ann"], 9)[0]] == ["a", "b"]


def test_a_closed_writer_takes_nothing(writer):
    writer.close()
    with pytest.raises(ConfigError, match="the store is closed"):
        writer.submit(lambda done: None)


def test_who_no_longer_waits_is_left_out_and_costs_the_others_nothing(writer, commits):
    held = Held(writer)
    begin = lambda name: writer.begin(lambda done, given: [done.append(one) for one in given], name, 1)
    gone, left = begin("gone"), begin("left")
    assert gone.cancel()
    held.let_go()
    left.result(5)
    assert commits == [[], ["left"]]


def test_a_cancelled_append_leaves_a_store_that_takes_more(store):
    async def cancelled_in_every_moment():
        for n in range(100):
            waiting = asyncio.wrap_future(store.appending([Event(user_id="ann", item_id=str(n))], 0.0))
            await asyncio.sleep(n * 2e-5)
            waiting.cancel()

    asyncio.run(cancelled_in_every_moment())
    assert store.append([Event(user_id="bob", item_id="a")], 0.0).accepted == 1
    store.check()


def test_a_writer_that_has_ended_says_so_to_those_who_wait_and_to_those_who_come(store, monkeypatch):
    held = Held(store._writer)
    monkeypatch.setattr(store._writer, "_commit", lambda jobs: jobs[1000])
    waiting = [store.appending([Event(user_id="ann", item_id="a")], 0.0) for _ in range(2)]
    held.let_go()
    for call in (*(one.result for one in waiting), store.check, lambda: store.put_item("a", Item())):
        with pytest.raises(StoreUnavailableError, match="the writer thread has ended; restart the server"):
            call()


def test_commits_that_fail_are_seen_until_one_succeeds(store, monkeypatch, caplog):
    store.append([Event(user_id="ann", item_id="a")], 0.0)
    with pytest.raises(DataError):
        store.append([Event(user_id="ann", item_id="a", weight=float("nan"))], 0.0)
    store.check()
    monkeypatch.setattr(store, "_begin", "BEGIN NOTHING")
    for call in (lambda: store.append([Event(user_id="ann", item_id="a")], 0.0), store.check, store.check):
        with pytest.raises(StoreUnavailableError):
            call()
    assert len([one for one in caplog.records if "commits fail" in one.message]) == 1
    monkeypatch.undo()
    store.check()
