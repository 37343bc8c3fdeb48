"""The contract of every store, whatever the backend."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from lanner.errors import ConfigError, DataError
from lanner.serving.messages import Changed, Event, EventsAnswer, Item, User
from lanner.serving.store import Exposure, Store, StoredEvent, UserRecord
from lanner.serving.store.retention import Retention, RetentionConfig

NOW = 1_700_000_000.0
DAY = 86_400.0


def event(user="ann", item="sea", **fields):
    return Event(user_id=user, item_id=item, **fields)


def items_of(store, user="ann", limit=100):
    return [one.item_id for one in store.histories([user], limit)[0]]


class TestEvents:
    def test_what_was_appended_is_read_by_another(self, opens):
        first, second = opens(), opens()
        answer = first.append([event(weight=2.5, behaviour="buy", timestamp=NOW - 5), event(item="war")], NOW)
        assert answer == EventsAnswer(accepted=2, duplicates=0)
        (one, two), none = second.histories(["ann", "bob"], 10)
        assert one == StoredEvent(one.sequence, "sea", "buy", 2.5, NOW - 5)
        assert two == StoredEvent(two.sequence, "war", "interaction", None, NOW)
        assert one.sequence < two.sequence
        assert none == []

    def test_a_key_counts_once_within_a_batch_across_batches_and_after_a_restart(self, opens):
        store = opens()
        batch = [event(key="a"), event(key="a"), event(key="b"), event()]
        assert store.append(batch, NOW) == EventsAnswer(accepted=3, duplicates=1)
        assert store.append(batch, NOW) == EventsAnswer(accepted=1, duplicates=3)
        store.close()
        assert opens().append(batch, NOW) == EventsAnswer(accepted=1, duplicates=3)
        assert opens().stats().events == 5

    def test_callers_who_share_a_commit_are_each_told_of_their_own(self, store):
        gate = threading.Event()
        holding = threading.Thread(target=store._writer.submit, args=(lambda connection: gate.wait(5),))
        holding.start()
        while store._writer._queue:
            time.sleep(0.001)
        commits = store._writer.commits + 1
        batches = [[event(key="a")] * 2, [event(key="b", user=f"u{n}") for n in range(3)], [], [event()] * 150]
        batches += [[event(key="a"), event(key="c")], [event(user="zoe")]]
        waiting = [store.appending(batch, NOW) for batch in batches]
        gate.set()
        told = [(one.result().accepted, one.result().duplicates) for one in waiting]
        holding.join()
        assert told == [(1, 1), (1, 2), (0, 0), (150, 0), (1, 1), (1, 0)]
        assert store._writer.commits == commits + 1
        assert (store.stats().events, len(items_of(store, limit=200)), len(items_of(store, "u0"))) == (154, 152, 1)

    def test_a_history_is_the_newest_events_oldest_first(self, store):
        store.append([event(item=str(n), timestamp=NOW - n) for n in range(20)], NOW)
        assert items_of(store, limit=3) == ["2", "1", "0"]
        assert [[one.item_id for one in user] for user in store.histories(["bob", "ann", "ann"], 1)] == [
            [],
            ["0"],
            ["0"],
        ]
        assert store.histories([], 5) == []

    def test_equal_times_keep_the_order_of_arrival(self, store):
        for item in "abc":
            store.append([event(item=item, timestamp=NOW), event(item=item * 2, timestamp=NOW)], NOW)
        assert items_of(store) == ["a", "aa", "b", "bb", "c", "cc"]

    def test_a_clock_set_back_does_not_reorder(self, store):
        for item, received in (("a", NOW), ("b", NOW - 30), ("c", NOW - 29), ("d", NOW + 1)):
            store.append([event(item=item)], received)
        assert items_of(store) == ["a", "b", "c", "d"]

    def test_a_clock_that_ran_ahead_and_was_set_right_is_followed(self, store):
        for item, received in (("a", NOW), ("ahead", NOW + 7200), ("b", NOW + 1), ("c", NOW + 2)):
            store.append([event(item=item)], received)
        assert [one.timestamp - NOW for one in store.histories(["ann"], 9)[0]] == [0, 1, 2, 7200]

    def test_an_event_from_the_future_has_the_time_of_its_receipt(self, store):
        store.append([event(item="a", timestamp=NOW + 1e6), event(item="b", timestamp=NOW + 59)], NOW)
        assert [one.timestamp for one in store.histories(["ann"], 9)[0]] == [NOW, NOW + 59]
        assert store.stats().future_timestamps == 1

    @pytest.mark.parametrize(
        "bad", [event(user="a\0b"), event(item="\ud800"), event(weight=float("nan")), event(timestamp=float("inf"))]
    )
    def test_what_cannot_be_stored_is_refused_whole(self, bad, store):
        with pytest.raises(DataError):
            store.append([event(), bad], NOW)
        assert store.stats().events == 0

    def test_no_events_are_no_error(self, store):
        assert store.append([], NOW) == EventsAnswer(accepted=0, duplicates=0)

    def test_a_history_of_nothing_is_a_mistake(self, store):
        with pytest.raises(ConfigError, match="limit is 0"):
            store.histories(["ann"], 0)

    def test_many_callers_at_once_on_two_servers(self, opens):
        stores = [opens(), opens()]

        def call(caller):
            batches = [[event(f"u{caller}", f"{n}", timestamp=NOW, key=f"{caller}.{n}")] * 2 for n in range(15)]
            return [stores[caller % 2].append(batch, NOW) for batch in batches]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(call, range(8)))
        assert all(one == EventsAnswer(accepted=1, duplicates=1) for caller in answers for one in caller)
        assert items_of(stores[0], "u3") == items_of(stores[1], "u3") == [str(n) for n in range(15)]
        assert stores[0].stats().events == 120

    def test_all_events_come_in_bounded_batches(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_BATCH", 7)
        store.append([event(item=str(n), weight=n / 2, timestamp=NOW - n) for n in range(20)], NOW)
        batches = list(store.events())
        assert [len(batch) for batch in batches] == [7, 7, 6]
        rows = [row for batch in batches for row in batch]
        assert [(row.user_id, row.item_id, row.weight) for row in rows] == [("ann", str(n), n / 2) for n in range(20)]


class TestItems:
    def test_changes_are_replayed_in_order_with_tombstones(self, opens):
        store = opens()
        full = Item(title="The Sea", text="slow „Meer“", attributes={"genre": ["drama", "war"]})
        assert store.put_item("a", Item(title="first")) == Changed(id="a", existed=False)
        assert store.put_item("b", Item()) == Changed(id="b", existed=False)
        assert store.put_item("a", full) == Changed(id="a", existed=True)
        assert store.delete_item("b") == Changed(id="b", existed=True)
        assert store.delete_item("c") == Changed(id="c", existed=False)
        changes = opens().item_changes(0)
        assert [(one.id, one.item) for one in changes] == [("a", full), ("b", None), ("c", None)]
        assert [one.id for one in store.item_changes(changes[1].sequence)] == ["c"]
        assert store.item_changes(changes[2].sequence) == []
        assert store.put_item("b", Item()) == Changed(id="b", existed=False)
        assert store.stats().items == 2

    def test_what_a_change_leaves_empty_stays_until_the_item_is_deleted(self, store):
        full = Item(title="The Sea", text="slow", attributes={"genre": ["drama", "war"]})
        store.put_item("a", full)
        store.put_item("a", Item(available=False))
        assert store.item_changes(0)[0].item == replace(full, available=False)
        store.put_item("a", Item(title="Sea", attributes={"genre": ["war"]}))
        assert store.item_changes(0)[0].item == Item(title="Sea", text="slow", attributes={"genre": ["war"]})
        store._change("UPDATE items SET body = ? WHERE id = ?", [("not JSON", "a")])
        store.put_item("a", Item(text="anew"))
        assert store.item_changes(0)[0].item == Item(text="anew")
        store.delete_item("a")
        store.put_item("a", Item())
        assert store.item_changes(0)[0].item == Item()

    def test_what_cannot_be_read_is_counted_and_costs_nothing_else(self, store, caplog):
        for id in ("a", "b", "c"):
            store.put_item(id, Item(title=id))
        store._change("UPDATE items SET body = ? WHERE id = ?", [('{"title": 3}', "a"), ("not JSON", "c")])
        for _ in range(2):
            assert [one.id for one in store.item_changes(0)] == ["b"]
        assert store.stats().unreadable_items == 2
        assert len([one for one in caplog.records if "skipping unreadable item" in one.message]) == 2

    @pytest.mark.parametrize("bad", [Item(title="a\0"), Item(text="\udc00"), Item(attributes={"genre": ["\ud800"]})])
    def test_what_cannot_be_stored_is_refused(self, bad, store):
        with pytest.raises(DataError, match="send valid UTF-8 text"):
            store.put_item("a", bad)


class TestUsers:
    def test_a_user_is_read_as_written(self, opens):
        store = opens()
        assert store.user("ann") is None
        assert store.put_user("ann", User(profile="old", ties=["bob"])) == Changed(id="ann", existed=False)
        new = User(profile="likes the sea", ties=["cid", "bob", "ann"])
        assert store.put_user("ann", new) == Changed(id="ann", existed=True)
        assert opens().user("ann") == new
        assert store.user("bob") is None
        assert store.put_user("bob", User(ties=["x", "x"])).existed is False
        assert store.user("bob") == User(ties=["x"])

    def test_to_delete_removes_every_trace(self, opens):
        store = opens()
        store.append([event(key="k"), event("bob")], NOW)
        store.put_user("ann", User(profile="p", ties=["bob"]))
        store.put_user("bob", User(ties=["ann", "cid"]))
        store.expose([Exposure("x", "a", "ann", NOW, ["1"]), Exposure("x", "b", "bob", NOW, ["2"])])
        assert store.delete_user("ann") == Changed(id="ann", existed=True)
        other = opens()
        assert other.histories(["ann"], 9) == [[]]
        assert other.user("ann") is None
        assert other.user("bob") == User(ties=["cid"])
        assert [one.user_id for one in other.exposures("x")] == ["bob"]
        assert [row.user_id for batch in other.events() for row in batch] == ["bob"]
        assert store.delete_user("ann") == Changed(id="ann", existed=False)
        assert store.read_user("bob", ["ann", "cid"]).deleted == {"ann"}
        assert store.append([event(key="k")], NOW).accepted == 1
        assert other.read_user("ann").deleted == {"ann"}
        assert items_of(store) == ["sea"]
        assert store.stats().users == 3

    def test_all_of_a_user_is_read_in_one_call(self, store):
        store.append([event(item=str(n), timestamp=NOW - n) for n in range(200)], NOW)
        store.put_user("ann", User(profile="p", ties=["bob", "cid"]))
        store.delete_user("cid")
        store.put_user("ann", User(profile="p", ties=["bob", "cid"]))
        record = store.read_user("ann", ["dan"])
        assert record.events == store.histories(["ann"], 1000)[0]
        assert len(record.events) == 200
        assert record.user == store.user("ann")
        assert record.deleted == {"cid"}
        assert store.deleted_users(["ann", "cid", "dan"]) == {"cid"}
        assert store.deleted_users([]) == frozenset()
        assert store.read_user("eve") == UserRecord([], None, frozenset())

    def test_changed_users_are_named_until_somebody_is_deleted(self, opens):
        store, other = opens(), opens()
        start, _ = other.changed_users(0)
        store.append([event(), event("bob"), event()], NOW)
        middle, ids = other.changed_users(start)
        assert sorted(ids) == ["ann", "bob"]
        store.put_user("cid", User(ties=["ann"]))
        store.put_item("sea", Item())
        end, ids = other.changed_users(middle)
        assert ids == ["cid"]
        assert other.changed_users(end) == (end, [])
        store.delete_user("bob")
        last, ids = other.changed_users(end)
        assert ids is None
        assert other.changed_users(last) == (last, [])
        assert store.sequence() == other.sequence() == last

    def test_too_many_changes_are_not_listed(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational.MOST_CHANGES", 10)
        store.append([event() for _ in range(11)], NOW)
        now, ids = store.changed_users(0)
        assert ids is None
        assert store.changed_users(now - 10) == (now, ["ann"])
        assert store.changed_users(now + 5) == (now, None), "a number of another store"


def test_exposures_are_read_as_logged(store, monkeypatch):
    monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_BATCH", 2)
    rows = [Exposure("x", "ab"[n % 2], f"u{n}", NOW + n, [str(n), "é"]) for n in range(5)]
    store.expose(rows[:3])
    store.expose([Exposure("y", "a", "u", NOW, [])])
    store.expose(rows[3:])
    assert list(store.exposures("x")) == rows
    assert list(store.exposures("z")) == []


class TestRetention:
    def test_old_events_go(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_DELETE", 3)
        now = time.time()
        store.append([event(item=str(n), timestamp=now - n * DAY, key=str(n)) for n in range(10)], now)
        assert store.compact(4.5, None) == 5
        assert items_of(store) == ["4", "3", "2", "1", "0"]
        assert store.changed_users(10)[1] is None, "what others hold of these users is older than the store"
        assert store.append([event(item="9", key="9"), event(key="0")], now).accepted == 1

    def test_what_was_shown_long_ago_goes(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_DELETE", 3)
        now = time.time()
        rows = [Exposure("x", "a", f"u{n}", now - n * DAY, [str(n)]) for n in range(10)]
        store.expose(rows)
        store.append([event(timestamp=now)], now)
        assert store.compact(None, 1) == 0
        assert list(store.exposures("x")) == rows
        assert store.compact(4.5, None) == 0
        assert list(store.exposures("x")) == rows[:5]

    def test_long_histories_are_cut(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational._PEOPLE_PER_QUERY", 2)
        monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_DELETE", 2)
        for user, count in (("ann", 6), ("bob", 3), ("cid", 5), ("dan", 4)):
            store.append([event(user, str(n), timestamp=NOW) for n in range(count)], NOW)
        assert store.compact(None, 3) == 6
        assert [len(one) for one in store.histories(["ann", "bob", "cid", "dan"], 9)] == [3, 3, 3, 3]
        assert items_of(store) == ["3", "4", "5"]
        assert store.compact(None, None) == 0

    def test_what_a_server_keeps_is_what_it_was_told_to(self, store):
        now = time.time()
        for user in ("ann", "bob"):
            store.append([event(user, str(n), timestamp=now - n * DAY) for n in range(10)], now)
        nothing = Retention(store, RetentionConfig())
        assert not nothing.config.deletes
        assert nothing.figures() == {}
        retention = Retention(store, RetentionConfig(days=7.5, events_per_user=3))
        retention.run()
        assert items_of(store, "bob") == ["2", "1", "0"]
        retention.run()
        figures = retention.figures()
        assert figures["retention_deleted_events"] == 14
        assert figures["retention_finished_time"] == pytest.approx(time.time(), abs=5)

    def test_no_transaction_deletes_more_than_the_bound_and_appends_come_between(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_DELETE", 10)
        store.append([event(item=str(n), timestamp=NOW + n) for n in range(100)], NOW + 100)
        deleted, change = [], store._change

        def watched(statement, values):
            deleted.append(change(statement, values))
            store.append([event("bob", str(len(deleted)))], NOW)
            return deleted[-1]

        monkeypatch.setattr(store, "_change", watched)
        assert store.compact(None, 25) == 75
        assert deleted == [10] * 7 + [5]
        assert items_of(store) == [str(n) for n in range(75, 100)]
        assert len(items_of(store, "bob")) == 8

    @pytest.mark.parametrize("bad", [{"days": -1}, {"events_per_user": -1}, {"every_minutes": 0}])
    def test_a_retention_of_nonsense_is_refused(self, bad):
        with pytest.raises(ConfigError, match=f"retention.{next(iter(bad))} is"):
            RetentionConfig(**bad)

    @pytest.mark.parametrize("bad", [(-1, None), (None, 0), (float("nan"), None)])
    def test_nonsense_is_refused(self, bad, store):
        with pytest.raises(ConfigError, match="keep_"):
            store.compact(*bad)


def test_figures(store):
    empty = store.stats()
    assert (empty.events, empty.users, empty.items, empty.commit_milliseconds) == (0, 0, 0, 0)
    store.append([event(), event("bob")], NOW)
    stats = store.stats()
    assert (stats.events, stats.users, stats.batches_per_commit) == (2, 2, 1)
    assert stats.commit_milliseconds > 0
    assert stats.bytes_on_disk > 10_000
    store.check()


def test_closing_commits_what_waits_and_then_every_method_says_so(opens):
    store = opens()
    begun, release = threading.Event(), threading.Event()

    def slow(connection):
        begun.set()
        release.wait(5)

    with ThreadPoolExecutor(3) as threads:
        held = threads.submit(store._writer.submit, slow)
        begun.wait(5)
        waiting = threads.submit(store.append, [event()], NOW)
        while not store._writer._queue:
            time.sleep(0.001)
        closing = threads.submit(store.close)
        release.set()
        for future in (held, waiting, closing):
            future.result(5)
    store.close()
    assert items_of(opens()) == ["sea"]
    calls = {
        "append": ([event()], NOW),
        "appending": ([event()], NOW),
        "histories": (["ann"], 1),
        "put_item": ("a", Item()),
        "delete_item": ("a",),
        "item_changes": (0,),
        "put_user": ("a", User()),
        "user": ("a",),
        "read_user": ("a",),
        "deleted_users": (["a"],),
        "delete_user": ("a",),
        "sequence": (),
        "changed_users": (0,),
        "expose": ([Exposure("x", "a", "u", NOW, [])],),
        "compact": (1.0, 1),
        "stats": (),
        "check": (),
    }
    for name, arguments in calls.items():
        with pytest.raises(ConfigError, match=r"the store is closed; open it again"):
            getattr(store, name)(*arguments)
    public = {name for name in dir(Store) if name[0] != "_"}
    assert public == {*calls, "events", "exposures", "listen", "close"}
    for iterator in (store.events(), store.exposures("x")):
        with pytest.raises(ConfigError, match="is closed"):
            next(iterator)
