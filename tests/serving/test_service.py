"""The whole service except HTTP: a trained bundle, a store on disk, and everything between."""

import asyncio
import concurrent.futures
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from running import PATIENT, events, ids, recommended, running, service_of
from small_shop import WORDS

from lanner.errors import BundleError, ConfigError, OverloadedError, RequestError, StoreUnavailableError, UnknownIdError
from lanner.serving.messages import ExplainRequest, Filters, Item, RecommendRequest, User
from lanner.serving.store import open_store
from lanner.serving.store.retention import RetentionConfig
from lanner.serving.worker_sync import WorkerSync

EVERYTHING = {f"i{row}" for row in range(60)}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "events.db"


async def test_reasons_add_up_to_the_score_and_every_part_has_a_name(shop, store):
    async with running(shop, store) as service:
        for request in (
            RecommendRequest(user_id="u3", explain=True, k=5),
            RecommendRequest(history=["i1", "i2"], explain=True, k=5),
            RecommendRequest(history=[f"i{row}" for row in range(20)], explain=True, k=5),
            RecommendRequest(text=" ".join(WORDS[20:30]), explain=True, k=5),
            RecommendRequest(user_id="u3", text=WORDS[5], explain=True, k=5),
        ):
            answer = await service.recommend(request)
            assert [item.rank for item in answer.items] == [1, 2, 3, 4, 5]
            for item in answer.items:
                assert sum(reason.value for reason in item.reasons) == pytest.approx(item.score, abs=1e-3)
                assert all(reason.name for reason in item.reasons)
                assert item.title not in [reason.name for reason in item.reasons if reason.kind == "history"]
                assert "signal" not in item.because
            kinds = {reason.kind for item in answer.items for reason in item.reasons}
            assert ("query" in kinds) == (request.text is not None)
            assert answer.served.variant == "full"


async def test_a_score_is_explained_though_the_item_would_not_be_listed(shop, store):
    async with running(shop, store) as service:
        answer = await service.explain(ExplainRequest(item_id="i55", user_id="u1"))
        assert answer.item.item_id == "i55"
        assert sum(reason.value for reason in answer.item.reasons) == pytest.approx(answer.item.score, abs=1e-3)
        assert not answer.fallback
        assert (await service.explain(ExplainRequest(item_id="i55", user_id="nobody"))).fallback


async def test_an_answer_knows_of_the_event_of_a_moment_ago(shop, store):
    async with running(shop, store) as service:
        first = await service.recommend(RecommendRequest(user_id="u3"))
        again = await service.recommend(RecommendRequest(user_id="u3"))
        assert ids(again) == ids(first)
        assert (first.served.cached, again.served.cached) == (False, True)
        await events(service, "u3", ids(first)[0])
        after = await service.recommend(RecommendRequest(user_id="u3"))
        assert not after.served.cached
        assert ids(first)[0] not in ids(after)
        assert ids(first)[0] in await recommended(service, "u3", exclude_seen=False, k=60)


@pytest.mark.parametrize("variants", [("full",), ("int8",), ("popularity",)])
async def test_nothing_that_was_ever_seen_is_recommended_by_any_variant(shop, store, variants):
    met = [f"i{row}" for row in range(55)]
    async with running(shop, store, PATIENT, variants) as service:
        await events(service, "reader", *met, *["i0"] * 60)
        for item_id in met[-10:]:
            await events(service, "reader", item_id)
        assert set(await recommended(service, "reader", k=60)) == EVERYTHING - set(met)
        assert set(await recommended(service, history=met, k=60)) == EVERYTHING - set(met)


async def test_a_user_without_a_signal_gets_popular_items_and_is_told_so(shop, store):
    async with running(shop, store) as service:
        [deployment] = service._deployments.all()
        popularity = deployment.rankers["full"].model.popularity_I
        most = [deployment.dataset.items.external[row] for row in np.argsort(-popularity, kind="stable")]
        for request in (
            RecommendRequest(user_id="nobody", k=60),
            RecommendRequest(history=[], k=60),
            RecommendRequest(history=["unheard"], k=60),
        ):
            answer = await service.recommend(request)
            assert answer.fallback
            assert ids(answer) == most
        assert not (await service.recommend(RecommendRequest(user_id="u1"))).fallback


async def test_unknown_ids_are_named(shop, store):
    async with running(shop, store) as service:
        assert (await service.recommend(RecommendRequest(user_id="nobody"))).unknown == ["nobody"]
        filters = Filters(allow=["i1", "i2", "what"], deny=["ever"])
        request = RecommendRequest(history=["i5", "unheard", "gone"], filters=filters)
        assert (await service.recommend(request)).unknown == ["unheard", "gone", "what", "ever"]
        assert (await service.explain(ExplainRequest(item_id="i1", history=["unheard"]))).unknown == ["unheard"]
        assert (await service.recommend(RecommendRequest(user_id="u1"))).unknown == []
        await events(service, "nobody", "i1")
        assert (await service.recommend(RecommendRequest(user_id="nobody"))).unknown == []
        for question in (
            service.similar_items("unheard", 3),
            service.explain(ExplainRequest(item_id="unheard", user_id="u1")),
        ):
            with pytest.raises(UnknownIdError, match="unknown item 'unheard'"):
                await question


async def test_attributes_of_an_unknown_user_act_and_unknown_ones_are_named(shop, store):
    async with running(shop, store) as service:
        [deployment] = service._deployments.all()
        assert deployment.rankers["full"].reads_attributes
        answers = [
            await service.recommend(RecommendRequest(attributes={"club": [club]}, k=60, explain=True))
            for club in ("club0", "club1", "club2")
        ]
        assert not any(answer.fallback or answer.unknown for answer in answers)
        assert len({tuple(ids(answer)) for answer in answers}) == 3
        assert "attributes" in {reason.kind for reason in answers[0].items[0].reasons}
        unheard = RecommendRequest(user_id="u1", attributes={"club": ["chess"], "shoes": ["44"]})
        assert (await service.recommend(unheard)).unknown == ["club: chess", "shoes: 44"]
        assert (await service.recommend(RecommendRequest(attributes={"club": ["chess"]}))).fallback
        explained = await service.explain(ExplainRequest(item_id="i1", attributes={"club": ["club0"]}))
        assert sum(reason.value for reason in explained.item.reasons) == pytest.approx(explained.item.score, abs=1e-3)


@pytest.mark.parametrize("variants", [("full",), ("popularity",)])
async def test_an_item_that_is_hidden_and_shown_again_keeps_what_is_known_of_it(shop, store, variants):
    async def shown(service, **request):
        answer = await service.recommend(RecommendRequest(history=["i1"], k=60, **request))
        return {(item.item_id, item.title, round(item.score, 4)) for item in answer.items}

    shelf = Filters(attributes={"shelf": ["shelf0"]})
    async with running(shop, store, PATIENT, variants) as service:
        before, held = await shown(service), await shown(service, filters=shelf)
        changed = sorted(item_id for item_id, *_ in held)[:3]
        for item_id in changed:
            await service.put_item(item_id, Item(available=False))
        assert {item_id for item_id, *_ in before - await shown(service)} == set(changed)
        for item_id in changed:
            await service.put_item(item_id, Item(available=True))
        assert await shown(service) == before
    async with running(shop, store, PATIENT, variants) as service:
        assert (await shown(service), await shown(service, filters=shelf)) == (before, held)


async def test_a_new_item_that_is_hidden_and_shown_again_keeps_its_text(shop, store):
    async with running(shop, store) as service:
        await service.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        before = await service.search(" ".join(WORDS[:6]), 60, None)
        await service.put_item("fresh", Item(available=False))
        assert "fresh" not in await recommended(service, text=WORDS[0], k=61)
        await service.put_item("fresh", Item())
        after = await service.search(" ".join(WORDS[:6]), 60, None)
        assert [(one.title, one.score) for one in after.items] == [(one.title, one.score) for one in before.items]


async def test_a_text_acts_or_the_answer_says_that_nothing_reads_it(shop, store, tmp_path):
    texts = [" ".join(WORDS[first : first + 8]) for first in (0, 12, 24)]
    for variants in (("full",), ("int8",)):
        async with running(shop, store, PATIENT, variants) as service:
            for who in ({"user_id": "u1"}, {}):
                answers = [await service.recommend(RecommendRequest(text=text, k=60, **who)) for text in texts]
                assert len({tuple(ids(answer)) for answer in answers}) == 3
                assert not any(answer.text_ignored or answer.fallback for answer in answers)
    async with running(shop, tmp_path / "other.db", PATIENT, ("popularity",)) as service:
        answer = await service.recommend(RecommendRequest(user_id="u1", text=texts[0]))
        assert answer.text_ignored
        assert not (await service.status()).reads_texts
        with pytest.raises(RequestError, match="does not use texts"):
            await service.search("w3", 3, None)
        with pytest.raises(RequestError, match="does not use texts"):
            await service.put_item("fresh", Item(title="Fresh"))


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (RecommendRequest(), "one of user_id, history, text or attributes is required"),
        (RecommendRequest(user_id="u1", history=["i1"]), "either user_id or history"),
        (RecommendRequest(user_id="u1", filters=Filters(attributes={"shelv": ["shelf1"]})), "did you mean 'shelf'"),
    ],
)
async def test_a_contradictory_request_is_the_caller_s_fault(shop, store, request_, line):
    async with running(shop, store) as service:
        with pytest.raises(RequestError, match=line):
            await service.recommend(request_)


async def test_filters_hold_and_one_that_excludes_everything_leaves_nothing(shop, store):
    async with running(shop, store) as service:

        async def shown(**filters):
            return set(await recommended(service, "u2", k=60, exclude_seen=False, filters=Filters(**filters)))

        assert await shown(attributes={"shelf": ["shelf1"]}) == {f"i{row}" for row in range(20, 40)}
        assert await shown(allow=["i3", "i4", "unheard"], deny=["i4"]) == {"i3"}
        assert await shown(attributes={"shelf": ["shelf2"]}, allow=["i3"]) == set()
        assert await shown(allow=[]) == set()
        assert await shown(deny=[f"i{row}" for row in range(1, 60)] * 100) == {"i0"}


async def test_events_items_and_deletions_outlive_a_restart(shop, store):
    async with running(shop, store) as service:
        answer = await service.recommend(RecommendRequest(user_id="u3", exclude_seen=False, explain=True))
        assert any(reason.kind == "history" for reason in answer.items[0].reasons)
        await events(service, "new", "i7", key="k1")
        assert not (await service.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))).existed
        assert (await service.delete_item("i9")).existed
        assert (await service.delete_user("u3")).existed
        assert (await service.recommend(RecommendRequest(user_id="u3"))).fallback
    async with running(shop, store) as service:
        again = await events(service, "new", "i7", key="k1")
        assert (again.accepted, again.duplicates) == (0, 1)
        assert "i7" not in await recommended(service, "new", k=60)
        assert set(await recommended(service, "nobody", k=100)) == EVERYTHING - {"i9"} | {"fresh"}
        answer = await service.recommend(RecommendRequest(user_id="u3"))
        assert (answer.fallback, answer.unknown) == (True, ["u3"])
        assert not (await service.delete_user("u3")).existed


async def test_a_new_item_is_found_by_its_text_at_once_and_by_its_new_text_later(shop, store):
    async with running(shop, store) as service:
        await service.put_item("fresh", Item(title="First", text=" ".join(WORDS[20:28]), attributes={"shelf": ["odd"]}))
        assert ids(await service.search(" ".join(WORDS[20:28]), 3, None))[0] == "fresh"
        only = Filters(attributes={"shelf": ["odd"]})
        assert await recommended(service, "u1", filters=only) == ["fresh"]
        await events(service, "u1", "fresh")
        assert await recommended(service, "u1", filters=only) == []
        await service.put_item("fresh", Item(title="Second", text=" ".join(WORDS[:8])))
        found = await service.search(" ".join(WORDS[:8]), 1, "u1")
        assert (found.items[0].item_id, found.items[0].title) == ("fresh", "Second")
        assert "fresh" not in await recommended(service, "u1", k=100)
        assert "fresh" not in ids(await service.similar_items("fresh", 60))
        await service.delete_item("fresh")
        assert "fresh" not in ids(await service.search(" ".join(WORDS[:8]), 60, None))
        with pytest.raises(UnknownIdError, match="unknown item 'fresh'"):
            await service.similar_items("fresh", 4)


async def test_items_are_added_though_the_full_variant_is_not_served(shop, store):
    async with running(shop, store, PATIENT, ("int8", "popularity")) as service:
        await service.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        await service.put_item("i3", Item(title="Anew", text=" ".join(WORDS[20:28])))
        answer = await service.recommend(RecommendRequest(user_id="nobody", k=100))
        assert answer.served.variant == "int8"
        assert set(ids(answer)) == EVERYTHING | {"fresh"}
        assert ids(await service.search(" ".join(WORDS[:6]), 5, None))[0] == "fresh"


async def test_an_item_that_went_and_came_again_is_still_known_to_have_been_seen(shop, store):
    async with running(shop, store) as service:
        met = EVERYTHING - set(await recommended(service, "u3", k=60))
        assert met
        for item_id in met:
            await service.delete_item(item_id)
            assert not (await service.put_item(item_id, Item(title="Again", text=WORDS[3]))).existed
        assert not met & set(await recommended(service, "u3", k=60))


async def test_an_item_that_cannot_be_taken_in_is_refused_before_it_is_stored(shop, store, monkeypatch):
    async with running(shop, store, PATIENT, ("popularity",)) as service:
        with pytest.raises(RequestError):
            await service.put_item("fresh", Item(title="Fresh"))
        assert service.store.item_changes(0) == []


async def test_a_start_survives_whatever_the_store_holds(shop, store):
    opened = open_store(str(store))
    opened.put_item("fresh", Item(title="Fresh"))
    opened.delete_item("i9")
    opened.close()
    async with running(shop, store, PATIENT, ("popularity",)) as service:
        assert set(await recommended(service, "nobody", k=100)) == EVERYTHING - {"i9"}
        health = await service.health()
        assert health.ready
        assert health.degraded == ["1 items could not be ingested; see the log"]
        assert service.state().background["items_failed"] == 1


async def test_a_replayed_event_changes_no_answer_and_events_are_ordered_by_their_time(shop, store):
    async with running(shop, store) as service:
        await events(service, "new", "i7", key="k1", timestamp=100.0)
        before = await recommended(service, "new", k=60)
        answer = await events(service, "new", "i30", key="k1", timestamp=200.0)
        assert (answer.accepted, answer.duplicates) == (0, 1)
        assert await recommended(service, "new", k=60) == before
        await events(service, "new", "i8", timestamp=50.0)
        [deployment] = service._deployments.all()
        state = deployment.histories.get("new") or await deployment.histories.load("new")
        assert [title for _, title in deployment.catalog.named(state.rows)] == [
            deployment.catalog.title(deployment.catalog.row(one)) for one in ("i8", "i7")
        ]


async def test_a_write_whose_caller_is_gone_is_known_to_memory(shop, store, monkeypatch):
    async with running(shop, store) as service:
        first = await recommended(service, "u3")
        appending = service.store.appending
        begun, go_on = threading.Event(), threading.Event()

        def slowly(*arguments):
            begun.set()
            return appending(*arguments)

        monkeypatch.setattr(service.store, "appending", slowly)
        task = asyncio.create_task(events(service, "u3", first[0]))
        while not begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        go_on.set()
        async with asyncio.timeout(10):
            while first[0] in await recommended(service, "u3"):
                await asyncio.sleep(0.01)
        assert (await events(service, "u3", first[1])).accepted == 1
        assert not {*first[:2]} & {*await recommended(service, "u3")}


async def test_cancelling_one_of_equal_requests_leaves_the_others(shop, store):
    async with running(shop, store) as service:
        request = RecommendRequest(user_id="u5", explain=True)
        tasks = [asyncio.create_task(service.recommend(request)) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert len({tuple(ids(answer)) for answer in answers[1:]}) == 1


async def test_equal_requests_at_the_same_time_are_ranked_once(shop, store, monkeypatch):
    async with running(shop, store) as service:
        [deployment] = service._deployments.all()
        ranked, rank = [], deployment.rankers["full"].rank
        monkeypatch.setattr(deployment.rankers["full"], "rank", lambda queries: ranked.extend(queries) or rank(queries))
        answers = await asyncio.gather(*(recommended(service, "u5") for _ in range(20)))
        assert len(ranked) == 1
        assert len(set(map(tuple, answers))) == 1


async def test_a_slow_store_does_not_hold_up_the_loop_nor_users_in_memory(shop, store, monkeypatch):
    async with running(shop, store) as service:
        await recommended(service, "u1")
        read = service.store.read_user
        monkeypatch.setattr(service.store, "read_user", lambda *arguments: time.sleep(0.3) or read(*arguments))
        monkeypatch.setattr(service.store, "check", lambda: time.sleep(0.3))
        slow = [asyncio.create_task(recommended(service, "u2")), asyncio.create_task(service.health())]
        longest = 0.0
        while not all(task.done() for task in slow):
            begun = time.perf_counter()
            await recommended(service, "u1", k=20)
            await asyncio.sleep(0.002)
            longest = max(longest, time.perf_counter() - begun)
        assert longest < 0.15


async def test_a_request_that_cannot_be_in_time_is_rejected_and_told_when_to_come_back(shop, store):
    async with running(shop, store) as service:
        with pytest.raises(OverloadedError, match="overloaded") as rejected:
            await service.recommend(RecommendRequest(user_id="u1", deadline_ms=0.001))
        assert 0 < rejected.value.retry_after_s <= 60
        assert len(await recommended(service, "u1")) == 10
        status = await service.status()
        assert status.variants == ["full", "int8", "popularity"]
        assert (status.num_items, status.num_users, status.reads_texts) == (60, 40, True)
        assert status.attributes == {"shelf": ["shelf0", "shelf1", "shelf2"]}
        assert len(status.example_users) == 20
        assert status.recent.by_variant == {"full": 1.0}
        assert status.recent.refused_per_s > 0


async def test_a_deleted_user_is_no_longer_published_as_an_example(shop, store, monkeypatch):
    def gone(*_):
        raise StoreUnavailableError("the store does not answer")

    async with running(shop, store) as service:
        first, *others = (await service.status()).example_users
        await service.delete_user(first)
        assert (await service.status()).example_users == others
    async with running(shop, store) as service:
        assert (await service.status()).example_users == others
        monkeypatch.setattr(service.store, "deleted_users", gone)
        assert (await service.status()).example_users == [], "nobody knows who was deleted"


async def test_while_the_store_is_away_new_users_are_anonymous_and_events_are_refused(shop, store, monkeypatch):
    def gone(*_):
        raise StoreUnavailableError("the store does not answer")

    async with running(shop, store) as service:
        await recommended(service, "u1")
        for name in ("read_user", "appending", "check"):
            monkeypatch.setattr(service.store, name, gone)
        assert not (await service.recommend(RecommendRequest(user_id="u1", k=9))).fallback
        assert (await service.recommend(RecommendRequest(user_id="u2"))).fallback
        health = await service.health()
        assert health.ready
        assert "store unavailable" in health.degraded[0]
        with pytest.raises(StoreUnavailableError):
            await events(service, "u1", "i1")
        monkeypatch.undo()
        await events(service, "u1", "i1")
        assert "i1" not in await recommended(service, "u1", k=60)
        assert not (await service.recommend(RecommendRequest(user_id="u2"))).fallback
        assert not (await service.health()).degraded


async def test_readiness_sees_that_the_store_s_file_was_removed(shop, store):
    async with running(shop, store) as service:
        await events(service, "u1", "i1")
        for file in store.parent.glob("events.db*"):
            file.unlink()
        assert any("store" in line for line in (await service.health()).degraded)


async def test_a_profile_and_friends_that_are_written_count(shop, store):
    async with running(shop, store) as service:
        told = RecommendRequest(user_id="stranger", explain=True)
        assert (await service.recommend(told)).fallback
        await service.put_user("stranger", User(profile=" ".join(WORDS[20:30])))
        after = await service.recommend(told)
        assert "profile" in {reason.kind for reason in after.items[0].reasons}
        assert any("it suits your profile" in item.because for item in after.items)


async def test_workers_of_one_server_know_at_once_what_another_has_acknowledged(shop, store, tmp_path):
    WorkerSync.create(tmp_path / "sync", 2)
    syncs = [WorkerSync(tmp_path / "sync", worker, 2) for worker in range(2)]
    async with running(shop, store, sync=syncs[0]) as first, running(shop, store, sync=syncs[1]) as second:
        for n in range(5):
            assert f"i{50 + n}" in await recommended(second, "u1", k=100)
            await events(first, "u1", f"i{50 + n}")
            assert f"i{50 + n}" not in await recommended(second, "u1", k=100)
        await first.put_item("fresh", Item(title="Fresh", text=WORDS[3]))
        assert "fresh" in await recommended(second, "u1", k=100)
        await second.delete_item("i9")
        assert "i9" not in await recommended(first, "u2", k=100)
        await second.delete_user("u1")
        assert (await first.recommend(RecommendRequest(user_id="u1"))).fallback


async def test_a_worker_that_does_not_apply_an_item_is_reported(shop, store, tmp_path, monkeypatch):
    WorkerSync.create(tmp_path / "sync", 2)
    hung = WorkerSync(tmp_path / "sync", 1, 2)
    hung.applied(0)
    hung.beat()
    monkeypatch.setattr("lanner.serving.service._WORKERS_APPLY_SECONDS", 0.1)
    async with running(shop, store, sync=WorkerSync(tmp_path / "sync", 0, 2)) as service:
        with pytest.raises(StoreUnavailableError, match="a worker did not apply it"):
            await service.put_item("fresh", Item(title="Fresh", text=WORDS[3]))
        hung.retire(1)
        await service.put_item("fresh", Item(title="Fresh", text=WORDS[4]))
        assert (await service.health()).degraded == ["worker 1 is not running"]


async def test_two_servers_on_one_store_hear_of_each_other(shop, store):
    watching = replace(PATIENT, watch_seconds=0.05)
    async with running(shop, store, watching) as first, running(shop, store, watching) as second:
        assert "i50" in await recommended(second, "u1", k=100)
        await events(first, "u1", "i50")
        await first.put_item("fresh", Item(title="Fresh", text=WORDS[3]))
        async with asyncio.timeout(10):
            while not ("fresh" in (seen := await recommended(second, "u1", k=100)) and "i50" not in seen):
                await asyncio.sleep(0.05)


class HeldReader:
    """An executor whose only job ends when the test says so."""

    def __init__(self):
        self.answer = concurrent.futures.Future()

    def submit(self, *_):
        return self.answer

    def shutdown(self, wait=True):
        pass


async def test_a_cancellation_that_meets_a_finished_read_is_not_lost(shop, store):
    # wait_for of Python 3.11 loses it; that of 3.12 does not.
    async with running(shop, store) as service:
        service._reader.shutdown()
        service._reader = HeldReader()
        watching = asyncio.create_task(service._watch_store())
        await asyncio.sleep(0)
        service._reader.answer.set_result((0, []))
        await asyncio.sleep(0)  # the read has finished; its task has not gone on yet
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(5):
                await watching


async def test_events_that_retention_deleted_are_no_longer_answered_from(shop, store):
    retention = RetentionConfig(events_per_user=1, every_minutes=0.001)
    async with running(shop, store, retention=retention) as service:
        await events(service, "new", "i7", "i8", "i9")
        async with asyncio.timeout(10):
            while "i7" not in (seen := await recommended(service, "new", k=60)):
                await asyncio.sleep(0.05)
        assert "i8" in seen
        assert "i9" not in seen
        assert service.state().background["retention_deleted_events"] == 2


async def test_memory_is_counted(shop, store):
    async with running(shop, store) as service:
        for user_id in ("u1", "u2", "u2"):
            await recommended(service, user_id)
        state = service.state()
        assert state.held_entries == {"histories": 2, "answers": 2}
        [deployment] = service._deployments.all()
        assert state.held_bytes["models"] == sum(one.memory_bytes for one in deployment.rankers.values()) > 0
        assert state.held_bytes["histories"] == deployment.histories.held_bytes > 0
        assert set(state.slowness) == {"full", "int8", "popularity"}


async def test_a_bundle_that_cannot_be_served_is_one_line(shop, store, tmp_path):
    import shutil

    with pytest.raises(ConfigError, match="no variant 'tiny'"):
        await service_of(shop, store, PATIENT, ("tiny",)).start()
    broken = shutil.copytree(shop, tmp_path / "broken")
    damaged = broken / "int8.scoring.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="damaged"):
        await service_of(broken, tmp_path / "other.db").start()
