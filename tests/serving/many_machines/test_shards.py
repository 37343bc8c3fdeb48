"""Two shards on one machine behind ``lanner serve --engine ray``: their answers, and a replica killed under load."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from ray_server import ready, replicas_of, serving, wait_for
from small_shop import QUICK, WORDS, make_shop

from lanner.artifacts.ladder import read_ladder
from lanner.client import Client, Retries
from lanner.compress import compress
from lanner.compression.steps import Budget
from lanner.errors import ServerError
from lanner.models.request_form import take
from lanner.serving.many_machines.shard import ModelPart
from lanner.serving.messages import Event, RecommendRequest
from lanner.serving.model import ModelConfig
from lanner.serving.running import ServerConfig, build
from lanner.serving.served_version import ServiceConfig
from lanner.serving.sharding import Part

for library in ("ray", "onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason=f"'{library}' is not installed: it is of the extras ray, serving or openvino")

SHARDS, REPLICAS = 2, 2
"""With a single replica of a shard nobody could answer for it until the next one is open."""
SECONDS = 7.0
"""Of load after the kill: longer than the front takes to look at its replicas again."""
CALLERS = 8
SHELF = {"attributes": {"shelf": ["shelf1"]}}
ASKED = [
    *({"user_id": f"u{user}", "k": 5} for user in range(6)),
    {"user_id": "nobody", "k": 5},
    {"user_id": "u3", "k": 60, "exclude_seen": False},
    {"history": ["i1", "i2"], "k": 50},
    {"history": ["i1"], "text": " ".join(WORDS[20:30]), "k": 5},
    {"text": " ".join(WORDS[20:30]), "k": 5},
    {"user_id": "u3", "filters": {**SHELF, "deny": ["i21", "i22", "nothing"]}},
    {"user_id": "u3", "filters": {"allow": ["i1", "i2", "i3", "i40"]}, "exclude_seen": False},
    {"user_id": "u3", "filters": {"attributes": {"colour": ["red"]}}},
    {"user_id": "u3", "history": ["i1"]},
    {"k": 5},
]
REFUSED = [
    ("POST", "/v1/recommend", {"user_id": "u3", "diversity": 0.5}),
    ("POST", "/v1/recommend", {"user_id": "u3", "explain": True}),
    ("POST", "/v1/explain", {"user_id": "u3", "item_id": "i4"}),
    ("GET", "/v1/items/i3/similar?k=4", None),
    ("GET", f"/v1/search?q={WORDS[5]}&k=4", None),
    ("PUT", "/v1/items/new", {"title": "new", "text": WORDS[5]}),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    compress(shop, Budget(max_ndcg_loss=0.2), QUICK)
    return shop


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    """(the process, its address, the path of its store)."""
    words = ("--replicas", str(REPLICAS), "--set", f"ray.shards={SHARDS}")
    with serving(bundle, tmp_path_factory.mktemp("ray"), *words, ready_s=120) as started:
        yield started


def told(reply):
    """The items, and their scores apart: sums that are made in another order differ in their last digits."""
    body = reply.json()
    items = body.get("items", [])
    named = [(item["item_id"], item["title"], item["rank"]) for item in items]
    return reply.status_code, named, body.get("error"), [item["score"] for item in items]


def alone(bundle, store):
    """The replies of a server of one process that serves the same variant."""
    config = ServerConfig(
        str(bundle), str(store), model=ModelConfig(variants=("full",)), service=ServiceConfig(deadline_ms=5000)
    )

    async def ask():
        app = build(config)
        await app.service.start()
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
                return [told(await client.post("/v1/recommend", json=body)) for body in ASKED]
        finally:
            await app.service.stop()

    return asyncio.run(ask())


def test_a_shard_holds_the_vectors_of_its_own_items_alone(bundle):
    parts = [ModelPart.open_part(bundle, ModelConfig(), Part(number, 3)) for number in range(3)]
    whole = read_ladder(bundle).rung("full").form
    try:
        for number, part in enumerate(parts):
            engine, own = part.best, Part(number, 3).rows(part.dataset.items.external)
            assert part.variants == ("full",)
            assert len(part.items) == engine.num_items == whole.num_items
            assert len(engine.index) == engine.form.num_items == len(own) < whole.num_items
            assert np.array_equal(take(engine.form.source_ID), take(whole.source_ID, own))
            assert set(engine.index.search(np.ones((1, whole.dimensions + 1)), 60)[0][0].tolist()) == {*own, -1}
            other = part.items.named([next(row for row in range(whole.num_items) if row not in own)])[0][0]
            assert part.delete_item(other)
            assert len(engine.index) == len(own)
            assert part.delete_item(part.items.named(own[:1])[0][0])
            assert len(engine.index) == len(own) - 1
    finally:
        for part in parts:
            part.close()


def test_shards_answer_as_a_single_server_does(server, bundle, tmp_path):
    _, address, _ = server
    expected = alone(bundle, tmp_path / "events.db")
    with httpx.Client(base_url=address) as client:
        for body, wanted in zip(ASKED, expected, strict=True):
            got = told(client.post("/v1/recommend", json=body))
            assert got[:3] == wanted[:3]
            assert got[3] == pytest.approx(wanted[3], abs=1e-4)
        for method, path, body in REFUSED:
            reply = client.request(method, path, json=body)
            assert reply.status_code == 400
            assert "not served while the items are dealt into shards" in reply.json()["error"]
        assert f'lanner_replicas{{what="answering"}} {SHARDS * REPLICAS}.0' in client.get("/metrics").text


def test_every_shard_hears_of_events_and_of_items_that_go(server):
    _, address, _ = server
    with Client(address) as client:
        met, gone = (item.item_id for item in client.recommend(RecommendRequest(user_id="u7", k=2)).items)
        client.add_events([Event(user_id="u7", item_id=met)])
        client.delete_item(gone)
        time.sleep(1.5)
        for shown in (RecommendRequest(user_id="u7", k=60), RecommendRequest(history=["i1"], k=60)):
            found = {item.item_id for item in client.recommend(shown).items}
            assert gone not in found
            assert (met in found) == (shown.user_id is None)


def test_a_replica_of_a_shard_killed_under_load_is_missed_by_nobody(server):
    process, address, _ = server
    stopped, failed, answers = threading.Event(), [], []

    def call():
        with Client(address, retries=Retries(attempts=1), timeout_s=20) as client:
            while not stopped.is_set():
                try:
                    answers.append(client.recommend(RecommendRequest(user_id=f"u{len(answers) % 40}", k=5)))
                except ServerError as error:
                    failed.append(str(error))

    before = set(replicas_of(process.pid))
    assert len(before) == SHARDS * REPLICAS
    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    wait_for(lambda: len(answers) > 20, "nobody is answered", 30)
    killed, asked = min(before), len(answers)
    os.kill(killed, signal.SIGKILL)
    time.sleep(SECONDS)
    stopped.set()
    for caller in callers:
        caller.join()
    assert failed == []
    assert len(answers) > asked
    assert {len(answer.items) for answer in answers} == {5}
    wait_for(
        lambda: len(set(replicas_of(process.pid)) - {killed}) == SHARDS * REPLICAS, "the replica was not replaced", 30
    )
    wait_for(lambda: ready(address), "the new replica does not answer", 60)
