"""The load generator of the serving benchmark against a server whose every answer takes a known time."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks._serving_load import EVENT, NEW_ITEM, RECOMMEND, VARIANTS, Load, Requests, is_whole, send

SERVICE_S = 0.02


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(SERVICE_S)
        status = 429 if "events" in body else 200
        reply = b'{"items":[],"served":{"variant":"int8"}}'
        self.send_response(status)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_PUT = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def requests(tmp_path):
    path = tmp_path / "requests.json"
    told = {"items": 1000, "histories": [list(range(50)), list(range(50, 100))], "users": 3, "texts": ["a film"]}
    path.write_text(json.dumps(told))
    return str(path)


def test_no_answer_delays_the_next_request(port, requests):
    outcome = send(Load(port, [(40, 1.0)], requests, 1, connections=40, events=0, new_items=0))
    assert outcome.answered.all()
    assert np.median(outcome.latency_s) < 2 * SERVICE_S
    assert set(outcome.variant) == {VARIANTS.index("int8")}
    assert outcome.cost["generator_cpu_us_per_request"] > 0


def test_waiting_for_a_connection_counts(port, requests):
    """Twice what one connection carries: in the end half of them still wait."""
    outcome = send(Load(port, [(2 / SERVICE_S, 0.5)], requests, 1, connections=1, events=0, new_items=0))
    assert outcome.answered.all()
    assert np.sort(outcome.latency_s)[-3] > 5 * SERVICE_S


def test_kinds_and_statuses_are_kept_apart(port, requests):
    outcome = send(Load(port, [(100, 1.0)], requests, 1, connections=64, events=0.3, new_items=0.1))
    assert set(outcome.status[outcome.kind == EVENT]) == {429}
    assert set(outcome.status[outcome.kind != EVENT]) == {200}
    figures = outcome.of_kind(RECOMMEND).figures(1.0, 1.0)
    assert figures["goodput_per_s"] == np.count_nonzero(outcome.kind == RECOMMEND)
    assert outcome.within(0.5, 1.0).due_s.min() >= 0.5


def test_no_two_requests_are_the_same(requests):
    kinds = np.array([RECOMMEND] * 200 + [EVENT] * 50 + [NEW_ITEM] * 50, np.int8)
    load = Load(1, [(1, 1)], requests, 1)
    made = Requests(load, kinds, np.random.default_rng(0))
    written = [made[number] for number in range(len(kinds))]
    assert len(set(written)) > 0.8 * len(written)
    for one in written:
        head, _, body = one.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head
        json.loads(body)


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
    ],
)
def test_an_answer_is_whole_at_its_last_byte(data, whole):
    assert is_whole(data) is whole
