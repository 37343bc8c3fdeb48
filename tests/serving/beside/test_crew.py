"""A server whose plain requests are answered by processes: the same answers and catalogue, and what a death costs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from small_shop import QUICK, WORDS, make_shop

from lanner.compress import compress
from lanner.compression.steps import Budget
from lanner.errors import BundleError, ConfigError
from lanner.serving.beside import handle
from lanner.serving.beside.crew import Crew
from lanner.serving.messages import Event, EventBatch, Filters, Item, RecommendRequest
from lanner.serving.retrieval import index as index_module
from lanner.serving.running import ServerConfig, service_of
from lanner.serving.served_version import ServiceConfig
from lanner.serving.service import LannerService
from lanner.serving.versions import following

for library in ("onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason="an extra of serving is not installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    compress(shop, Budget(max_ndcg_loss=0.2), QUICK)
    return shop


@pytest.fixture
def config(bundle, tmp_path, monkeypatch) -> ServerConfig:
    monkeypatch.setattr(following, "POLL_SECONDS", 3600.0)  # tests say themselves when to look
    patient = ServiceConfig(deadline_ms=10_000, watch_seconds=0, answers_held=0, processes=1)
    return ServerConfig(str(bundle), str(tmp_path / "events.db"), service=patient)


@asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[LannerService]:
    service = service_of(config)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def talk(config: ServerConfig, conversation: Callable) -> None:
    async def talked() -> None:
        async with running(config) as service:
            await conversation(service)

    asyncio.run(talked())


def process_of(service: LannerService) -> handle.EngineProcess:
    [version] = service._live.models()
    return version._crew._all[0]


def asked_of(process: handle.EngineProcess, monkeypatch) -> list[str]:
    """The variants that it is asked for from now on."""
    seen, ask = [], process.ask
    monkeypatch.setattr(process, "ask", lambda variant, *rest: seen.append(variant) or ask(variant, *rest))
    return seen


async def ids(service: LannerService, **asked) -> list[str]:
    return [item.item_id for item in (await service.recommend(RecommendRequest(**asked))).items]


def test_a_process_answers_as_threads_do(config, monkeypatch):
    histories, found = [[f"i{number}", f"i{7 * number % 60}", "i3"] for number in range(40)], {}

    async def conversation(service):
        seen = [] if service.config.processes == 0 else asked_of(process_of(service), monkeypatch)
        found[service.config.processes] = [await ids(service, history=one, k=12) for one in histories]
        assert len(seen) == (40 if service.config.processes else 0)

    talk(config, conversation)
    talk(replace(config, service=replace(config.service, processes=0)), conversation)
    assert found[0] == found[1]


def test_items_come_and_go_there_too(config, monkeypatch):
    async def conversation(service):
        seen = asked_of(process_of(service), monkeypatch)
        before = await ids(service, history=["i1"], k=60)
        await service.put_item("new", Item(title="new", text=" ".join(WORDS[:6])))
        assert "new" in await ids(service, history=["i1"], k=61)
        await service.add_events(EventBatch(events=[Event(user_id="zoe", item_id="new", key="a")]))
        assert "new" not in await ids(service, user_id="zoe", k=61)
        assert "new" in await ids(service, user_id="zoe", k=61, exclude_seen=False)
        await service.delete_item(before[0])
        assert before[0] not in await ids(service, history=["i1"], k=61)
        assert len(seen) == 5

    talk(config, conversation)


def test_an_index_built_anew_is_taken_over_there(config, monkeypatch, caplog):
    monkeypatch.setattr(index_module, "_CHANGES_UNNOTICED", 2)
    monkeypatch.setattr(index_module, "_CHANGED_SHARE", 0.0)

    async def conversation(service):
        [version] = service._live.models()
        process, model = process_of(service), version.model
        folded, fold = [], process.fold
        monkeypatch.setattr(process, "fold", lambda place, folder: folded.append(place) or fold(place, folder))
        for number in range(4):
            await service.put_item(f"new{number}", Item(title="new", text=WORDS[number]))
            await asyncio.to_thread(model._folding._thread.join) if model._folding._thread else None
        await service.delete_item("i4")
        assert folded
        assert not process.has_died
        seen = asked_of(process, monkeypatch)
        for history in (["i1"], ["i2", "new1"], ["i9", "i10", "new3"]):
            rows = model.items.known_rows(history)
            expected = [one for one, _ in model.items.named(model.best.answer(rows, 64).items)]
            assert await ids(service, history=history, k=64) == expected
        assert seen
        assert "cannot be built" not in caplog.text
        assert "could not take a change" not in caplog.text

    talk(config, conversation)


def test_what_is_not_plain_is_left_to_threads(config, monkeypatch):
    async def conversation(service):
        seen = asked_of(process_of(service), monkeypatch)
        await ids(service, text=WORDS[0])
        assert await ids(service, history=["i3"], filters=Filters(allow=["i1"])) == ["i1"]
        assert seen == []

    talk(config, conversation)


def test_who_asks_a_process_that_dies_is_answered_and_another_takes_its_place(config, caplog):
    async def conversation(service):
        process, expected = process_of(service), await ids(service, history=["i5", "i6"])
        os.kill(process._process.pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(ids(service, history=["i5", "i6"])) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert process.pending
        os.kill(process._process.pid, signal.SIGKILL)
        assert await asyncio.gather(*waiting) == [expected] * 4
        [worn] = service._live.models()
        assert worn.is_worn
        assert service.state().held_entries["engine_processes"] == 0
        assert "ended unasked" in caplog.text
        # Changes need not wait for who is not there.
        await service.put_item("new", Item(title="new", text=WORDS[0]))
        await asyncio.to_thread(service._follower.follow)
        [fresh] = service._live.models()
        assert fresh is not worn
        assert not fresh.is_worn
        assert service.state().held_entries["engine_processes"] == 1
        assert "new" in await ids(service, history=["i5", "i6"], k=61)

    talk(config, conversation)


def test_they_end_with_their_server(config):
    ended = []

    async def conversation(service):
        [version] = service._live.models()
        ended.extend(one._process for one in version._crew._all)
        assert service.state().held_entries["engine_processes"] == 2

    talk(replace(config, service=replace(config.service, processes=2)), conversation)
    assert [one.poll() for one in ended] == [0, 0]


def test_one_that_is_told_nothing_ends_in_peace():
    async def started_and_closed() -> int | None:
        crew = Crew(1, asyncio.get_running_loop())
        await asyncio.to_thread(crew.close)
        return crew._all[0]._process.poll()

    assert asyncio.run(started_and_closed()) == 0


def test_a_process_that_cannot_open_the_bundle_says_why_and_none_is_left(config, monkeypatch, bundle):
    begun, opens = [], Crew.open
    monkeypatch.setattr(Crew, "open", lambda self, path, *rest: begun.append(self) or opens(self, f"{path}-x", *rest))

    async def conversation(service):
        pytest.fail("it must not start")

    with pytest.raises(BundleError, match=r"an engine process could not open it .*no ladder there"):
        talk(config, conversation)
    assert [one._process.poll() for one in begun[0]._all] == [0]


def test_fewer_than_none_are_refused():
    with pytest.raises(ConfigError, match="processes is -1"):
        ServiceConfig(processes=-1)
