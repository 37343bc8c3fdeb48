"""``lanner serve``: effective settings, what is rejected before startup, and what clients see of workers."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from real_server import children, free_port, health, lanner_serve, wait_for, wait_until_ready
from stand_ins import write_served_bundle

pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")

from lanner.cli import main as cli
from lanner.client import Client, Retries
from lanner.errors import ServerError
from lanner.serving import bootstrap, supervisor
from lanner.serving.http.keys import create
from lanner.serving.messages import Event, RecommendRequest
from lanner.serving.store import open_store

WORKERS = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_served_bundle(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Runs ``lanner serve`` up to the supervisor; returns (exit code, its configuration or None, standard error)."""
    chosen = []
    monkeypatch.setattr(supervisor, "serve", chosen.append)
    monkeypatch.delenv("LANNER_STORE", raising=False)
    monkeypatch.chdir(tmp_path)

    def asked(*words):
        chosen.clear()
        with pytest.raises(SystemExit) as stopped:
            cli.main(["serve", *map(str, words)])
        return stopped.value.code or 0, chosen[0] if chosen else None, capsys.readouterr().err

    return asked


def test_an_option_overrides_only_if_it_is_given(ask, bundle, tmp_path, monkeypatch):
    keys = tmp_path / "keys.toml"
    create(keys, "read", "shop")
    file = tmp_path / "server.toml"
    file.write_text(f'keys = "{keys}"\nstore = "own.db"\nhost = "::1"\nport = 9001\nworkers = 3\nengine = "local"\n')
    code, chosen, err = ask(bundle, "--config", file)
    assert (code, err) == (0, "")
    found = (chosen.keys, chosen.store, chosen.host, chosen.port, chosen.workers)
    assert found == (str(keys), "own.db", "::1", 9001, 3)
    assert bootstrap.build(chosen).keys is not None  # a server meant to have keys does not run open
    _, chosen, _ = ask(bundle, "--config", file, "--set", "port=9002", "--set", f"store={tmp_path}/set.db")
    assert (chosen.port, chosen.store) == (9002, f"{tmp_path}/set.db")
    _, chosen, _ = ask(bundle, "--config", file, "--set", "port=9002", "--port", 9003, "--host", "127.0.0.1")
    assert (chosen.port, chosen.host, chosen.keys) == (9003, "127.0.0.1", str(keys))
    monkeypatch.setenv("LANNER_STORE", "variable.db")
    assert ask(bundle)[1].store == "variable.db"
    assert ask(bundle, "--store", "option.db")[1].store == "option.db"


def test_nothing_given_is_a_server_of_this_machine(ask, bundle):
    _, chosen, _ = ask(bundle)
    assert chosen == bootstrap.ServerConfig(str(bundle))
    assert (chosen.host, chosen.port, chosen.store, chosen.keys) == ("127.0.0.1", 8080, "events.db", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--host", "0.0.0.0"), "without API keys anyone who can reach 0.0.0.0"),
        (("--keys", "nowhere.toml"), "nowhere.toml: the key file cannot be read"),
        (("--set", "model.variants=['int4']"), "no variant 'int4'"),
        (("--set", "shadow_share=0.1"), "not a registry with a challenger"),
        (("--set", "shadow_share=2"), "shadow_share is 2"),
        (("--set", "hung_seconds=0"), "hung_seconds is 0"),
        (("--set", "prot=9"), "did you mean 'port'?"),
        (("--set", "tracing.endpoint=collector"), "expected http://host:4318"),
        (("--store", "nothing://x"), "unknown store 'nothing://'"),
        (("--store", "nowhere/events.db"), "nowhere"),
        (("--replicas", "3"), "--replicas needs --engine ray"),
        (("--config", "nowhere.toml"), "nowhere.toml: cannot be read"),
    ],
)
def test_what_would_fail_is_said_in_one_line_before_anything_starts(ask, bundle, words, line):
    code, chosen, err = ask(bundle, *words)
    assert (code, chosen, err.count("\n")) == (2, None, 1)
    assert line in err


def test_a_folder_without_a_bundle_or_a_champion_is_refused(ask, tmp_path):
    code, chosen, err = ask(tmp_path)
    assert (code, chosen, err.count("\n")) == (2, None, 1)
    assert "neither a bundle nor a registry" in err


def test_a_taken_port_ends_the_command_with_one_line(bundle, tmp_path):
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "lanner", "serve", str(bundle), "--port", port, "--workers", "2"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


class Caller(threading.Thread):
    """Tells of an event and asks for items, again and again; each event is sent until it is acknowledged."""

    def __init__(self, port, number, stopped):
        super().__init__()
        self._port, self._number, self._stopped = port, number, stopped
        self.acknowledged, self.wrong, self.failed, self.slowest_s = [], [], 0, 0.0

    def run(self):
        while not self._stopped.is_set():
            # A connection a request: the kernel spreads them over the workers.
            with Client(f"http://127.0.0.1:{self._port}", retries=Retries(attempts=1), timeout_s=10) as client:
                user, began = f"user-{self._number}-{len(self.acknowledged)}", time.monotonic()
                try:
                    item = client.recommend(RecommendRequest(history=["i1"], k=1)).items[0].item_id
                    client.add_events([Event(user_id=user, item_id=item, key=user)])
                except ServerError:
                    self.failed += 1
                    time.sleep(0.05)
                    continue
                finally:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.acknowledged.append(user)
                try:
                    after = client.recommend(RecommendRequest(user_id=user, k=24))
                except ServerError:
                    continue
                if item in {one.item_id for one in after.items} or after.unknown:
                    self.wrong.append(user)


def test_workers_share_what_they_are_told_and_replace_one_another(bundle, tmp_path):
    store = tmp_path / "events.db"
    words = ("--workers", str(WORKERS), "--store", str(store), "--set", "hung_seconds=1")
    with lanner_serve(bundle, tmp_path, *words, "--set", "service.deadline_ms=5000") as (process, port, log):
        workers = children(process.pid)
        stopped = threading.Event()
        callers = [Caller(port, number, stopped) for number in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(1)
        before = sum(caller.failed for caller in callers)
        with Client(f"http://127.0.0.1:{port}") as client:
            gone = client.recommend(RecommendRequest(history=["i1"], k=1)).items[0].item_id
            client.delete_item(gone)  # acknowledged once every worker has applied it
        for _ in range(20):
            with Client(f"http://127.0.0.1:{port}") as client:
                listed = client.recommend(RecommendRequest(history=["i1"], k=24)).items
                assert gone not in {one.item_id for one in listed}
        # Of the children one is the resource tracker of Python's spawn.
        served = [pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(served) == WORKERS
        os.kill(served[0], signal.SIGKILL)
        wait_for(lambda: "degraded" in health(port), "nobody notices that a worker died")
        wait_for(lambda: health(port) == {"ready": True}, "the worker that died is not replaced")
        os.kill(served[1], signal.SIGSTOP)
        began = time.monotonic()
        with Client(f"http://127.0.0.1:{port}", retries=Retries(attempts=8)) as client:
            client.delete_item("i5")
        assert time.monotonic() - began < 8  # a write of an item waits for a worker that hangs, but not for ever
        wait_for(lambda: not Path(f"/proc/{served[1]}").exists(), "the worker that hangs is not killed")
        wait_for(lambda: health(port) == {"ready": True}, "the worker that hung is not replaced")
        stopped.set()
        for caller in callers:
            caller.join()
        assert "exited unexpectedly (signal 9)" in log.read_text()
        assert "Traceback" not in log.read_text()
        assert health(port) == {"ready": True}
        with Client(f"http://127.0.0.1:{port}") as client:
            counted = re.search(r'requests_total.*route="/v1/events",status="200"} (\S+)', client.metrics())
        assert float(counted[1]) >= sum(len(caller.acknowledged) for caller in callers)
    assert before == 0
    assert [user for caller in callers for user in caller.wrong] == []
    assert max(caller.slowest_s for caller in callers) < 8
    acknowledged = [user for caller in callers for user in caller.acknowledged]
    assert len(acknowledged) > 100
    opened = open_store(str(store))
    stored = {row.user_id for rows in opened.events() for row in rows}
    opened.close()
    assert [user for user in acknowledged if user not in stored] == []


def test_ctrl_c_ends_every_worker_without_a_word(bundle, tmp_path):
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "lanner", "serve", str(bundle), "--port", str(port), "--workers", "2"]
    for pause_s in (0.0, 0.3, None):
        with log.open("w") as opened:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=opened, stderr=opened, start_new_session=True)
        if pause_s is None:
            wait_until_ready(port, process)
        else:
            wait_for(lambda: "Page" in log.read_text(), "it does not start")
            time.sleep(pause_s)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(15) in (0, -signal.SIGINT)
        assert "Traceback" not in log.read_text()


def test_one_worker_is_one_process_that_ends_in_peace(bundle, tmp_path):
    with lanner_serve(bundle, tmp_path, "--workers", "1", "--store", str(tmp_path / "events.db")) as (process, port, _):
        assert children(process.pid) == set()
        assert Client(f"http://127.0.0.1:{port}").recommend(RecommendRequest(user_id="u1", k=3)).items


def test_a_server_whose_bundle_answers_wrongly_does_not_start(bundle, tmp_path):
    port, broken = free_port(), write_served_bundle(tmp_path / "broken")
    file = broken / "popularity.scoring.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    command = [sys.executable, "-m", "lanner", "serve", str(broken), "--port", str(port), "--workers", "2"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == "lanner: the server failed to start; see the messages above"
    assert "popularity.scoring.safetensors" in ended.stderr
    assert "Traceback" not in ended.stderr
