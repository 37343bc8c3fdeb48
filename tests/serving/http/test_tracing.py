"""Spans as received by a collector, which is a thread of the test."""

import gzip
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asking import ask
from stand_in_service import StandInService

pytest.importorskip("opentelemetry.sdk", reason="the extra 'tracing' is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lanner.serving.http import tracing as module
from lanner.serving.http.limits import Limits
from lanner.serving.http.tracing import TracedApp, Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans, self.services = [], set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.server.services.update(names)
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    one = Collector()
    yield one
    one.shutdown()
    one.server_close()


def traced(collector, ratio=1.0):
    tracing = Tracing(collector.url, ratio, "shop")
    return TracedApp(StandInService(), None, Limits(), tracing), tracing


def attributes(span):
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind)
    return found


def test_a_request_is_a_span_that_names_what_answered_and_nobody(collector):
    app, tracing = traced(collector)
    ask(app, "POST", "/v1/recommend", b'{"user_id":"secret"}')
    ask(app, "PUT", "/v1/items/secret", b"[]")
    ask(app, "POST", "/v1/recommend", b'{"user_id":"bug"}')
    ask(app, "SECRET", "/secret")
    tracing.close()
    first, second, third, last = collector.spans
    assert first.name == "POST /v1/recommend"
    assert first.kind == first.SPAN_KIND_SERVER
    assert attributes(first) == {
        "http.request.method": "POST",
        "http.route": "/v1/recommend",
        "http.response.status_code": 200,
        "lanner.model": "stand-in",
        "lanner.variant": "full",
        "lanner.backend": "none",
        "lanner.cached": False,
        "lanner.total_ms": 0.5,
        "lanner.queue_ms": 0.1,
    }
    assert (second.name, attributes(second)["http.response.status_code"]) == ("PUT /v1/items/{item_id}", 400)
    assert second.status.code == second.status.STATUS_CODE_UNSET
    assert (attributes(third)["http.response.status_code"], third.status.code) == (500, third.status.STATUS_CODE_ERROR)
    assert (last.name, attributes(last)) == ("other", {"http.response.status_code": 404})
    assert b"secret" not in b"".join(span.SerializeToString() for span in collector.spans).lower()
    assert collector.services == {"shop"}
    assert tracing.figures() == {"spans_sent": 4, "spans_failed": 0, "spans_dropped": 0}


@pytest.mark.parametrize(("flags", "ratio", "spans"), [("01", 0.0, 1), ("00", 1.0, 0)])
def test_the_callers_trace_is_continued_as_the_caller_decided(collector, flags, ratio, spans):
    app, tracing = traced(collector, ratio)
    ask(app, "GET", "/health/live", headers={"traceparent": f"00-{TRACE}-{PARENT}-{flags}"})
    tracing.close()
    assert [(one.trace_id.hex(), one.parent_span_id.hex()) for one in collector.spans] == [(TRACE, PARENT)] * spans


def test_of_traces_that_begin_here_the_share_is_recorded_that_was_asked_for(collector):
    app, tracing = traced(collector, 0.25)
    for number in range(400):
        headers = {"traceparent": "nonsense"} if number % 2 else None
        ask(app, "GET", "/health/live", headers=headers)
    tracing.close()
    assert 60 < len(collector.spans) < 140


def test_while_the_collector_is_away_requests_are_answered_and_spans_are_counted(collector, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 512)
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.2)
    app, tracing = traced(collector)
    collector.shutdown()
    collector.server_close()
    for _ in range(1_500):
        assert ask(app, "GET", "/health/live").status == 200
    text = ask(app, "GET", "/metrics").body.decode()
    assert 'lanner_background_jobs{what="spans_dropped"}' in text
    begun = time.monotonic()
    tracing.close()
    assert time.monotonic() - begun < 5
    figures = tracing.figures()
    assert figures["spans_sent"] == 0
    assert figures["spans_dropped"] > 0
    assert figures["spans_dropped"] + figures["spans_failed"] == 1_501


def test_without_a_collector_nothing_of_it_is_imported():
    program = (
        "import sys, lanner.serving.http.app; "
        "print([one for one in sys.modules if 'opentelemetry' in one or 'http.tracing' in one])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
