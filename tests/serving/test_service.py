"""The whole server but for the socket: a trained bundle, a store on disk, and the application in between."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from small_shop import QUICK, WORDS, make_shop

from lanner.client import AsyncClient, Retries
from lanner.compress import compress
from lanner.compression.steps import Budget
from lanner.errors import (
    BundleError,
    ConfigError,
    DataError,
    OverloadedError,
    ServerError,
    StoreUnavailableError,
    UnknownIdError,
)
from lanner.serving.engine import indexes_of
from lanner.serving.messages import Event, Filters, Item, RecommendRequest, User
from lanner.serving.redis_entries import RedisConfig
from lanner.serving.retrieval import Index
from lanner.serving.retrieval import index as index_module
from lanner.serving.running import ServerConfig, build
from lanner.serving.served_version import ServiceConfig
from lanner.serving.service import LannerService
from lanner.serving.store.retention import RetentionConfig

for library in ("onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason="an extra of serving is not installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    compress(shop, Budget(max_ndcg_loss=0.2), QUICK)
    return shop


@pytest.fixture
def config(bundle, tmp_path) -> ServerConfig:
    patient = ServiceConfig(deadline_ms=5000, watch_seconds=0, processes=0)
    return ServerConfig(str(bundle), str(tmp_path / "events.db"), service=patient)


@asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[tuple[AsyncClient, LannerService]]:
    app = build(config)
    service = app.service
    assert isinstance(service, LannerService)
    await service.start()
    try:
        once = Retries(attempts=1)
        async with AsyncClient("http://shop", retries=once, transport=httpx.ASGITransport(app)) as client:
            yield client, service
    finally:
        await service.stop()


def asked(config: ServerConfig, conversation: Callable) -> None:
    async def talk() -> None:
        async with running(config) as (client, service):
            await conversation(client, service)

    asyncio.run(talk())


def ids(answer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_reasons_add_up_to_the_score_on_every_way_of_asking(config):
    async def conversation(client, service):
        for request in (
            RecommendRequest(user_id="u3", explain=True, k=5),
            RecommendRequest(history=["i1", "i2"], explain=True, k=5),
            RecommendRequest(text=" ".join(WORDS[20:30]), explain=True, k=5),
            RecommendRequest(user_id="u3", text=WORDS[5], explain=True, k=5),
        ):
            answer = await client.recommend(request)
            assert len(answer.items) == 5
            assert [item.rank for item in answer.items] == [1, 2, 3, 4, 5]
            for item in answer.items:
                assert sum(reason.value for reason in item.reasons) == pytest.approx(item.score, abs=1e-3)
            assert answer.served.variant == "full"

    asked(config, conversation)


def test_an_answer_knows_of_the_event_of_a_moment_ago(config):
    async def conversation(client, service):
        first = await client.recommend(RecommendRequest(user_id="u3"))
        again = await client.recommend(RecommendRequest(user_id="u3"))
        assert ids(again) == ids(first)
        assert again.served.cached
        assert again.served.milliseconds["queue"] == 0
        assert again.served.milliseconds["total"] == again.served.milliseconds["memory"]
        await client.add_events([Event(user_id="u3", item_id=ids(first)[0])])
        after = await client.recommend(RecommendRequest(user_id="u3"))
        assert not after.served.cached
        assert ids(first)[0] not in ids(after)
        kept = await client.recommend(RecommendRequest(user_id="u3", exclude_seen=False, k=60))
        assert ids(first)[0] in ids(kept)

    asked(config, conversation)


def test_events_items_and_forgetting_outlive_a_restart(config):
    async def before(client, service):
        known = RecommendRequest(user_id="u3", exclude_seen=False, explain=True)
        assert any(reason.kind == "history" for reason in (await client.recommend(known)).items[0].reasons)
        await client.add_events([Event(user_id="new", item_id="i7", key="k1")])
        assert not (await client.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))).existed
        assert (await client.delete_item("i9")).existed
        assert (await client.delete_user("u3")).existed

    async def after(client, service):
        again = await client.add_events([Event(user_id="new", item_id="i7", key="k1")])
        assert (again.accepted, again.duplicates) == (0, 1)
        assert "i7" not in ids(await client.recommend(RecommendRequest(user_id="new", k=60)))
        everything = ids(await client.recommend(RecommendRequest(user_id="nobody", k=100)))
        assert len(everything) == 60
        assert "fresh" in everything
        assert "i9" not in everything
        forgotten = await client.recommend(RecommendRequest(user_id="u3", explain=True, exclude_seen=False))
        assert {reason.kind for reason in forgotten.items[0].reasons} <= {"popularity", "head"}
        assert not (await client.delete_user("u3")).existed

    asked(config, before)
    asked(config, after)


def test_a_new_item_is_found_by_its_text_at_once_and_by_its_new_text_later(config):
    async def conversation(client, service):
        await client.put_item("fresh", Item(title="First", text=" ".join(WORDS[20:28]), attributes={"shelf": ["odd"]}))
        assert ids(await client.search(" ".join(WORDS[20:28]), k=3))[0] == "fresh"
        only = Filters(attributes={"shelf": ["odd"]})
        assert ids(await client.recommend(RecommendRequest(user_id="u1", filters=only))) == ["fresh"]
        await client.add_events([Event(user_id="u1", item_id="fresh")])
        assert ids(await client.recommend(RecommendRequest(user_id="u1", filters=only))) == []
        await client.put_item("fresh", Item(title="Second", text=" ".join(WORDS[:8])))
        found = await client.search(" ".join(WORDS[:8]), k=1)
        assert (found.items[0].item_id, found.items[0].title) == ("fresh", "Second")
        assert "fresh" not in ids(await client.recommend(RecommendRequest(user_id="u1", k=100)))
        assert (await client.similar_items("fresh", k=4)).items[0].item_id != "fresh"
        await client.delete_item("fresh")
        assert "fresh" not in ids(await client.search(" ".join(WORDS[:8]), k=60))
        with pytest.raises(UnknownIdError, match="unknown item 'fresh'"):
            await client.similar_items("fresh", k=4)

    asked(config, conversation)


def test_items_are_placed_though_the_full_variant_is_not_served(config):
    async def conversation(client, service):
        await client.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        await client.put_item("i3", Item(title="Anew", text=" ".join(WORDS[20:28])))
        answer = await client.recommend(RecommendRequest(user_id="nobody", k=100))
        assert answer.served.variant == "distilled"
        assert len(ids(answer)) == 61
        assert {"fresh", "i3"} <= set(ids(answer))
        assert ids(await client.search(" ".join(WORDS[:6]), k=5))[0] == "fresh"

    few = replace(config.model, variants=("distilled", "popularity"))
    asked(replace(config, model=few), conversation)


def test_where_the_best_variant_reads_no_texts_none_are_read(config):
    async def conversation(client, service):
        assert not (await client.status()).reads_texts
        for refused in (
            client.put_item("fresh", Item(title="Fresh")),
            client.search("w3", k=3),
            client.recommend(RecommendRequest(text="w3")),
        ):
            with pytest.raises(DataError, match="reads no texts"):
                await refused
        assert (await client.delete_item("i9")).existed
        assert len(ids(await client.recommend(RecommendRequest(user_id="nobody", k=100)))) == 59

    asked(replace(config, model=replace(config.model, variants=("popularity",))), conversation)


def test_an_item_that_went_and_came_again_is_still_known_to_have_been_met(config):
    async def conversation(client, service):
        met = {f"i{row}" for row in range(60)} - set(ids(await client.recommend(RecommendRequest(user_id="u3", k=60))))
        assert met
        for item_id in met:
            await client.delete_item(item_id)
            assert not (await client.put_item(item_id, Item(title="Again", text=WORDS[3]))).existed
        assert not met & set(ids(await client.recommend(RecommendRequest(user_id="u3", k=60))))

    asked(config, conversation)


def test_indexes_are_built_anew_beside_the_requests_once_much_has_changed(config, monkeypatch):
    monkeypatch.setattr(index_module, "_CHANGES_UNNOTICED", 2)
    monkeypatch.setattr(index_module, "_CHANGED_SHARE", 0.0)
    begun, go_on, rebuild = threading.Event(), threading.Event(), Index.rebuild

    def slowly(self, folder):
        begun.set()
        assert go_on.wait(5)
        rebuild(self, folder)

    monkeypatch.setattr(Index, "rebuild", slowly)

    async def conversation(client, service):
        [version] = service._live.models()
        indexes = [one for one in indexes_of(version.model.engines.values()) if isinstance(one, Index)]
        fresh = [f"fresh{number}" for number in range(4)]
        for item_id in fresh:
            await client.put_item(item_id, Item(title=item_id, text=" ".join(WORDS[:6])))
        assert await asyncio.to_thread(begun.wait, 60)
        assert (await client.delete_item("i9")).existed
        everything = RecommendRequest(user_id="nobody", k=100)
        meanwhile = ids(await client.recommend(everything))
        assert all(one.needs_rebuild for one in indexes)
        go_on.set()
        async with asyncio.timeout(20):
            while any(one.needs_rebuild for one in indexes):
                await asyncio.sleep(0.01)
        assert {*fresh} <= {*meanwhile} == {*ids(await client.recommend(everything))}
        assert len(meanwhile) == 63

    asked(config, conversation)


def test_an_index_that_cannot_be_built_anew_serves_on(config, monkeypatch, caplog):
    monkeypatch.setattr(index_module, "_CHANGES_UNNOTICED", 0)
    monkeypatch.setattr(index_module, "_CHANGED_SHARE", 0.0)
    failed = []

    def fails(self, folder):
        failed.append(self)
        raise MemoryError

    monkeypatch.setattr(Index, "rebuild", fails)

    async def conversation(client, service):
        [version] = service._live.models()
        await client.delete_item("i9")
        await asyncio.to_thread(version.model._folding._thread.join)
        tried = len(failed)
        assert tried
        await client.delete_item("i8")
        await asyncio.to_thread(version.model._folding._thread.join)
        assert len(failed) == tried
        assert len(ids(await client.recommend(RecommendRequest(user_id="nobody", k=100)))) == 58
        assert "cannot be built anew" in caplog.text

    asked(config, conversation)


def test_what_is_held_is_counted_once(config):
    async def conversation(client, service):
        for user_id in ("u1", "u2", "u2"):
            await client.recommend(RecommendRequest(user_id=user_id))
        state = service.state()
        assert state.held_entries == {"histories": 2, "answers": 2}
        [version] = service._live.models()
        engines = version.model.engines
        assert len(engines) == 10
        one_runtime = [engine for (backend, _), engine in engines.items() if backend == "openvino"]
        shared = {id(engine.index): engine.index.memory_bytes for engine in one_runtime}
        assert len(shared) < len(one_runtime)
        assert state.held_bytes["indexes"] == sum(shared.values())
        beside = sum(engine.state_bytes - engine.index.memory_bytes for engine in one_runtime)
        assert state.held_bytes["rungs"] == beside > 0
        assert state.held_bytes["histories"] == version.histories.held_bytes
        assert state.held_bytes["answers"] == version._answers.held_bytes
        assert set(state.slowness) == {f"{variant}/{backend}" for backend, variant in engines}
        assert any(state.slowness[f"full/{backend}"] != 1 for backend in ("openvino", "onnxruntime"))
        assert state.slowness["distilled/openvino"] == 1

    asked(replace(config, model=replace(config.model, backends=("openvino", "onnxruntime"))), conversation)


def test_filters_hold_and_one_that_excludes_everything_leaves_nothing(config):
    async def conversation(client, service):
        async def shown(**filters):
            request = RecommendRequest(user_id="u2", k=60, exclude_seen=False, filters=Filters(**filters))
            return set(ids(await client.recommend(request)))

        assert await shown(attributes={"shelf": ["shelf1"]}) == {f"i{row}" for row in range(20, 40)}
        assert await shown(allow=["i3", "i4", "unheard"], deny=["i4"]) == {"i3"}
        assert await shown(attributes={"shelf": ["shelf2"]}, allow=["i3"]) == set()
        assert await shown(allow=[]) == set()
        with pytest.raises(DataError, match="shelf"):
            await shown(attributes={"shelv": ["shelf1"]})

    asked(config, conversation)


def test_why_an_item_has_its_score_even_where_it_would_not_be_listed(config):
    async def conversation(client, service):
        from lanner.serving.messages import ExplainRequest

        answer = await client.explain(ExplainRequest(item_id="i55", user_id="u1"))
        assert answer.item.item_id == "i55"
        assert sum(reason.value for reason in answer.item.reasons) == pytest.approx(answer.item.score, abs=1e-3)

    asked(config, conversation)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (RecommendRequest(), "say for whom"),
        (RecommendRequest(user_id="u1", history=["i1"]), "either user_id or history"),
    ],
)
def test_a_question_about_nobody_is_refused(config, request_, line):
    async def conversation(client, service):
        with pytest.raises(DataError, match=line):
            await client.recommend(request_)

    asked(config, conversation)


def test_the_same_question_at_the_same_time_is_worked_on_once(config):
    async def conversation(client, service):
        worked = []
        [version] = service._live.models()
        submit = version._dispatcher.submit

        async def counted(work, within_s, lowest=None):
            worked.append(1)
            return await submit(work, within_s, lowest)

        version._dispatcher.submit = counted
        answers = await asyncio.gather(*(client.recommend(RecommendRequest(user_id="u5")) for _ in range(20)))
        assert len(worked) == 1
        assert len({tuple(ids(answer)) for answer in answers}) == 1

    asked(config, conversation)


def test_what_cannot_be_in_time_is_refused_at_once_and_says_when_to_come_back(config):
    async def conversation(client, service):
        with pytest.raises(OverloadedError, match="too busy") as refused:
            await service.recommend(RecommendRequest(user_id="u1", deadline_ms=0.001))
        assert 0 < refused.value.retry_after_s <= 60
        assert len((await client.recommend(RecommendRequest(user_id="u1"))).items) == 10

    asked(config, conversation)


def test_while_the_store_is_away_users_are_strangers_and_events_are_refused(config, monkeypatch):
    async def conversation(client, service):
        def gone(*_):
            raise StoreUnavailableError("the store does not answer")

        for name in ("histories", "appending", "check", "user", "is_forgotten"):
            monkeypatch.setattr(service.store, name, gone)
        assert len((await client.recommend(RecommendRequest(user_id="u1"))).items) == 10
        health = await client.ready()
        assert health.ready
        assert "store" in health.degraded[0]
        with pytest.raises(ServerError) as refused:
            await client.add_events([Event(user_id="u1", item_id="i1")])
        assert refused.value.status == 503
        monkeypatch.undo()
        await client.add_events([Event(user_id="u1", item_id="i1")])
        assert "i1" not in ids(await client.recommend(RecommendRequest(user_id="u1", k=60)))
        assert not (await client.ready()).degraded

    asked(config, conversation)


def test_a_profile_that_is_written_counts(config):
    async def conversation(client, service):
        told = RecommendRequest(user_id="stranger", explain=True)
        before = await client.recommend(told)
        await client.put_user("stranger", User(profile=" ".join(WORDS[20:30])))
        after = await client.recommend(told)
        assert "profile" not in {reason.kind for reason in before.items[0].reasons}
        assert "profile" in {reason.kind for reason in after.items[0].reasons}

    asked(config, conversation)


def test_two_servers_on_one_store_hear_of_each_other(config):
    watching = replace(config, service=replace(config.service, watch_seconds=0.05))

    async def talk() -> None:
        async with running(watching) as (first, _), running(watching) as (second, _):
            assert len(ids(await second.recommend(RecommendRequest(user_id="u1", k=100)))) > 0
            await first.add_events([Event(user_id="u1", item_id="i50")])
            await first.put_item("fresh", Item(title="Fresh", text=WORDS[3]))
            for _ in range(100):
                await asyncio.sleep(0.05)
                seen = ids(await second.recommend(RecommendRequest(user_id="u1", k=100)))
                if "fresh" in seen and "i50" not in seen:
                    break
            assert "fresh" in seen
            assert "i50" not in seen

    asyncio.run(talk())


def test_with_redis_the_next_answer_of_another_server_knows_and_without_it_the_store_is_enough(config, redis_server):
    # The store is asked so seldom that only Redis can have told.
    patient = replace(config.service, watch_seconds=600)
    sharing = replace(config, service=patient, redis=RedisConfig(redis_server.url, timeout_ms=2000))

    async def talk() -> None:
        async with running(sharing) as (first, one), running(sharing) as (second, other):
            asked = RecommendRequest(user_id="u1", k=100)
            for n in range(5):
                assert f"i{50 + n}" in ids(await second.recommend(asked))
                await first.add_events([Event(user_id="u1", item_id=f"i{50 + n}")])
                assert f"i{50 + n}" not in ids(await second.recommend(asked))
            assert (await second.recommend(asked)).served.cached
            assert not (await second.ready()).degraded
            redis_server.stop()
            await first.add_events([Event(user_id="u1", item_id="i55")])
            assert "i55" not in ids(await first.recommend(asked))
            assert len(ids(await second.recommend(asked))) > 0
            health = await second.ready()
            assert health.ready
            assert "Redis does not answer" in health.degraded[0]
            assert other.state().beside["redis_up"] == 0
            await other._hear()
            assert "i55" not in ids(await second.recommend(asked))
            redis_server.start()
            for _ in range(100):
                await asyncio.sleep(0.05)
                if not (await first.ready()).degraded + (await second.ready()).degraded:
                    break
            await first.add_events([Event(user_id="u1", item_id="i56")])
            assert "i56" not in ids(await second.recommend(asked))
            one._shared._entries.up = False
            await first.add_events([Event(user_id="u1", item_id="i57")])
            other._shared._heads.clear()
            await other._hear()
            assert "i57" not in ids(await second.recommend(asked))
            await one._shared.look()
            await first.delete_user("u1")
            assert await one._shared._entries._client.dbsize() == 0

    asyncio.run(talk())


def test_redis_without_asking_the_store_is_refused(config):
    with pytest.raises(ConfigError, match=r"redis\.url without service\.watch_seconds"):
        replace(config, redis=RedisConfig("redis://localhost"))


def test_what_is_no_longer_kept_is_no_longer_answered_from(config):
    keeping = replace(config, retention=RetentionConfig(events_per_user=1, every_minutes=0.001))

    async def conversation(client, service):
        await client.add_events([Event(user_id="new", item_id=f"i{n}") for n in (7, 8, 9)])
        for _ in range(100):
            seen = ids(await client.recommend(RecommendRequest(user_id="new", k=60)))
            if "i7" in seen:
                break
            await asyncio.sleep(0.05)
        assert {"i7", "i8"} <= set(seen)
        assert "i9" not in seen
        assert service.state().beside["retention_deleted_events"] == 2

    asked(keeping, conversation)


def test_what_cannot_be_served_is_said_in_one_line(config, bundle, tmp_path):
    def start(config: ServerConfig) -> None:
        asyncio.run(build(config).service.start())

    with pytest.raises(ConfigError, match="no variant 'tiny'"):
        start(replace(config, model=replace(config.model, variants=("tiny",))))
    bare = tmp_path / "bare"
    shutil.copytree(bundle, bare, ignore=shutil.ignore_patterns("ladder"))
    with pytest.raises(BundleError, match="lanner compress"):
        start(replace(config, bundle=str(bare)))
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    damaged = broken / "ladder" / "full.form.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="damaged"):
        start(replace(config, bundle=str(broken)))


def test_the_page_is_told_what_answers_and_how_it_fares(config):
    async def conversation(client, service):
        await client.recommend(RecommendRequest(user_id="u3"))
        with pytest.raises(OverloadedError):
            await service.recommend(RecommendRequest(user_id="u1", deadline_ms=0.001))
        status = await client.status()
        assert status.variants == ["full", "int8", "pruned", "distilled", "popularity"]
        assert (status.num_items, status.num_users, status.reads_texts) == (60, 40, True)
        assert status.attributes == {"shelf": ["shelf0", "shelf1", "shelf2"]}
        assert len(status.example_users) == 20
        assert status.recent.by_variant == {"full": 1.0}
        assert status.recent.refused_per_s > 0

    asked(config, conversation)
