"""The load generator of the serving benchmark against a server with known response times."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

pytest.importorskip("psutil", reason="the extra 'bench' is not installed")

from benchmarks._serving_load import EVENT, NEW_ITEM, RECOMMEND, VARIANTS, Load, Outcome, Requests, is_whole, send
from benchmarks._serving_saturation import summary
from benchmarks._serving_servers import PEERS

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


def test_the_list_for_everybody_is_no_personal_answer():
    due_s, latency_s = np.arange(4.0), np.array([0.001, 0.001, 0.03, np.nan])
    status, kind = np.array([200, 200, 200, 429], np.int16), np.full(4, RECOMMEND, np.int8)
    variant = np.array([VARIANTS.index(name) for name in ("full", "popularity", "full", "")], np.int8)
    figures = Outcome(due_s, latency_s, status, kind, variant, {}).figures(2.0, 0.02)
    assert (figures["answered_per_s"], figures["goodput_per_s"], figures["personal_goodput_per_s"]) == (1.5, 1.0, 0.5)
    assert figures["rejected"] == 1


def row(goodput, p50_ms):
    calm = {"recommend": {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms}}
    found = {"goodput_per_s": goodput, "personal_share": 0.8, "throughput_per_s": 2 * goodput, "ready_s": 1.0}
    confirmed = {"answered_by": {"full": 0.25, "popularity": 0.75}}
    return found | {"light": calm, "at_half_of_lanner": calm, "confirmed": confirmed}


def test_figures_of_a_million_items_have_names_of_their_own():
    peers = {name: {"error": "no"} for name in PEERS} | {"fastapi": row(300, 2.0), "litserve": row(100, 4.0)}
    rows = {"lanner": row(600, 1.0), **peers}
    found = summary({"100000": rows, "1000000": rows | {"lanner": row(900, 1.0)}})
    assert (found["personal_goodput_over_fastapi"], found["personal_goodput_over_fastapi_1m"]) == (2, 3)
    assert (found["personal_goodput_over_best_peer"], found["light_load_p50_over_fastapi"]) == (6, 0.5)
    assert (found["personal_share"], found["light_load_p99_over_p50"], found["p99_over_best_peer"]) == (0.8, 2, 0.5)
    assert "personal_goodput_over_raw_asgi" not in found, "it was not measured"
    assert found["full_share"] == 0.25
    del rows["mlserver"]
    assert "personal_goodput_over_best_peer" not in summary({"100000": rows}), "the best of all was not looked for"


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
