"""Replicas behind ``lanner serve --engine ray``: rejected settings, and two replicas, one killed under load."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
from postgres_cluster import cluster, postgres_server
from real_server import lanner_serve, wait_for
from stand_ins import write_served_bundle

from lanner.client import Client, Retries
from lanner.errors import ConfigError, MissingExtraError, ServerError
from lanner.serving import ray_serve
from lanner.serving.bootstrap import ServerConfig
from lanner.serving.messages import Event, RecommendRequest
from lanner.serving.ray_serve import RayConfig, check_ray
from lanner.serving.store import open_store

__all__ = ["cluster", "postgres_server"]
REPLICAS, CALLERS, SECONDS = 2, 6, 6.0
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"replicas": 0}, "ray.replicas is 0"),
        ({"replicas": 4, "most_replicas": 2}, "ray.most_replicas is 2, below ray.replicas, 4"),
        ({"cpus": 0.0}, "ray.cpus is 0.0"),
        ({"requests_per_replica": float("inf")}, "ray.requests_per_replica is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(ConfigError, match=line):
        RayConfig(**settings)


def test_replicas_need_ray_and_a_store_that_they_share(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    check_ray("postgresql://shop@db/events")
    with pytest.raises(ConfigError, match="needs a shared store: --store postgresql://"):
        check_ray("events.db")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[ray\]'"):
        check_ray("postgresql://shop@db/events")


@needs_ray
def test_no_secret_is_an_argument_of_a_replica(tmp_path, monkeypatch):
    config = ServerConfig(str(tmp_path), "postgresql://shop:hunter2@db/events", keys="keys.toml", engine="ray")
    (settings,) = ray_serve._application(config)._bound_deployment.init_args
    assert b"hunter2" not in settings
    read = msgspec.json.decode(settings, type=ServerConfig)
    assert (read.store, read.engine, read.keys) == ("", "local", str(Path("keys.toml").absolute()))
    monkeypatch.delenv(ray_serve.STORE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="LANNER_STORE is not set on this node"):
        ray_serve.Replica(settings)


@needs_ray
def test_a_replica_killed_under_load_loses_nothing_and_is_replaced(tmp_path, postgres_server, monkeypatch):
    bundle = write_served_bundle(tmp_path / "bundle")
    monkeypatch.setenv("LANNER_STORE", postgres_server)
    words = ("--engine", "ray", "--replicas", str(REPLICAS), "--set", "ray.cpus=0.5")
    stopped = threading.Event()
    acknowledged, asked, failed = [], [0], []

    def call(number):
        with Client(address, retries=Retries(attempts=6), timeout_s=10) as client:
            while not stopped.is_set():
                user = f"user-{number}-{asked[0]}"
                asked[0] += 1
                try:
                    item = client.recommend(RecommendRequest(history=["i1"], k=1)).items[0].item_id
                    client.add_events([Event(user_id=user, item_id=item, key=user)])
                except ServerError as error:
                    failed.append(str(error))
                else:
                    acknowledged.append((user, item))

    with lanner_serve(bundle, tmp_path, *words, "--set", "service.deadline_ms=5000", ready_s=60) as (process, port, _):
        address = f"http://127.0.0.1:{port}"
        before = replicas_of(process.pid)
        assert len(before) == REPLICAS
        callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        wait_for(lambda: len(acknowledged) > 20, "nobody is answered")
        os.kill(min(before), signal.SIGKILL)
        time.sleep(SECONDS)
        stopped.set()
        for caller in callers:
            caller.join()
        # Ray answers 500 for what the replica had in hand; nobody else notices.
        assert len(failed) <= CALLERS, failed
        assert len(acknowledged) > 100
        wait_for(lambda: len(replicas_of(process.pid) - {min(before)}) == REPLICAS, "the replica is not replaced", 30)
        user, item = acknowledged[-1]
        with Client(address) as client:
            for _ in range(8):  # every replica knows
                answer = client.recommend(RecommendRequest(user_id=user, k=24))
                assert answer.unknown == []
                assert item not in {one.item_id for one in answer.items}
    opened = open_store(postgres_server)
    stored = {row.user_id for rows in opened.events() for row in rows}
    opened.close()
    assert [user for user, _ in acknowledged if user not in stored] == []
    assert not replicas_of(process.pid)


def replicas_of(server):
    """Processes of replicas below a server's own, which Ray names in their command line."""
    parents, found = {}, set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            if name.startswith(b"ray::ServeReplica"):
                found.add(int(entry.name))
    return {pid for pid in found if server in _ancestors(pid, parents)}


def _ancestors(pid, parents):
    while pid in parents:
        pid = parents[pid]
        yield pid
