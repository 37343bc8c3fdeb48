"""uvicorn's HTTP protocol with a short way for requests that came whole and plain, as nearly all of them do.

On the long way a general parser, a cycle and the messages of ASGI take about a third of what an answer costs the loop,
and a refusal five times what it costs here. Whatever is unusual takes the long way.
"""

import asyncio
from functools import cache
from typing import Any, ClassVar

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lanner.serving.http.app import App
from lanner.serving.http.begun import begun
from lanner.serving.http.heads import Heads
from lanner.serving.http.reading import WHOLE, Receive, Scope, Send

_END = b"\r\n\r\n"
_HEAD_SECONDS = 10.0
"""How long a request's head may be on its way."""
_MOST_AHEAD = 65_536
"""Bytes that a connection may send ahead of its answer."""


class Protocol(HttpToolsProtocol):  # type: ignore[misc]
    """Of one connection; ``served`` is what ``protocol_of`` was given; ``heads``: of all connections."""

    served: ClassVar[App]
    heads: ClassVar[Heads]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_between = True
        """Whether the parser stands between two requests."""
        self._is_asked = self._is_ending = False
        """Whether a request is under way on the short way, and the connection ends with its answer."""
        self._ahead = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        """When the last bytes came, in the loop's seconds."""

    # --- the short way -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._is_asked:
            self._keep(data)
        elif not (self._is_free and self._take(data)):
            super().data_received(data)

    @property
    def _is_free(self) -> bool:
        has_answered = self.cycle is None or self.cycle.response_complete
        return self._is_between and has_answered and not self.flow.write_paused

    def _take(self, data: bytes) -> bool:
        """Begin to answer; False where these bytes are not one plain request and nothing else."""
        end = data.find(_END) + len(_END)
        head = self.heads.read(data[:end])
        if head is None or head.length != len(data) - end:
            return False
        self._unset_keepalive_if_required()
        refusal = self.served.knock(head.path) if head.method == "POST" else None
        if refusal is not None:
            self.transport.write(refusal)
            return True
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": head.method,
            "scheme": self.scheme,
            "path": head.path.decode(),
            "raw_path": head.path,
            "root_path": "",
            "query_string": b"",
            "headers": head.headers,
            "client": self.client,
            "server": self.server,
            WHOLE: data[end:],
        }
        self._is_asked = True
        ask = self._reply_through_proxy if head.is_forwarded else self._reply
        task = begun(self.loop, ask(scope, _nothing_more, _nowhere))
        task.add_done_callback(self._ended)
        self.tasks.add(task)
        return True

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A connection that was not answered is let go of, or whoever asked would wait for ever."""
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.logger.error("a request was not answered", exc_info=error)
        if error is not None or task.cancelled():
            self.transport.close()

    async def _reply(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the short way, whose reply is written in one go."""
        reply = await self.served.reply(scope, receive)
        self._is_asked = False
        if self.transport.is_closing():
            return
        if self._is_ending:
            reply = reply._replace(headers=(*reply.headers, (b"connection", b"close")))
        self.transport.write(reply.whole)
        self.flow.resume_reading()
        if self._is_ending:
            self.transport.close()
        elif self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.data_received(ahead)

    async def _reply_through_proxy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ``_reply``, to whom a trusted proxy asks for."""
        await _proxies(self.config.forwarded_allow_ips)(scope, receive, send)
        await self._reply(scope, receive, send)

    def _keep(self, data: bytes) -> None:
        """For when the request under way is answered."""
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD:
            self.flow.pause_reading()

    # --- the long way ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._end_if_silent()

    def _end_if_silent(self) -> None:
        """One timer for as long as the connection lives, rather than one for each request."""
        is_at_work = self._is_asked or not self._is_free
        left_s = self.timeout_keep_alive - (0 if is_at_work else self.loop.time() - self._heard)
        if left_s <= 0:
            self.transport.close()
        else:
            self._silence_timer = self.loop.call_later(left_s, self._end_if_silent)

    def on_message_begin(self) -> None:
        self._is_between = False
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._forget_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_between = True
        super().on_message_complete()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_head()
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        super().connection_lost(error)
        # It refers back here: gone with the last reference rather than when the collector comes round.
        del self.parser

    def shutdown(self) -> None:
        if self._is_asked:
            self._is_ending = True
        else:
            super().shutdown()

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def protocol_of(app: App) -> type[Protocol]:
    """The protocol of a server that serves ``app`` alone."""
    return type("Protocol", (Protocol,), {"served": app, "heads": Heads()})


@cache
def _proxies(trusted: str) -> ProxyHeadersMiddleware:
    """Writes into a scope who asks through one of these; for all connections, since each would take 4 KiB."""
    return ProxyHeadersMiddleware(_read, trusted_hosts=trusted)


async def _read(scope: Any, receive: Any, send: Any) -> None:
    """The scope is all that is wanted."""


async def _nothing_more() -> dict[str, Any]:
    """The body was there at once."""
    return {"type": "http.disconnect"}


async def _nowhere(message: dict[str, Any]) -> None:
    """What is sent on the short way is the reply as a whole."""
    raise AssertionError(message)
