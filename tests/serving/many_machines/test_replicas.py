"""Two replicas on one machine behind ``lanner serve --engine ray``: their answers, and one killed under load."""

import asyncio
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from ray_server import ready, replicas_of, serving, wait_for
from small_shop import QUICK, WORDS, make_shop

from lanner.client import Client, Retries
from lanner.compress import compress
from lanner.compression.steps import Budget
from lanner.errors import ServerError
from lanner.serving.messages import Event, RecommendRequest
from lanner.serving.running import ServerConfig, build
from lanner.serving.served_version import ServiceConfig
from lanner.serving.store import open_store

for library in ("ray", "onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason=f"'{library}' is not installed: it is of the extras ray, serving or openvino")

REPLICAS = 2
SECONDS = 4.0
CALLERS = 16
ASKED = [
    *(("POST", "/v1/recommend", {"user_id": f"u{user}", "k": 5}) for user in range(6)),
    ("POST", "/v1/recommend", {"history": ["i1", "i2"], "k": 5, "explain": True}),
    ("POST", "/v1/recommend", {"text": " ".join(WORDS[20:30]), "k": 5}),
    ("POST", "/v1/explain", {"user_id": "u3", "item_id": "i4"}),
    ("GET", "/v1/items/i3/similar?k=4", None),
    ("GET", f"/v1/search?q={WORDS[5]}&k=4", None),
    ("GET", "/openapi.json", None),
    ("POST", "/v1/recommend", {"k": 5}),
    ("POST", "/v1/explain", {"user_id": "u3", "item_id": "nothing"}),
    ("POST", "/v1/recommend", {"user_id": "u3", "filters": {"attributes": {"colour": ["red"]}}}),
    ("POST", "/v1/recommend", {"user_id": "u3", "k": 0}),
    ("GET", "/nowhere", None),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    compress(shop, Budget(max_ndcg_loss=0.2), QUICK)
    return shop


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    """(the process, its address, the path of its store)."""
    with serving(bundle, tmp_path_factory.mktemp("ray"), "--replicas", str(REPLICAS)) as started:
        yield started


def told(reply):
    """What must be alike: not who answered, how long it took, and in which order headers came."""
    body = reply.json()
    body.pop("served", None)
    return reply.status_code, reply.headers.get("content-type"), body


def alone(bundle, store):
    """The replies of a server of one process."""
    config = ServerConfig(str(bundle), str(store), service=ServiceConfig(deadline_ms=5000, processes=0))

    async def ask():
        app = build(config)
        await app.service.start()
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
                return [told(await client.request(method, path, json=body)) for method, path, body in ASKED]
        finally:
            await app.service.stop()

    return asyncio.run(ask())


def test_replicas_answer_as_a_single_server_does(server, bundle, tmp_path):
    _, address, _ = server
    expected = alone(bundle, tmp_path / "events.db")
    with httpx.Client(base_url=address) as client:
        for _ in range(3):
            replies = [told(client.request(method, path, json=body)) for method, path, body in ASKED]
            assert replies == expected
        figures = client.get("/metrics").text
    assert f'lanner_replicas{{what="answering"}} {REPLICAS}.0' in figures
    assert "lanner_requests_total" in figures


def test_every_replica_hears_of_what_one_was_told(server):
    _, address, _ = server
    with Client(address) as client:
        first = client.recommend(RecommendRequest(user_id="u7", k=3)).items[0].item_id
        client.add_events([Event(user_id="u7", item_id=first)])
        time.sleep(1.5)
        for _ in range(12):
            found = client.recommend(RecommendRequest(user_id="u7", k=3)).items
            assert first not in {item.item_id for item in found}


class Caller(threading.Thread):
    """Asks and tells until stopped, each once: nothing is repeated by the caller."""

    def __init__(self, address, number, stopped):
        super().__init__()
        self._address, self._number, self._stopped = address, number, stopped
        self.acknowledged, self.failed, self.answers = [], [], 0

    def run(self):
        with Client(self._address, retries=Retries(attempts=1), timeout_s=20) as client:
            while not self._stopped.is_set():
                name = f"caller-{self._number}-{self.answers}"
                try:
                    client.recommend(RecommendRequest(user_id=f"u{self.answers % 40}", k=5))
                    client.add_events([Event(user_id=name, item_id="i1")])
                except ServerError as error:
                    self.failed.append(str(error))
                else:
                    self.acknowledged.append(name)
                self.answers += 1


def test_a_replica_killed_under_load_loses_nothing_and_is_replaced(server):
    process, address, store = server
    stopped = threading.Event()
    callers = [Caller(address, number, stopped) for number in range(CALLERS)]
    before = set(replicas_of(process.pid))
    assert len(before) == REPLICAS
    for caller in callers:
        caller.start()
    time.sleep(SECONDS / 4)
    killed = min(before)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # every caller's events now wait in a replica, some of them in this one
        time.sleep(SECONDS / 8)
        os.kill(killed, signal.SIGKILL)
        other.execute("ROLLBACK")
    time.sleep(SECONDS)
    stopped.set()
    for caller in callers:
        caller.join()
    assert [line for caller in callers for line in caller.failed] == []
    acknowledged = [name for caller in callers for name in caller.acknowledged]
    assert len(acknowledged) > 20
    opened = open_store(str(store))
    try:
        stored = [row.user_id for rows in opened.events() for row in rows if row.user_id.startswith("caller-")]
    finally:
        opened.close()
    assert sorted(stored) == sorted(acknowledged)
    wait_for(lambda: len(set(replicas_of(process.pid)) - {killed}) == REPLICAS, "the replica was not replaced", 30)
    wait_for(lambda: ready(address), "the new replica does not answer", 30)
