"""Several bundles served at once: hot swaps under load, failing bundles, experiments and shadow traffic."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from running import PATIENT, events, ids, recommended, running, service_of
from small_shop import WORDS, make_shop

from lanner.errors import BundleError, ConfigError
from lanner.serving.deployment import Deployment
from lanner.serving.messages import Item, RecommendRequest, User
from lanner.serving.service import LannerService
from lanner.serving.store import open_store
from lanner.serving.versions import alias_watcher
from lanner.serving.versions.experiments import Experiment
from lanner.serving.versions.registry import CHALLENGER, CHAMPION, Registry, version_of
from lanner.serving.versions.report import experiment_report

HALVES = Experiment("ladder", {CHAMPION: 0.5, CHALLENGER: 0.5})
USERS = [f"u{number}" for number in range(40)]
FRESH = replace(PATIENT, answers_held=0)


@pytest.fixture(scope="module")
def bundles(trained_shop, tmp_path_factory) -> list[Path]:
    """Two versions of one shop."""
    return [trained_shop, make_shop(tmp_path_factory.mktemp("shop"), seed=1)]


@pytest.fixture
def registry(bundles, tmp_path, monkeypatch) -> Registry:
    monkeypatch.setattr(alias_watcher, "POLL_SECONDS", 3600.0)  # tests say themselves when to look
    monkeypatch.setattr(alias_watcher, "RETRY_SECONDS", 0.0)
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
def store(tmp_path) -> Path:
    return tmp_path / "events.db"


async def follow(service: LannerService) -> None:
    await service._watcher.follow()


def damage(bundle: Path) -> Callable[[], None]:
    """Returns what repairs it. The file is written anew, for it shares its bytes with the one that was added."""
    file = bundle / "full.scoring.safetensors"
    whole = file.read_bytes()

    def write(content: bytes) -> None:
        file.unlink()
        file.write_bytes(content)

    write(whole[:-1] + b"x")
    return lambda: write(whole)


async def test_swaps_under_requests_drop_none_and_none_meets_a_closed_version(registry, versions, store, monkeypatch):
    closed: list[Deployment] = []  # they are held, for the next one could have the id of one that is gone
    close, recommend = Deployment.close, Deployment.recommend

    async def watched(self: Deployment, request: RecommendRequest):
        assert self not in closed
        found = await recommend(self, request)
        assert self not in closed
        return found

    monkeypatch.setattr(Deployment, "recommend", watched)
    monkeypatch.setattr(Deployment, "close", lambda self: closed.append(self) or close(self))
    async with running(registry.folder, store, FRESH) as service:
        seen: list[tuple[int, str]] = []  # swaps there had been when the request began, and who answered
        swapped: list[str] = []
        stop = asyncio.Event()

        async def ask(user_id: str) -> None:
            while not stop.is_set():
                begun = len(swapped)
                found = await service.recommend(RecommendRequest(user_id=user_id))
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
        while len(closed) < 2:  # each is closed once its last request has gone
            await asyncio.sleep(0.01)


async def test_the_server_watches_the_aliases(registry, versions, store, monkeypatch):
    monkeypatch.setattr(alias_watcher, "POLL_SECONDS", 0.05)
    async with running(registry.folder, store) as service:
        assert (await service.status()).versions == {CHAMPION: versions[0]}
        registry.set_alias(CHAMPION, versions[1])
        while (await service.status()).model != versions[1]:
            await asyncio.sleep(0.05)


async def test_what_is_written_while_a_version_is_opened_is_in_it(registry, versions, store, monkeypatch):
    warm, go_on = threading.Event(), threading.Event()
    warm_up = Deployment.warm_up

    def slowly(self: Deployment) -> None:
        warm_up(self)
        if self.version == versions[1]:
            warm.set()
            assert go_on.wait(60)

    monkeypatch.setattr(Deployment, "warm_up", slowly)
    async with running(registry.folder, store, FRESH) as service:
        registry.set_alias(CHAMPION, versions[1])
        following = asyncio.create_task(follow(service))
        await asyncio.to_thread(warm.wait, 60)
        await service.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        assert (await service.delete_item("i9")).existed
        await events(service, "u1", "i50")
        await service.put_user("stranger", User(profile=" ".join(WORDS[20:30])))
        await service.delete_user("u3")
        go_on.set()
        await following
        everything = await service.recommend(RecommendRequest(user_id="u1", k=100))
        assert everything.served.model == versions[1]
        assert "fresh" in ids(everything)
        assert not {"i9", "i50"} & set(ids(everything))
        told = await service.recommend(RecommendRequest(user_id="stranger", explain=True))
        assert "profile" in {reason.kind for reason in told.items[0].reasons}
        deleted = await service.recommend(RecommendRequest(user_id="u3", explain=True))
        assert "history" not in {reason.kind for reason in deleted.items[0].reasons}


async def test_changes_reach_every_version_that_is_served(registry, versions, store):
    async with running(registry.folder, store, FRESH, experiment=HALVES) as service:
        for user_id in USERS:  # from now on their histories are in memory
            await recommended(service, user_id)
        await service.put_item("fresh", Item(title="Fresh", text=" ".join(WORDS[:6])))
        for user_id in USERS:
            await events(service, user_id, "i50")
        models = set()
        for user_id in USERS:
            found = await service.recommend(RecommendRequest(user_id=user_id, k=100))
            models.add(found.served.model)
            assert "fresh" in ids(found)
            assert "i50" not in ids(found)
        assert models == set(versions)


@pytest.mark.parametrize("alias", [CHAMPION, CHALLENGER])
async def test_a_damaged_version_leaves_the_old_one_until_it_is_whole(registry, versions, store, alias, caplog):
    registry.set_alias(CHALLENGER, versions[0])
    async with running(registry.folder, store, experiment=HALVES) as service:
        registry.set_alias(alias, versions[1])
        repair = damage(registry.path(versions[1]))
        with caplog.at_level(logging.ERROR):
            await follow(service)
            await follow(service)
        assert len(caplog.records) == 1
        assert "damaged" in caplog.text
        assert set((await service.status()).versions.values()) == {versions[0]}
        assert len(await recommended(service, "u1")) == 10
        health = await service.health()
        line = f"{alias}: version {versions[1]} cannot be served, {versions[0]} is still served; see the log"
        assert (health.ready, health.degraded) == (True, [line])
        repair()
        await follow(service)
        assert (await service.status()).versions[alias] == versions[1]
        assert not (await service.health()).degraded


async def test_without_its_champion_a_server_does_not_start_and_without_its_challenger_it_does(
    registry, versions, store
):
    damage(registry.path(versions[1]))
    async with running(registry.folder, store, experiment=HALVES) as service:
        assert [line.partition(":")[0] for line in (await service.health()).degraded] == [CHALLENGER]
        found = [await service.recommend(RecommendRequest(user_id=one)) for one in USERS]
        assert {one.served.model for one in found} == {versions[0]}
    with closing(open_store(str(store))) as opened:
        exposures = list(opened.exposures("ladder"))
        assert {one.arm for one in exposures} == {CHAMPION}
        assert {one.user_id for one in exposures} == {one for one in USERS if HALVES.arm_of(one) == CHAMPION}
    damage(registry.path(versions[0]))
    with pytest.raises(BundleError, match="damaged"):
        await service_of(registry.folder, store).start()


async def test_aliases_that_cannot_be_read_leave_all_as_it_is(registry, versions, store):
    async with running(registry.folder, store) as service:
        aliases = registry.folder / "aliases.json"
        whole = aliases.read_bytes()
        aliases.write_bytes(b"{")
        await follow(service)
        assert "the aliases cannot be read" in (await service.health()).degraded[0]
        assert (await service.recommend(RecommendRequest(user_id="u1"))).served.model == versions[0]
        aliases.write_bytes(whole)
        await follow(service)
        assert not (await service.health()).degraded


async def test_another_bundle_in_the_place_of_a_single_one_is_served_if_it_is_whole(
    registry, bundles, versions, store, tmp_path
):
    place = shutil.copytree(bundles[0], tmp_path / "bundle")
    async with running(place, store) as service:
        shutil.rmtree(place)
        await follow(service)
        shutil.copytree(bundles[1], place)
        repair = damage(place)
        await follow(service)
        assert (await service.recommend(RecommendRequest(user_id="u1"))).served.model == versions[0]
        assert len((await service.health()).degraded) == 1
        repair()
        await follow(service)
        assert (await service.recommend(RecommendRequest(user_id="u1"))).served.model == versions[1]
        assert not (await service.health()).degraded


async def test_items_that_were_deleted_do_not_make_a_bundle_look_damaged(registry, store):
    async with running(registry.folder, store) as service:
        for row in range(30):
            await service.delete_item(f"i{row}")
    async with running(registry.folder, store) as service:
        assert len(await recommended(service, "nobody", k=100)) == 30


async def test_users_stay_in_their_arm_and_the_report_reads_what_they_saw(registry, versions, store):
    arms = dict(zip((CHAMPION, CHALLENGER), versions, strict=True))
    async with running(registry.folder, store, experiment=HALVES) as service:
        for _ in range(2):
            for user_id in USERS:
                found = await service.recommend(RecommendRequest(user_id=user_id))
                assert found.served.model == arms[HALVES.arm_of(user_id)]
        await recommended(service, history=["i1"])
        await service.delete_user("u2")
        figures = service.state().experiments
        assert figures["exposures_waiting"] + figures["exposures_written"] >= 78
    with closing(open_store(str(store))) as opened:
        exposures = list(opened.exposures("ladder"))
        assert {one.user_id for one in exposures} == set(USERS) - {"u2"}
        assert len(exposures) == 78
        assert all(one.arm == HALVES.arm_of(one.user_id) and len(one.item_ids) == 10 for one in exposures)
        report = experiment_report(opened, "ladder", 3600.0, HALVES.arms)
    assert {arm.arm: arm.users for arm in report.arms} == {
        arm: sum(HALVES.arm_of(user_id) == arm for user_id in USERS if user_id != "u2") for arm in arms
    }


@pytest.mark.parametrize("slowest", [0, 1])
async def test_of_several_versions_the_slowness_of_the_worst_is_told(registry, store, monkeypatch, slowest):
    async with running(registry.folder, store, experiment=HALVES) as service:
        for place, deployment in enumerate(service._deployments.all()):
            monkeypatch.setattr(deployment, "slowness", lambda ratio=3.0 if place == slowest else 2.0: {"full": ratio})
        assert service.state().slowness == {"full": 3.0}


async def test_exposures_that_cannot_be_written_are_told(registry, store, monkeypatch):
    async with running(registry.folder, store, experiment=HALVES) as service:
        monkeypatch.setattr(service._experiments._exposures, "problem", "events.db is locked")
        assert (await service.health()).degraded == ["experiment exposures cannot be written; 0 queued"]


@pytest.mark.parametrize("same", [True, False])
async def test_the_shadow_compares_and_nobody_sees_it(registry, versions, store, same):
    registry.set_alias(CHALLENGER, versions[0] if same else versions[1])
    async with running(registry.folder, store, FRESH, shadow_share=1.0) as service:
        for user_id in USERS[:10]:
            assert (await service.recommend(RecommendRequest(user_id=user_id))).served.model == versions[0]
        while (await service.status()).shadow.compared < 10:
            await asyncio.sleep(0.02)
        status = await service.status()
        assert status.shadow.failed == 0
        assert (status.shadow.overlap == 1.0) == same
        assert status.shadow.challenger_p50_ms > 0
        assert status.recent.requests_per_s * status.recent.window_s == pytest.approx(10, abs=0.1)
        assert service.state().experiments["shadow_compared"] == 10


async def test_what_cannot_be_tried_is_one_line(bundles, store, tmp_path):
    with pytest.raises(ConfigError, match="no alias 'other'; use champion and challenger"):
        service_of(bundles[0], store, experiment=Experiment("x", {"champion": 0.5, "other": 0.5}))
    with pytest.raises(ConfigError, match=r"shadow share is 1\.5"):
        service_of(bundles[0], store, shadow_share=1.5)
    headless = Registry(tmp_path / "headless")
    headless.set_alias(CHALLENGER, headless.add(bundles[0]))
    with pytest.raises(ConfigError, match="no version is the champion"):
        await service_of(headless.folder, store).start()
