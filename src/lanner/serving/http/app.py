"""The HTTP API as a plain ASGI application: route, authenticate, admit, parse, call the service, respond."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any
from urllib.parse import quote

import msgspec

from lanner.errors import LannerError, OverloadedError
from lanner.serving.http.admission import ARRIVED_AT, Admission
from lanner.serving.http.contract import Service, State
from lanner.serving.http.keys import RANK, KeyFile, Role
from lanner.serving.http.limits import AllowedHosts, Limits, RateLimit
from lanner.serving.http.metrics import CONTENT_TYPE, Metrics
from lanner.serving.http.openapi import document
from lanner.serving.http.page import PageFile, read_page
from lanner.serving.http.request_parsing import (
    BodyReader,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    decode,
    read_query,
    read_segment,
    too_long,
)
from lanner.serving.http.responses import JSON_HEADERS, RejectedError, Reply, headers_of, json_reply, reply_to
from lanner.serving.http.routes import ROUTES, Route
from lanner.serving.messages import Alive, ExplainAnswer, RecommendAnswer, Served

_log = logging.getLogger(__name__)

_REFRESH_SECONDS = 5.0
_MAX_DIGITS = 18
_ALIVE = json_reply(Alive(alive=True))
_OVERLOADED = reply_to(OverloadedError("overloaded: the deadline cannot be met; try again later", 1.0))
_encode = msgspec.json.Encoder().encode


class Endpoint:
    """A route with its decoder, service method and metrics, resolved once."""

    __slots__ = ("call", "decoder", "figures", "in_path", "in_query", "is_ranking", "method", "role", "route")

    def __init__(self, route: Route, call: Callable[..., Awaitable[Any]], metrics: Metrics) -> None:
        self.method, self.route = route.method, route.path
        self.call, self.role, self.in_path, self.in_query = call, route.role, route.in_path, route.in_query
        self.decoder = msgspec.json.Decoder(route.body) if route.body is not None else None
        self.is_ranking = route.answer in (RecommendAnswer, ExplainAnswer)
        self.figures = metrics.route(route.method, route.path)


class App:
    """The server's ASGI application. Without keys every caller has every role; see ``keys.check_address``."""

    def __init__(
        self,
        service: Service,
        keys: KeyFile | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        deadline_s: float = 0.05,
        workers: int = 1,
    ) -> None:
        """deadline_s: deadline of requests that do not name one. workers: processes that serve this address.

        Raises:
            MissingExtraError: a package of the extra ``serving`` is missing.
        """
        self.service, self.keys, self.limits = service, keys, limits or Limits()
        self.metrics, self.admission = metrics or Metrics(), Admission(deadline_s)
        self.in_flight = 0
        self._rate, self._bodies = RateLimit(self.limits, workers), BodyReader(self.limits)
        self._hosts = AllowedHosts(self.limits.hosts) if keys is None or self.limits.hosts else None
        self._key_problem = ""
        self._page: dict[bytes, PageFile] = read_page()
        self._openapi = Reply(200, JSON_HEADERS, _encode(document(guarded=keys is not None)))
        self._other = self.metrics.route("any", "other")
        self._by_path: dict[bytes, dict[str, Endpoint]] = {}
        self._by_parts: dict[tuple[bytes, ...], dict[str, Endpoint]] = {}
        own = {"live": self._live, "ready": self._ready, "metrics": self._metrics}
        for route in ROUTES:
            call = own.get(route.operation) or getattr(service, route.operation)
            self._add(route, Endpoint(route, call, self.metrics))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection: an HTTP request, or the worker's lifespan."""
        if scope["type"] == "http":
            reply = await self.reply(scope, receive)
            await send(reply.start)
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """The reply to a request; never raises."""
        began = perf_counter()
        figures = self._other
        self.in_flight += 1
        try:
            headers = RequestHeaders(scope["headers"])
            if self._hosts is not None and headers.host and not self._hosts.accepts(headers.host, scope.get("server")):
                raise _misdirected(headers.host)
            method, path = scope["method"], scope.get("raw_path") or quote(scope["path"]).encode()
            found = self._find(path)
            if found is None:
                reply = self._file(method, path, scope)
            else:
                endpoint = _endpoint_for(found, method)
                figures = endpoint.figures
                reply = await self._answer(endpoint, path, headers, scope, receive)
        except Exception as error:
            reply = reply_to(error)
        finally:
            self.in_flight -= 1
        figures.observe(reply.status, perf_counter() - began)
        return reply

    async def _answer(
        self, endpoint: Endpoint, path: bytes, headers: RequestHeaders, scope: Scope, receive: Receive
    ) -> Reply:
        """Authenticate before reading the body; admit after the body has arrived."""
        if endpoint.role is not None:
            self._authorize(endpoint.role, headers.authorization, scope)
        arguments: list[Any] = []
        if endpoint.in_path:
            arguments.append(read_segment(endpoint.in_path[0], path.split(b"/")[3]))
        if endpoint.in_query or scope["query_string"]:
            arguments += read_query(endpoint.in_query, scope["query_string"])
        body = b""
        if endpoint.decoder is not None:
            body = await self._bodies.read(receive, self._check_body(headers))
        if endpoint.is_ranking:
            return await self._rank(endpoint, arguments, body)
        if endpoint.decoder is not None:
            arguments.append(decode(endpoint.decoder, body))
        answer = await endpoint.call(*arguments)
        return answer if type(answer) is Reply else Reply(200, JSON_HEADERS, _encode(answer))

    async def _rank(self, endpoint: Endpoint, arguments: list[Any], body: bytes) -> Reply:
        arrived_at = self.admission.admit(perf_counter())
        if arrived_at is None:
            return _OVERLOADED
        answered = False
        try:
            if endpoint.decoder is not None:
                arguments.append(decode(endpoint.decoder, body))
            ARRIVED_AT.set(arrived_at)
            answer = await endpoint.call(*arguments)
            answered = True
        finally:
            self.admission.leave(perf_counter(), answered)
        self._answered(answer.served)
        return Reply(200, JSON_HEADERS, _encode(answer))

    def _answered(self, served: Served) -> None:
        self.metrics.answered(served)

    def _authorize(self, role: Role, authorization: bytes | None, scope: Scope) -> None:
        holder = None if self.keys is None else self.keys.holder(authorization)
        caller = holder.sha256 if holder else str((scope.get("client") or ("unknown",))[0])
        if wait := self._rate.take(caller, monotonic()):
            raise OverloadedError(f"rate limit exceeded; try again in {wait:.1f} s", wait)
        if self.keys is None:
            return
        if holder is None:
            challenge = (b"www-authenticate", b"Bearer")
            raise RejectedError(401, "missing or unknown API key; send 'Authorization: Bearer KEY'", challenge)
        if RANK[holder.role] < RANK[role]:
            raise RejectedError(403, f"the key '{holder.name}' has the role {holder.role}; this operation needs {role}")

    def _check_body(self, headers: RequestHeaders) -> int | None:
        """The Content-Length, if given."""
        content_type, length = headers.content_type, headers.content_length
        if (
            content_type != b"application/json"
            and content_type.partition(b";")[0].strip().lower() != b"application/json"
        ):
            shown = content_type.decode("ascii", "replace") or "none"
            raise RejectedError(415, f"content-type: received {shown}, expected application/json")
        if headers.content_encoding.strip().lower() not in (b"", b"identity"):
            shown = headers.content_encoding.decode("ascii", "replace")
            raise RejectedError(415, f"content-encoding: received {shown}; send the body as it is, not compressed")
        if not length:
            return None
        if not length.isdigit():
            raise RejectedError(400, "content-length is not a number")
        # A length with too many digits is too large; int() is not called on it.
        if len(length) > _MAX_DIGITS or int(length) > self.limits.body_bytes:
            raise too_long(self.limits.body_bytes)
        return int(length)

    def _add(self, route: Route, endpoint: Endpoint) -> None:
        """Paths without a parameter are looked up whole; otherwise the parameter is the third segment."""
        path = route.path.encode()
        if not route.in_path:
            self._by_path.setdefault(path, {})[route.method] = endpoint
            return
        parts = path.split(b"/")
        self._by_parts.setdefault((*parts[:3], *parts[4:]), {})[route.method] = endpoint

    def _find(self, path: bytes) -> dict[str, Endpoint] | None:
        found = self._by_path.get(path)
        if found is not None:
            return found
        parts = path.split(b"/")
        return self._by_parts.get((*parts[:3], *parts[4:])) if len(parts) > 3 and parts[3] else None

    def _file(self, method: str, path: bytes, scope: Scope) -> Reply:
        file = self._page.get(path)
        if file is None and path != b"/openapi.json":
            raise RejectedError(404, "not found; see /openapi.json for all operations")
        if method not in ("GET", "HEAD"):
            raise _not_allowed(["GET"], method)
        return self._openapi if file is None else file.reply(dict(scope["headers"]).get(b"if-none-match", b""))

    async def _live(self) -> Reply:
        return _ALIVE

    async def _ready(self) -> Reply:
        health = await self.service.health()
        if self._key_problem:
            health = msgspec.structs.replace(health, degraded=[*health.degraded, self._key_problem])
        return json_reply(health, 200 if health.ready else 503)

    async def _metrics(self) -> Reply:
        self._observe()
        return Reply(200, headers_of(CONTENT_TYPE), await asyncio.to_thread(self.metrics.text))

    def _observe(self) -> None:
        self.metrics.observe(self._state(), self.in_flight)

    def _state(self) -> State:
        return self.service.state()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.service.start()
        except Exception as error:
            _log.error(
                "the service failed to start: %s", error, exc_info=None if isinstance(error, LannerError) else error
            )
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        refreshing = asyncio.create_task(self._refresh_regularly())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        refreshing.cancel()
        try:
            await self.service.stop()
        except Exception as error:
            _log.error("the service failed to stop cleanly", exc_info=error)
        await send({"type": "lifespan.shutdown.complete"})

    async def _refresh_regularly(self) -> None:
        while True:
            try:
                self._observe()
            except Exception as error:
                _log.error("collecting metrics failed", exc_info=error)
            self.refresh_keys()
            await asyncio.sleep(_REFRESH_SECONDS)

    def refresh_keys(self) -> None:
        """Reload the key file if it has changed; if it cannot be read, the previous keys stay valid."""
        if self.keys is None:
            return
        try:
            self.keys.refresh()
            self._key_problem = ""
        except LannerError as error:
            if not self._key_problem:
                _log.error("the key file was not reloaded, the previous keys stay valid: %s", error)
            self._key_problem = "the key file cannot be read; the previous keys stay valid"


def _endpoint_for(found: dict[str, Endpoint], method: str) -> Endpoint:
    endpoint = found.get("GET" if method == "HEAD" else method)
    if endpoint is None:
        raise _not_allowed(list(found), method)
    return endpoint


def _not_allowed(methods: list[str], method: str) -> RejectedError:
    allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
    return RejectedError(405, f"{method[:16]} is not allowed; allowed: {allowed}", (b"allow", allowed.encode()))


def _misdirected(host: bytes) -> RejectedError:
    shown = host[:64].decode("ascii", "replace")
    return RejectedError(421, f"Host '{shown}' is not allowed; add it to limits.hosts, or use API keys")
