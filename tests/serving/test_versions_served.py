"""Several bundles served at once: swaps under requests, bundles that fail, experiments and shadow traffic."""

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from small_shop import QUICK, WORDS, make_shop

from lanner.client import AsyncClient, Retries
from lanner.compress import compress
from lanner.compression.steps import Budget
from lanner.errors import BundleError, ConfigError
from lanner.serving.messages import Event, Item, RecommendRequest, User
from lanner.serving.running import ServerConfig, build
from lanner.serving.served_version import ServedVersion, ServiceConfig
from lanner.serving.service import LannerService
from lanner.serving.store import open_store
from lanner.serving.versions import following
from lanner.serving.versions.experiment import Experiment
from lanner.serving.versions.registry import CHALLENGER, CHAMPION, Registry, version_of
from lanner.serving.versions.report import experiment_report
from lanner.settings import overridden

for library in ("onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason="an extra of serving is not installed")

HALVES = Experiment("ladder", {CHAMPION: 0.5, CHALLENGER: 0.5})
USERS = [f"u{number}" for number in range(40)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list[Path]:
    """Two versions of one shop, opened once so that their indexes lie beside them."""
    made = [make_shop(tmp_path_factory.mktemp("shop"), seed) for seed in range(2)]
    for bundle in made:
        compress(bundle, Budget(max_ndcg_loss=0.2), QUICK)
    return made


@pytest.fixture
def registry(bundles, tmp_path) -> Registry:
    one = Registry(tmp_path / "bundles")
    for bundle in bundles:
        one.add(bundle)
    one.set_alias(CHAMPION, version_of(bundles[0]))
    one.set_alias(CHALLENGER, version_of(bundles[1]))
    return one


@pytest.fixture
def versions(bundles) -> list[str]:
    return [version_of(bundle) for bundle in bundles]


@pytest.fixture
def config(registry, tmp_path, monkeypatch) -> ServerConfig:
    monkeypatch.setattr(following, "POLL_SECONDS", 3600.0)  # tests say themselves when to look
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    patient = ServiceConfig(deadline_ms=5000, watch_seconds=0, answers_held=0, processes=0)
    return ServerConfig(str(registry.folder), str(tmp_path / "events.db"), service=patient)


@asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[tuple[AsyncClient, LannerService]]:
    app = build(config)
    assert isinstance(app.service, LannerService)
    await app.service.start()
    try:
        transport = httpx.ASGITransport(app)
        async with AsyncClient("http://shop", retries=Retries(attempts=1), transport=transport) as client:
            yield client, app.service
    finally:
        await app.service.stop()


def asked(config: ServerConfig, conversation: Callable) -> None:
    async def talk() -> None:
        async with running(config) as (client, service):
            await conversation(client, service)

    asyncio.run(asyncio.wait_for(talk(), 120))


async def follow(service: LannerService) -> None:
    await asyncio.to_thread(service._follower.follow)


def ids(answer) -> list[str]:
    return [item.item_id for item in answer.items]


def damage(bundle: Path) -> Callable[[], None]:
    """Returns what repairs it. The file is written anew, for it shares its bytes with the one that was added."""
    file = bundle / "ladder" / "full.form.safetensors"
    whole = file.read_bytes()

    def write(content: bytes) -> None:
        file.unlink()
        file.write_bytes(content)

    write(whole[:-1] + b"x")
    return lambda: write(whole)


def test_swaps_under_requests_drop_none_and_none_meets_a_closed_version(config, registry, versions, monkeypatch):
    closed: list[ServedVersion] = []  # they are held, for the next one could have the id of one that is gone
    close, answer = ServedVersion.close, ServedVersion.answer

    async def watched(self: ServedVersion, request: RecommendRequest):
        assert self not in closed
        found = await answer(self, request)
        assert self not in closed
        return found

    def noted(self: ServedVersion) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(ServedVersion, "answer", watched)
    monkeypatch.setattr(ServedVersion, "close", noted)

    async def conversation(client, service):
        seen: list[tuple[int, str]] = []  # swaps there had been when the request began, and who answered
        swapped: list[str] = []
        stop = asyncio.Event()

        async def ask(user_id: str) -> None:
            while not stop.is_set():
                begun = len(swapped)
                found = await client.recommend(RecommendRequest(user_id=user_id))
                assert len(found.items) == 10
                seen.append((begun, found.served.model))
                await asyncio.sleep(0)

        asking = [asyncio.create_task(ask(user_id)) for user_id in USERS[:6]]
        for version in (versions[1], versions[0]):
            if version == versions[1]:
                registry.set_alias(CHAMPION, version)
            else:
                assert registry.rollback(CHAMPION) == version
            await follow(service)
            swapped.append(version)
            while len(answered := [model for begun, model in seen if begun == len(swapped)]) < 20:
                await asyncio.sleep(0.01)
            assert set(answered) == {version}, "requests that begin after the swap get the new version"
        stop.set()
        await asyncio.gather(*asking)
        while len(closed) < 2:  # each is closed by a thread of its own, once its last request has gone
            await asyncio.sleep(0.01)

    asked(config, conversation)


def test_the_server_looks_at_the_aliases_by_itself(config, registry, versions, monkeypatch):
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)

    async def conversation(client, service):
        assert (await client.status()).versions == {CHAMPION: versions[0]}
        registry.set_alias(CHAMPION, versions[1])
        while (await client.status()).model != versions[1]:
            await asyncio.sleep(0.05)

    asked(config, conversation)


def test_what_is_written_while_a_version_is_opened_is_in_it(config, registry, versions, monkeypatch):
    warm, go_on = threading.Event(), threading.Event()
    warm_up = ServedVersion.warm_up

    def slowly(self: ServedVersion) -> None:
        warm_up(self)
        if self.version == versions[1]:
            warm.set()
            assert go_on.wait(60)

    monkeypatch.setattr(ServedVersion, "warm_up", slowly)

    async def conversation(client, service):
        registry.set_alias(CHAMPION, versions[1])
        following_it = asyncio.create_task(follow(service))
        await asyncio.to_thread(warm.wait, 60)
        await client.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        assert (await client.delete_item("i9")).existed
        await client.add_events([Event(user_id="u1", item_id="i50")])
        await client.put_user("stranger", User(profile=" ".join(WORDS[20:30])))
        await client.delete_user("u3")
        go_on.set()
        await following_it
        everything = await client.recommend(RecommendRequest(user_id="u1", k=100))
        assert everything.served.model == versions[1]
        assert "fresh" in ids(everything)
        assert not {"i9", "i50"} & set(ids(everything))
        told = await client.recommend(RecommendRequest(user_id="stranger", explain=True))
        assert "profile" in {reason.kind for reason in told.items[0].reasons}
        forgotten = await client.recommend(RecommendRequest(user_id="u3", explain=True))
        assert "history" not in {reason.kind for reason in forgotten.items[0].reasons}

    asked(config, conversation)


def test_changes_reach_every_version_that_is_served(config, versions):
    async def conversation(client, service):
        for user_id in USERS:  # from now on their histories are held
            await client.recommend(RecommendRequest(user_id=user_id))
        await client.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        await client.add_events([Event(user_id=user_id, item_id="i50") for user_id in USERS])
        models = set()
        for user_id in USERS:
            found = await client.recommend(RecommendRequest(user_id=user_id, k=100))
            models.add(found.served.model)
            assert "fresh" in ids(found)
            assert "i50" not in ids(found)
        assert models == set(versions)

    asked(replace(config, experiment=HALVES), conversation)


@pytest.mark.parametrize("alias", [CHAMPION, CHALLENGER])
def test_a_damaged_version_leaves_the_old_one_until_it_is_whole(config, registry, versions, alias, caplog):
    registry.set_alias(CHALLENGER, versions[0])

    async def conversation(client, service):
        registry.set_alias(alias, versions[1])
        repair = damage(registry.path(versions[1]))
        with caplog.at_level(logging.ERROR):
            await follow(service)
            await follow(service)
        assert len(caplog.records) == 1
        assert "damaged" in caplog.text
        assert set((await client.status()).versions.values()) == {versions[0]}
        assert len((await client.recommend(RecommendRequest(user_id="u1"))).items) == 10
        health = await client.ready()
        line = f"{alias}: version {versions[1]} cannot be served, {versions[0]} is served on; see the log"
        assert (health.ready, health.degraded) == (True, [line])
        repair()
        await follow(service)
        assert (await client.status()).versions[alias] == versions[1]
        assert not (await client.ready()).degraded

    asked(replace(config, experiment=HALVES), conversation)


def test_without_its_champion_a_server_does_not_start_and_without_its_challenger_it_does(config, registry, versions):
    damage(registry.path(versions[1]))

    async def conversation(client, service):
        assert [line.partition(":")[0] for line in (await client.ready()).degraded] == [CHALLENGER]
        found = await asyncio.gather(*(client.recommend(RecommendRequest(user_id=one)) for one in USERS))
        assert {one.served.model for one in found} == {versions[0]}

    asked(replace(config, experiment=HALVES), conversation)
    with closing(open_store(config.store)) as store:
        exposures = list(store.exposures("ladder"))
        assert {one.arm for one in exposures} == {CHAMPION}
        assert {one.user_id for one in exposures} == {one for one in USERS if HALVES.arm_of(one) == CHAMPION}
    damage(registry.path(versions[0]))
    with pytest.raises(BundleError, match="damaged"):
        asked(config, conversation)


def test_aliases_that_cannot_be_read_leave_all_as_it_is(config, registry, versions):
    async def conversation(client, service):
        aliases = registry.folder / "aliases.json"
        whole = aliases.read_bytes()
        aliases.write_bytes(b"{")
        await follow(service)
        assert "the aliases cannot be read" in (await client.ready()).degraded[0]
        assert (await client.recommend(RecommendRequest(user_id="u1"))).served.model == versions[0]
        aliases.write_bytes(whole)
        await follow(service)
        assert not (await client.ready()).degraded

    asked(config, conversation)


def test_another_bundle_in_the_place_of_a_single_one_is_served_if_it_is_whole(config, bundles, versions, tmp_path):
    place = tmp_path / "bundle"
    shutil.copytree(bundles[0], place)

    async def conversation(client, service):
        shutil.rmtree(place)
        await follow(service)
        shutil.copytree(bundles[1], place)
        repair = damage(place)
        await follow(service)
        assert (await client.recommend(RecommendRequest(user_id="u1"))).served.model == versions[0]
        assert len((await client.ready()).degraded) == 1
        repair()
        await follow(service)
        assert (await client.recommend(RecommendRequest(user_id="u1"))).served.model == versions[1]
        assert not (await client.ready()).degraded

    asked(replace(config, bundle=str(place)), conversation)


def test_items_that_went_since_do_not_make_a_bundle_look_damaged(config, versions):
    async def before(client, service):
        for row in range(30):
            await client.delete_item(f"i{row}")

    async def after(client, service):
        assert len(ids(await client.recommend(RecommendRequest(user_id="nobody", k=100)))) == 30

    asked(config, before)
    asked(config, after)


def test_users_stay_in_their_arm_and_the_report_reads_what_they_saw(config, versions):
    arms = dict(zip((CHAMPION, CHALLENGER), versions, strict=True))

    async def conversation(client, service):
        for _ in range(2):
            for user_id in USERS:
                found = await client.recommend(RecommendRequest(user_id=user_id))
                assert found.served.model == arms[HALVES.arm_of(user_id)]
        assert (await client.recommend(RecommendRequest(user_id="u1"))).served.model == arms[HALVES.arm_of("u1")]
        await client.recommend(RecommendRequest(history=["i1"]))
        await client.delete_user("u2")
        figures = service.state().trials
        assert figures["exposures_waiting"] + figures["exposures_written"] >= 79

    asked(replace(config, experiment=HALVES), conversation)
    with closing(open_store(config.store)) as store:
        exposures = list(store.exposures("ladder"))
        assert {one.user_id for one in exposures} == set(USERS) - {"u2"}
        assert len(exposures) == 79
        assert all(one.arm == HALVES.arm_of(one.user_id) and len(one.item_ids) == 10 for one in exposures)
        report = experiment_report(store, "ladder", 3600.0, HALVES.arms)
    assert {arm.arm: arm.users for arm in report.arms} == {
        arm: sum(HALVES.arm_of(user_id) == arm for user_id in USERS if user_id != "u2") for arm in arms
    }


@pytest.mark.parametrize("slowest", [0, 1])
def test_of_several_versions_the_slowness_of_the_worst_is_told(config, registry, versions, monkeypatch, slowest):
    registry.set_alias(CHALLENGER, versions[1])

    async def conversation(client, service):
        for place, version in enumerate(service._live.models()):
            monkeypatch.setattr(version, "slowness", lambda ratio=3.0 if place == slowest else 2.0: {"full/any": ratio})
        assert service.state().slowness == {"full/any": 3.0}

    asked(replace(config, experiment=HALVES), conversation)


def test_exposures_that_cannot_be_written_are_said(config, monkeypatch):
    async def conversation(client, service):
        monkeypatch.setattr(service._trials._exposures, "_problem", "events.db is locked")
        assert (await client.ready()).degraded == ["what the experiment showed cannot be written; 0 exposures wait"]

    asked(replace(config, experiment=HALVES), conversation)


@pytest.mark.parametrize("same", [True, False])
def test_the_shadow_compares_and_nobody_sees_it(config, registry, versions, same):
    registry.set_alias(CHALLENGER, versions[0] if same else versions[1])

    async def conversation(client, service):
        for user_id in USERS[:10]:
            assert (await client.recommend(RecommendRequest(user_id=user_id))).served.model == versions[0]
        while (await client.status()).shadow.compared < 10:
            await asyncio.sleep(0.02)
        status = await client.status()
        assert status.shadow.failed == 0
        assert (status.shadow.overlap == 1.0) == same
        assert status.shadow.challenger_p50_ms > 0
        assert status.recent.requests_per_s * status.recent.window_s == pytest.approx(10, abs=0.1)
        assert service.state().trials["shadow_compared"] == 10

    asked(replace(config, shadow_share=1.0), conversation)


def test_what_cannot_be_tried_is_said_in_one_line(config, bundles, tmp_path):
    with pytest.raises(ConfigError, match="no registry with a challenger"):
        build(replace(config, bundle=str(bundles[0]), experiment=HALVES))
    with pytest.raises(ConfigError, match="no alias 'other'; arms are champion and challenger"):
        replace(config, experiment=Experiment("x", {"champion": 0.5, "other": 0.5}))
    with pytest.raises(ConfigError, match=r"shadow_share is 1\.5"):
        replace(config, shadow_share=1.5)
    headless = Registry(tmp_path / "headless")
    headless.set_alias(CHALLENGER, headless.add(bundles[0]))
    with pytest.raises(ConfigError, match="no version is the champion"):
        asyncio.run(build(replace(config, bundle=str(headless.folder))).service.start())


def test_an_experiment_is_set_in_one_word_and_outlives_the_way_to_a_worker(config):
    chosen = overridden(config, ['experiment={name = "ladder", arms = {champion = 0.5, challenger = 0.5}}'])
    assert msgspec.json.decode(msgspec.json.encode(chosen), type=ServerConfig) == replace(config, experiment=HALVES)
