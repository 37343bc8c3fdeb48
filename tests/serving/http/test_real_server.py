"""A real server on a real socket: its responses, and that no input makes it fail."""

import os
import random
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from real_server import wait_until_ready

from benchmarks._serving_malformed import malformed
from lanner.client import Client
from lanner.serving.messages import Event, RecommendRequest

HERE = Path(__file__).parent
REQUESTS = 2000


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("w+")
    serve = "import socket, stand_in_service, lanner.serving.http.server as server"
    serve += f"; sockets = [socket.create_server(('127.0.0.1', {port}), reuse_port=True)]"
    serve += "; assert server.run_worker(stand_in_service.served(), sockets)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    server = subprocess.Popen([sys.executable, "-c", serve], env=environment, stdout=log, stderr=log)
    wait_until_ready(port, server)
    yield port
    assert server.poll() is None, "the server ended by itself"
    server.terminate()
    assert server.wait(20) == 0
    log.seek(0)
    assert not re.search("Traceback|panicked|ERROR", log.read())


def test_the_client_and_the_server_understand_one_another(port):
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.recommend(RecommendRequest(user_id="ada", k=2)).items[0].item_id == "ada-1"
        assert client.add_events([Event(user_id="a", item_id="b")]).accepted == 1
        for id in ["a/b", "..", "é 漢", "%2F?#"]:
            assert client.delete_item(id).id == id
        assert client.recommend(RecommendRequest(text="x" * 20_000, k=1)).items
        assert "lanner_requests_total" in client.metrics()


def test_bodies_are_bounded_and_callers_may_go_away(port):
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    assert _send(port, head + b"content-length: 99999999\r\n\r\n")[:12] == b"HTTP/1.1 413"
    assert _send(port, head + b"content-length: 50\r\n\r\n{", wait=0.05) == b""
    chunked = b'transfer-encoding: chunked\r\n\r\n5\r\n{"k":\r\n2\r\n1}\r\n0\r\n\r\n'
    assert _send(port, head + chunked)[:12] == b"HTTP/1.1 200"
    head_only = _send(port, b"HEAD /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert re.search(rb"content-length: [1-9]\d{3,}\r\n", head_only)
    assert head_only.endswith(b"\r\n\r\n")


def test_no_bytes_make_the_server_fail(port):
    statuses, seeds = [], range(REQUESTS)
    threads = [threading.Thread(target=lambda n=n: statuses.extend(_statuses(port, seeds[n::8]))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == REQUESTS
    assert [one for one in statuses if one and one >= 500] == []
    assert len([one for one in statuses if one and one >= 400]) > REQUESTS / 2
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.ready().ready


def _statuses(port, seeds):
    for seed in seeds:
        reply = _send(port, malformed(random.Random(seed)), wait=0.2)
        yield int(reply[9:12]) if reply.startswith(b"HTTP/1.") else None


def _send(port, content, wait=5.0):
    """The first bytes that come back; nothing where the server closes, or still waits for more after ``wait`` s."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(content)
            connection.settimeout(wait)
            return connection.recv(65536)
    except (ConnectionError, TimeoutError):
        return b""
