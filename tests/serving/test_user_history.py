"""User histories: complete and in order, whichever worker reads and whatever arrived meanwhile."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from lanner.data.catalogue import Catalogue
from lanner.data.feedback import Feedback
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.errors import StoreUnavailableError
from lanner.serving.catalog import Catalog
from lanner.serving.messages import Event, Item, User
from lanner.serving.store import open_store
from lanner.serving.user_history import UserHistory

NUM_ITEMS = 300
RATED = Feedback(kind="ratings", threshold=3.0, mean=4.0, behaviour_weights={"dislike": 0.0})


def a_dataset(timed=True):
    """ann met items 0 … 3 at 100 … 103, bob item 5; ann's friends are bob and cid."""
    user, item = np.array([0, 0, 0, 0, 1], np.int32), np.array([0, 1, 2, 3, 5], np.int32)
    users, items = IdMap(["ann", "bob", "cid"]), IdMap([f"i{row}" for row in range(NUM_ITEMS)])
    return Dataset(
        Interactions(user, item, np.array([100, 101, 102, 103, 100]) * 10**9 if timed else None),
        users,
        items,
        Catalogue.blank(items.external),
        Catalogue(("likes the sea", "", ""), users.external),
        ties=Ragged.from_lists([[1, 2], [], []]),
    )


class Shop:
    def __init__(self, store, dataset=None, feedback=RATED, **settings):
        self.store, self.dataset = store, dataset or a_dataset()
        self.catalog = Catalog(self.dataset)
        self.history = UserHistory(self.dataset, self.catalog, store, feedback, **settings)

    async def add(self, *events, user="ann", now=1000.0):
        """Events as (item, fields …), stored and made known."""
        self.store.append([Event(user_id=user, item_id=item, **fields) for item, fields in events], now)
        self.history.drop([user])

    async def state(self, user="ann"):
        return self.history.get(user) or await self.history.load(user)


@pytest.fixture
def store(tmp_path):
    made = open_store(str(tmp_path / "events.db"))
    yield made
    made.close()


@pytest.fixture
def shops(store):
    made = []
    yield lambda **settings: made.append(Shop(store, **settings)) or made[-1]
    for one in made:
        one.history.close()


async def test_a_user_of_the_bundle_is_as_the_bundle_says(shops):
    state = await shops().state()
    assert (state.rows.tolist(), state.weights, state.seen.tolist()) == ([0, 1, 2, 3], None, [0, 1, 2, 3])
    assert (state.friends.tolist(), state.profile, state.known) == ([1, 2], "likes the sea", True)
    nobody = await shops().state("zoe")
    assert (nobody.rows.tolist(), nobody.seen.tolist(), nobody.friends.tolist()) == ([], [], [])
    assert (nobody.profile, nobody.known) == (None, False)


async def test_all_that_was_ever_seen_is_seen_however_short_the_history(shops):
    shop = shops(length=50)
    await shop.add(*((f"i{row}", {}) for row in range(4, 250)))
    state = await shop.state()
    assert state.rows.tolist() == list(range(200, 250))
    assert state.seen.tolist() == list(range(250))


async def test_an_item_that_was_not_liked_is_seen_but_speaks_for_nothing(shops):
    shop = shops()
    await shop.add(("i10", {"weight": 1.0}), ("i11", {"weight": 5.0}), ("i12", {"behaviour": "dislike"}), ("i13", {}))
    state = await shop.state()
    assert state.rows.tolist() == [0, 1, 2, 3, 11, 13]
    assert state.weights.tolist() == [1, 1, 1, 1, 1.25, 1]
    assert state.seen.tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


async def test_the_latest_event_of_an_item_decides_as_it_does_in_training(shops):
    dataset = a_dataset()
    confidence = np.array([0, 1, 1, 1, 1], np.float32)
    shop = shops(dataset=replace(dataset, interactions=replace(dataset.interactions, confidence=confidence)))
    assert (await shop.state()).rows.tolist() == [1, 2, 3], "the first was rated 1"
    await shop.add(("i2", {"weight": 1.0}), ("i0", {"weight": 4.0}))
    assert (await shop.state()).rows.tolist() == [1, 3, 0]
    await shop.add(("i2", {}))
    assert (await shop.state()).rows.tolist() == [1, 2, 3, 0, 2]


async def test_an_event_stands_where_its_time_puts_it(shops):
    shop = shops()
    await shop.add(("i20", {"timestamp": 101.5}), ("i21", {"timestamp": 50.0}), ("i22", {}))
    assert (await shop.state()).rows.tolist() == [21, 0, 1, 20, 2, 3, 22]
    untimed = shops(dataset=a_dataset(timed=False))
    assert (await untimed.state()).rows.tolist() == [0, 1, 2, 3, 21, 20, 22]


async def test_an_event_sent_again_changes_nothing(shops):
    shop = shops()
    await shop.add(("i20", {"key": "a"}), ("i21", {"key": "b"}))
    before = (await shop.state()).rows.tolist()
    await shop.add(("i20", {"key": "a"}), ("i20", {"key": "a"}))
    assert (await shop.state()).rows.tolist() == before == [0, 1, 2, 3, 20, 21]


async def test_what_the_bundle_was_trained_on_is_not_counted_twice(shops, store):
    await (shop := shops()).add(*((f"i{row}", {"timestamp": 100.0 + row}) for row in range(4)))
    await shop.add(("i30", {}), user="zoe")
    later = shops(watermark=store.sequence())
    assert (await later.state()).rows.tolist() == [0, 1, 2, 3]
    assert (await later.state("zoe")).rows.tolist() == [30], "the bundle does not know her"
    await later.add(("i1", {}), ("i40", {}))
    assert (await later.state()).rows.tolist() == [0, 1, 2, 3, 1, 40]


async def test_what_a_bundle_knows_of_a_deleted_person_is_passed_over(shops, store):
    shop = shops(watermark=10**9)
    store.put_user("cid", User(ties=["ann", "bob"]))
    store.delete_user("ann")
    shop.history.drop(None)
    state = await shop.state()
    assert (state.rows.tolist(), state.seen.tolist(), state.profile, state.known) == ([], [], None, False)
    assert (await shop.state("cid")).friends.tolist() == [1]
    await shop.add(("i7", {}))
    state = await shop.state()
    assert (state.rows.tolist(), state.known) == ([7], True), "they came back, whatever the watermark"
    store.delete_user("bob")
    assert (await shops().state("ann")).friends.tolist() == []


async def test_profile_and_friends_of_the_store_stand_over_those_of_the_bundle(shops, store):
    shop = shops()
    store.put_user("ann", User(profile="likes war", ties=["cid", "zoe"]))
    state = await shop.state()
    assert (state.profile, state.friends.tolist()) == ("likes war", [2])
    store.put_user("ann", User())
    shop.history.drop(["ann"])
    state = await shop.state()
    assert (state.profile, state.friends.tolist()) == (None, [])


async def test_an_item_that_came_after_its_events_is_seen_from_then_on(shops):
    shop = shops()
    await shop.add(("new", {}), ("i9", {}))
    before = await shop.state()
    assert before.seen.tolist() == [0, 1, 2, 3, 9]
    assert shop.history.get("ann") is before
    shop.catalog.put("new", Item(), NUM_ITEMS)
    after = await shop.state()
    assert (after.seen.tolist(), after.rows.tolist()) == ([0, 1, 2, 3, 9, NUM_ITEMS], [0, 1, 2, 3, NUM_ITEMS, 9])
    shop.catalog.put("i9", Item(), NUM_ITEMS + 1)
    assert shop.history.get("ann") is after, "whose items are all known is read once; rows lead to the new ones"


class SlowStore:
    """A store whose answers take a while, and what they are is decided when they begin."""

    def __init__(self, store, seconds):
        self.store, self.seconds, self.reads = store, seconds, 0

    def read_user(self, *arguments):
        self.reads += 1
        record = self.store.read_user(*arguments)
        time.sleep(self.seconds)
        return record


class TestASlowStore:
    async def test_does_not_hold_up_the_loop_and_is_asked_once_by_many(self, store):
        slow = SlowStore(store, 0.2)
        shop = Shop(slow)
        loads = [asyncio.create_task(shop.history.load("ann")) for _ in range(5)]
        ticks, begun = 0, time.monotonic()
        while not all(load.done() for load in loads):
            await asyncio.sleep(0.005)
            ticks += 1
        assert ticks > 10
        assert time.monotonic() - begun < 0.5
        assert len({id(load.result()) for load in loads}) == slow.reads == 1
        loads = [asyncio.create_task(shop.history.load("bob")) for _ in range(2)]
        await asyncio.sleep(0.01)
        loads[0].cancel()
        assert (await loads[1]).rows.tolist() == [5], "one who waits no longer takes nothing from the other"
        shop.history.close()

    async def test_what_was_read_before_a_change_is_not_kept(self, store):
        shop = Shop(SlowStore(store, 0.1))
        early = asyncio.create_task(shop.history.load("ann"))
        await asyncio.sleep(0.05)
        store.append([Event(user_id="ann", item_id="i50")], 1000.0)
        shop.history.drop(["ann"])
        late = asyncio.create_task(shop.history.load("ann"))
        assert (await early).rows.tolist() == [0, 1, 2, 3]
        assert shop.history.get("ann") is None
        assert (await late).rows.tolist() == [0, 1, 2, 3, 50]
        assert shop.history.get("ann") is late.result()
        early = asyncio.create_task(shop.history.load("bob"))
        await asyncio.sleep(0.05)
        shop.history.drop(None)
        await early
        assert len(shop.history) == 0
        shop.history.close()

    async def test_that_does_not_answer_is_given_up(self, store, monkeypatch):
        monkeypatch.setattr("lanner.serving.user_history._READ_SECONDS", 0.05)
        shop = Shop(SlowStore(store, 0.3))
        loads = await asyncio.gather(*(shop.history.load("ann") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in loads] == [StoreUnavailableError] * 3
        assert len(shop.history) == 0
        shop.history.close()


async def test_while_the_store_is_away_nothing_new_is_said_of_anybody(shops, store):
    shop = shops()
    await shop.state("bob")
    store.read_user = lambda *_: (_ for _ in ()).throw(StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await shop.state()
    assert (await shop.state("bob")).rows.tolist() == [5]


async def test_memory_is_bounded_by_users_and_by_bytes_and_its_size_is_known(shops):
    shop = shops(most_users=2)
    for user in ("ann", "bob", "ann", "cid"):
        await shop.state(user)
    assert len(shop.history) == 2
    assert shop.history.get("bob") is None, "not asked for longest"
    assert shop.history.held_bytes == sum(shop.history.get(one).num_bytes for one in ("ann", "cid"))
    await shop.add(*((f"i{row}", {"weight": 5.0}) for row in range(200)))
    before = shop.history.held_bytes
    state = await shop.state()
    assert shop.history.held_bytes == before + state.num_bytes
    assert state.num_bytes > 12 * 200
    shop.history.drop(None)
    assert (shop.history.held_bytes, len(shop.history)) == (0, 0)
    small = shops(most_bytes=2500)
    for user in ("ann", "bob", "cid", "zoe"):
        await small.state(user)
    assert len(small.history) == 2
    assert small.history.held_bytes <= 2500
    versions = {small.history.get(one).version for one in ("cid", "zoe")}
    small.history.drop(["cid"])
    assert (await small.state("cid")).version not in versions
