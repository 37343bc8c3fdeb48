"""OpenTelemetry traces: one span per request. Imported only if the settings name a collector."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Timer
from typing import Any

from lanner.errors import MissingExtraError
from lanner.serving.http.app import App, Endpoint
from lanner.serving.http.contract import Service, State
from lanner.serving.http.keys import KeyFile
from lanner.serving.http.limits import Limits
from lanner.serving.http.request_parsing import Receive, RequestHeaders, Scope, Send
from lanner.serving.http.responses import Reply
from lanner.serving.messages import Served

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise MissingExtraError("opentelemetry-sdk", "tracing", "tracing") from None

_MAX_WAITING = 2_048
"""Maximum queued spans; further ones are dropped and counted."""
_SEND_SECONDS = 5.0
_STOP_SECONDS = 2.0
"""Timeout in seconds for exporting the last spans at shutdown."""
_CONTEXT = (b"traceparent", b"tracestate")


class Tracing:
    """Exports spans to a collector in the background, in bounded memory; drops them while it is unavailable."""

    def __init__(self, endpoint: str, ratio: float, service: str) -> None:
        """endpoint: OTLP/HTTP URL. ratio: sampling ratio of root traces; a caller's sampling decision is kept."""
        self._exporter = _Exporter(endpoint)
        self._queue = _Queue(self._exporter)
        sampler = ParentBased(TraceIdRatioBased(ratio))
        resource = Resource.create({SERVICE_NAME: service})
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer("lanner")
        self._read_context = TraceContextTextMapPropagator().extract

    @contextmanager
    def span(self, headers: Sequence[tuple[bytes, bytes]]) -> Iterator[Any]:
        """The span of one request, a child of the caller's span if the headers name one."""
        named = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CONTEXT}
        context = self._read_context(named)
        with self._tracer.start_as_current_span("other", context, trace.SpanKind.SERVER) as span:
            yield span

    def figures(self) -> Mapping[str, float]:
        """Spans exported, rejected by the collector, and dropped because the queue was full."""
        exporter = self._exporter
        return {"spans_sent": exporter.sent, "spans_failed": exporter.failed, "spans_dropped": self._queue.dropped}

    def close(self) -> None:
        """Flush queued spans within a timeout."""
        limit = Timer(_STOP_SECONDS, self._exporter.shutdown)
        limit.start()
        self._provider.shutdown()
        limit.cancel()


class TracedApp(App):
    """The application with one span per request: route, status, variant, backend, latency; no ids or texts."""

    def __init__(
        self,
        service: Service,
        keys: KeyFile | None,
        limits: Limits,
        tracing: Tracing,
        deadline_s: float = 0.05,
        workers: int = 1,
    ) -> None:
        """As ``App``."""
        super().__init__(service, keys, limits, deadline_s=deadline_s, workers=workers)
        self._tracing = tracing

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        with self._tracing.span(scope["headers"]) as span:
            reply = await super().reply(scope, receive)
            span.set_attribute("http.response.status_code", reply.status)
            if reply.status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            return reply

    async def _answer(
        self, endpoint: Endpoint, path: bytes, headers: RequestHeaders, scope: Scope, receive: Receive
    ) -> Reply:
        span = trace.get_current_span()
        span.update_name(f"{endpoint.method} {endpoint.route}")
        span.set_attributes({"http.request.method": endpoint.method, "http.route": endpoint.route})
        return await super()._answer(endpoint, path, headers, scope, receive)

    def _answered(self, served: Served) -> None:
        super()._answered(served)
        span = trace.get_current_span()
        named = {"model": served.model, "variant": served.variant, "backend": served.backend}
        span.set_attributes({f"lanner.{name}": value for name, value in named.items()})
        span.set_attribute("lanner.cached", served.cached)
        if not served.cached:  # the latency of a cached answer is that of its first computation
            span.set_attributes({f"lanner.{name}_ms": value for name, value in served.milliseconds.items()})

    def _state(self) -> State:
        state = super()._state()
        return replace(state, background={**state.background, **self._tracing.figures()})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await super()._lifespan(receive, send)
        await asyncio.to_thread(self._tracing.close)


class _Exporter(SpanExporter):
    """Counts exported and rejected spans."""

    def __init__(self, endpoint: str) -> None:
        self._inner = OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS)
        self.taken = self.sent = self.failed = 0
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE if self._closed else self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._inner.shutdown()  # type: ignore[no-untyped-call]


class _Queue(BatchSpanProcessor):
    """Counts dropped spans, which the base class only logs."""

    def __init__(self, exporter: _Exporter) -> None:
        super().__init__(exporter, max_queue_size=_MAX_WAITING)
        self._exporter, self._ended, self.dropped = exporter, 0, 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            if self._ended - self._exporter.taken - self.dropped >= _MAX_WAITING:
                self.dropped += 1
            self._ended += 1
        super().on_end(span)
