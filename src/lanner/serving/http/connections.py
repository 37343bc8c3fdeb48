"""uvicorn's HTTP/1.1 connection with limits on what a client may take before anybody knows who it is."""

import asyncio
from math import inf
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lanner.serving.http.limits import Limits
from lanner.serving.http.responses import Reply, error_reply

_PIECE = 1024
"""Bytes that are parsed at once: as many pipelined requests can be queued as fit in them."""
_WRITE_SECONDS = 30.0
"""How long a client may leave its answers unread."""
_BAD_REQUEST = error_reply(400, "the request is not HTTP/1.1")
_HEAD_TOO_LARGE = error_reply(431, "the head of the request is too large")
_TOO_MANY = error_reply(503, "too many open connections; try again later")


class LimitedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. ``close_if_late`` is called about once a second."""

    def __init__(self, *arguments: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._is_in_head = True
        """Whether the next byte belongs to a head: that of a new request, or of one that is arriving."""
        self._overhead_bytes = 0
        """Bytes since the last complete head or part of a body: of a head, of chunk lines, of trailers."""
        self._head_since = self._unread_since = inf
        """When the head that is awaited began, and since when answers wait to be read; in the loop's seconds."""
        self._unparsed = b""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._head_since = self.idle_since = self.loop.time()
        if len(self.connections) > self._limits.connections and not self._close_idlest():
            self._reject(_TOO_MANY)

    def data_received(self, data: bytes) -> None:
        """Parse until a pipelined request has to wait; the rest, and what is still in the socket, waits with it."""
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
        # What follows a chunked body must not pass for headers of the request.
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
            self._head_since = self.idle_since  # the rest of a body that nobody reads is not waited for long
        if not self.pipeline and not self.transport.is_closing():
            rest, self._unparsed, self.flow.is_held = self._unparsed, b"", False
            self.data_received(rest)
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        self.pipeline.clear()
        self._unset_keepalive_if_required()  # uvicorn leaves the timer, and with it the connection, after a reset
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = inf
        super().resume_writing()

    def close_if_late(self, now: float) -> None:
        """Close the connection where a head takes too long, or answers are not read. now: the loop's seconds."""
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
        """Whether the server owes this connection nothing."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        self._reject(_BAD_REQUEST)

    def _reject(self, reply: Reply) -> None:
        """Answer and close; without an answer where it would be taken for that of an earlier request."""
        owes_earlier = self._is_in_head and self.cycle is not None and not self.cycle.response_complete
        if not owes_earlier and not self.pipeline:
            self.transport.write(reply.closing)
        self.transport.close()

    def _close_idlest(self) -> bool:
        """Make room for this connection; False where none of the others is idle."""
        idle = [one for one in self.connections if one is not self and one.is_idle]
        if idle:
            min(idle, key=lambda one: one.idle_since).transport.close()
        return bool(idle)


class _Flow(FlowControl):  # type: ignore[misc]
    """Does not resume reading while requests that were read wait for their turn."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class _JoinedWrites:
    """Writes the head of a response together with the first part of its body: one system call and packet less."""

    def __init__(self, transport: asyncio.Transport, has_body: bool) -> None:
        self._transport, self._head, self._awaits_head = transport, b"", has_body
        self.close, self.is_closing = transport.close, transport.is_closing

    def write(self, data: bytes) -> None:
        if self._awaits_head and not data.startswith(b"HTTP/1.1 100 "):
            self._head, self._awaits_head = data, False
        elif not self.is_closing():
            self._transport.write(self._head + data)
            self._head = b""
