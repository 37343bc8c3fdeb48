"""uvicorn's HTTP/1.1 protocol with limits that hold before a client is authenticated."""

import asyncio
from math import inf
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lanner.serving.http.limits import Limits
from lanner.serving.http.responses import Reply, error_reply

_PIECE = 1024
"""Bytes parsed at a time; bounds how many pipelined requests can be queued."""
_WRITE_SECONDS = 30.0
"""Seconds a client may leave responses unread."""
_BAD_REQUEST = error_reply(400, "malformed HTTP/1.1 request")
_HEAD_TOO_LARGE = error_reply(431, "request header too large")
_TOO_MANY = error_reply(503, "too many open connections; try again later")


class LimitedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. ``close_if_late`` is called about once a second."""

    def __init__(self, *arguments: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._is_in_head = True
        """Whether the next byte belongs to a request head: of a new request, or of one that is arriving."""
        self._overhead_bytes = 0
        """Bytes since the last complete head or body part: heads, chunk lines and trailers count."""
        self._head_since = self._unread_since = inf
        """When the pending head began, and since when responses are unread; event loop seconds."""
        self._unparsed = b""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._head_since = self.idle_since = self.loop.time()
        if len(self.connections) > self._limits.connections and not self._close_idlest():
            self._reject(_TOO_MANY)

    def data_received(self, data: bytes) -> None:
        """Parse until a pipelined request has to wait; the remaining bytes, and those in the socket, wait with it."""
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            if self.pipeline:
                self._unparsed = data[start:]
                break
            self._parse(data[start : start + _PIECE])
        self.flow.is_held = bool(self.pipeline)

    def _parse(self, piece: bytes) -> None:
        if self._is_in_head and self._head_since == inf:
            self._head_since = self.loop.time()
        self._overhead_bytes += len(piece)
        if self._overhead_bytes > self._limits.head_bytes + _PIECE:
            self._reject(_HEAD_TOO_LARGE)
        else:
            super().data_received(piece)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_in_head, self._overhead_bytes, self._head_since = False, 0, inf
        # Trailers of a chunked body must not be taken for request headers.
        self.headers: list[tuple[bytes, bytes]] = []
        self.cycle.transport = _JoinedWrites(self.transport, has_body=self.scope["method"] != "HEAD")

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head, self._head_since = True, inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if not self._is_in_head and self.cycle.response_complete:
            self._head_since = self.idle_since  # bounds the wait for the rest of an unread body
        if not self.pipeline and not self.transport.is_closing():
            rest, self._unparsed, self.flow.is_held = self._unparsed, b"", False
            self.data_received(rest)
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        self.pipeline.clear()
        self._unset_keepalive_if_required()  # after a reset uvicorn leaks the timer and with it the connection
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = inf
        super().resume_writing()

    def close_if_late(self, now: float) -> None:
        """Close the connection if a head takes too long or responses stay unread. now: event loop seconds."""
        if now - self._head_since > self._limits.head_seconds:
            self.transport.close()
        elif now - self._unread_since > _WRITE_SECONDS:
            self.transport.abort()

    def shutdown(self) -> None:
        if self.flow.write_paused:
            self.transport.abort()
        super().shutdown()

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending on this connection."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        self._reject(_BAD_REQUEST)

    def _reject(self, reply: Reply) -> None:
        """Reply and close; without a reply if it could be mistaken for that of an earlier request."""
        owes_earlier = self._is_in_head and self.cycle is not None and not self.cycle.response_complete
        if not owes_earlier and not self.pipeline:
            self.transport.write(reply.closing)
        self.transport.close()

    def _close_idlest(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle."""
        idle = [one for one in self.connections if one is not self and one.is_idle]
        if idle:
            min(idle, key=lambda one: one.idle_since).transport.close()
        return bool(idle)


class _Flow(FlowControl):  # type: ignore[misc]
    """Does not resume reading while parsed requests are queued."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class _JoinedWrites:
    """Writes a response head together with the first body part: one system call and packet fewer."""

    def __init__(self, transport: asyncio.Transport, has_body: bool) -> None:
        self._transport, self._head, self._awaits_head = transport, b"", has_body
        self.close, self.is_closing = transport.close, transport.is_closing

    def write(self, data: bytes) -> None:
        if self._awaits_head and not data.startswith(b"HTTP/1.1 100 "):
            self._head, self._awaits_head = data, False
        elif not self.is_closing():
            self._transport.write(self._head + data)
            self._head = b""
