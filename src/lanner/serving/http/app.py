"""The HTTP shell as one plain ASGI application: find the route, let the caller in, read, call, write."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any
from urllib.parse import quote

import msgspec

from lanner.errors import OverloadedError
from lanner.serving.http.contract import Service, State
from lanner.serving.http.door import Door
from lanner.serving.http.keys import RANK, KeyFile, Role
from lanner.serving.http.limits import Limits, RateLimit
from lanner.serving.http.metrics import CONTENT_TYPE, Metrics
from lanner.serving.http.openapi import document
from lanner.serving.http.page import PageFile, read_page
from lanner.serving.http.reading import (
    WHOLE,
    Receive,
    Scope,
    Send,
    decode,
    read_body,
    read_query,
    read_segment,
    too_long,
)
from lanner.serving.http.replies import JSON_HEADERS, RefusedError, Reply, headers_of, json_reply, reply_to
from lanner.serving.http.routes import ROUTES, Route
from lanner.serving.messages import Alive, ExplainAnswer, RecommendAnswer, Served
from lanner.serving.waited import WAITED_S

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 5.0
_MOST_DIGITS = 18
_ALIVE = json_reply(Alive(alive=True))
_FULL = reply_to(OverloadedError("too busy to answer in time; ask again later", 1.0))
_FULL_WHOLE = _FULL.whole
_encode = msgspec.json.Encoder().encode


class Endpoint:
    """A route made ready: its decoder, the method it calls and its figures, all bound once."""

    __slots__ = ("call", "decoder", "figures", "inside", "method", "query", "refused", "role", "route", "served")

    def __init__(self, route: Route, call: Callable[..., Awaitable[Any]], metrics: Metrics) -> None:
        self.method, self.route = route.method, route.path
        self.call, self.role, self.inside, self.query = call, route.role, route.inside, route.query
        self.decoder = msgspec.json.Decoder(route.body) if route.body is not None else None
        self.served = route.answer in (RecommendAnswer, ExplainAnswer)
        self.figures, self.refused = metrics.route(route.method, route.path), 0


class App:
    """The server's ASGI application. Without keys everyone may ask everything: see ``keys.check_address``."""

    def __init__(
        self,
        service: Service,
        keys: KeyFile | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        deadline_s: float = 0.05,
    ) -> None:
        """deadline_s: of a request that names none, see ``Door``.

        Raises:
            MissingExtraError: a package of the extra ``serving`` is missing.
        """
        self.service, self.keys, self.limits = service, keys, limits or Limits()
        self.metrics = metrics or Metrics()
        self.in_flight = 0
        self._rate, self._door = RateLimit(self.limits), Door(deadline_s)
        self._page: dict[bytes, PageFile] = read_page()
        self._openapi = Reply(200, JSON_HEADERS, _encode(document(guarded=keys is not None)))
        self._other = self.metrics.route("any", "other")
        self._whole: dict[bytes, dict[str, Endpoint]] = {}
        self._parted: dict[tuple[bytes, ...], dict[str, Endpoint]] = {}
        own = {"live": self._live, "ready": self._ready, "metrics": self._metrics}
        for route in ROUTES:
            call = own.get(route.operation) or getattr(service, route.operation)
            self._add(route, Endpoint(route, call, self.metrics))
        posted = {path: methods["POST"] for path, methods in self._whole.items() if "POST" in methods}
        self._questions = {path: endpoint for path, endpoint in posted.items() if endpoint.served}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI: a request, or the life of the worker."""
        if scope["type"] == "http":
            reply = await self.reply(scope, receive)
            await send(reply.start)
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """What a request is answered with, whatever becomes of it; ``scope`` as ``reading.WHOLE`` says."""
        began = perf_counter()
        figures = self._other
        self.in_flight += 1
        try:
            method, path = scope["method"], scope.get("raw_path") or quote(scope["path"]).encode()
            found = self._find(path)
            if found is None:
                reply = self._file(method, path, scope)
            else:
                endpoint = _of_method(found, method)
                figures = endpoint.figures
                reply = await self._let_in(endpoint, path, scope, receive)
        except Exception as error:
            reply = reply_to(error)
        finally:
            self.in_flight -= 1
        figures.observe(reply.status, perf_counter() - began)
        return reply

    def knock(self, path: bytes) -> bytes | None:
        """For who has a question posted to ``path`` and will ask ``reply`` with ``WHOLE``: what to write instead.

        None: it is let in, and counted from now on rather than from when its turn comes.
        """
        question = self._questions.get(path)
        if question is None or self._door.lets_in(perf_counter()):
            return None
        question.refused += 1
        return _FULL_WHOLE

    async def _let_in(self, endpoint: Endpoint, path: bytes, scope: Scope, receive: Receive) -> Reply:
        if not endpoint.served:
            return await self._answer(endpoint, path, scope, receive)
        now = perf_counter()
        has_knocked = WHOLE in scope and endpoint.method == "POST"
        if not has_knocked and not self._door.lets_in(now):
            return _FULL
        WAITED_S.set(self._door.age_s(now))
        try:
            return await self._answer(endpoint, path, scope, receive)
        finally:
            self._door.leave(perf_counter())

    async def _answer(self, endpoint: Endpoint, path: bytes, scope: Scope, receive: Receive) -> Reply:
        authorization, content_type, length = _headers(scope)
        if endpoint.role is not None:
            self._admit(endpoint.role, authorization, scope)
        arguments: list[Any] = []
        if endpoint.inside:
            arguments.append(read_segment(endpoint.inside[0], path.split(b"/")[3]))
        if endpoint.query or scope["query_string"]:
            arguments += read_query(endpoint.query, scope["query_string"])
        if endpoint.decoder is not None:
            expected = self._check_body(content_type, length)
            body = scope.get(WHOLE)
            if body is None:
                body = await read_body(receive, expected, self.limits.body_bytes, self.limits.body_seconds)
            arguments.append(decode(endpoint.decoder, body))
        answer = await endpoint.call(*arguments)
        if endpoint.served:
            self._answered(answer.served)
        return answer if type(answer) is Reply else Reply(200, JSON_HEADERS, _encode(answer))

    def _answered(self, served: Served) -> None:
        self.metrics.answered(served)

    def _admit(self, role: Role, authorization: bytes | None, scope: Scope) -> None:
        holder = None if self.keys is None else self.keys.holder(authorization)
        caller = holder.sha256 if holder else str((scope.get("client") or ("unknown",))[0])
        if wait := self._rate.take(caller, monotonic()):
            raise OverloadedError(f"too many requests; ask again in {wait:.1f} s", wait)
        if self.keys is None:
            return
        if holder is None:
            challenge = (b"www-authenticate", b"Bearer")
            raise RefusedError(401, "no known key; send the header 'Authorization: Bearer KEY'", challenge)
        if RANK[holder.role] < RANK[role]:
            raise RefusedError(403, f"the key '{holder.name}' has the role {holder.role}; this needs {role}")

    def _check_body(self, content_type: bytes, length: bytes) -> int | None:
        """The announced length, where there is one."""
        if (
            content_type != b"application/json"
            and content_type.partition(b";")[0].strip().lower() != b"application/json"
        ):
            shown = content_type.decode("ascii", "replace") or "none"
            raise RefusedError(415, f"content-type: received {shown}, expected application/json")
        if not length:
            return None
        if not length.isdigit():
            raise RefusedError(400, "content-length is no number")
        # A length of many digits need not be read to be known as too long.
        if len(length) > _MOST_DIGITS or int(length) > self.limits.body_bytes:
            raise too_long(self.limits.body_bytes)
        return int(length)

    def _add(self, route: Route, endpoint: Endpoint) -> None:
        """Paths without a parameter are found whole; the others have theirs as the third segment."""
        path = route.path.encode()
        if not route.inside:
            self._whole.setdefault(path, {})[route.method] = endpoint
            return
        parts = path.split(b"/")
        self._parted.setdefault((*parts[:3], *parts[4:]), {})[route.method] = endpoint

    def _find(self, path: bytes) -> dict[str, Endpoint] | None:
        whole = self._whole.get(path)
        if whole is not None:
            return whole
        parts = path.split(b"/")
        return self._parted.get((*parts[:3], *parts[4:])) if len(parts) > 3 and parts[3] else None

    def _file(self, method: str, path: bytes, scope: Scope) -> Reply:
        file = self._page.get(path)
        if file is None and path != b"/openapi.json":
            raise RefusedError(404, "there is no such address; /openapi.json lists those there are")
        if method not in ("GET", "HEAD"):
            raise _not_allowed(["GET"], method)
        return self._openapi if file is None else file.reply(dict(scope["headers"]).get(b"if-none-match", b""))

    async def _live(self) -> Reply:
        return _ALIVE

    async def _ready(self) -> Reply:
        health = await self.service.health()
        return json_reply(health, 200 if health.ready else 503)

    async def _metrics(self) -> Reply:
        self._observe()
        return Reply(200, headers_of(CONTENT_TYPE), await asyncio.to_thread(self.metrics.text))

    def _observe(self) -> None:
        """What is held now, and who was turned away since the last look: to count them one by one would take longer."""
        self.metrics.observe(self._state(), self.in_flight)
        for question in self._questions.values():
            question.figures.refused(_FULL.status, question.refused)
            question.refused = 0

    def _state(self) -> State:
        return self.service.state()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.service.start()
        except Exception as error:
            _log.error("the service cannot start", exc_info=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        looking = asyncio.create_task(self._look_now_and_then())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        looking.cancel()
        try:
            await self.service.stop()
        except Exception as error:
            _log.error("the service did not stop cleanly", exc_info=error)
        await send({"type": "lifespan.shutdown.complete"})

    async def _look_now_and_then(self) -> None:
        while True:
            try:
                self._observe()
                if self.keys is not None:
                    self.keys.refresh()
            except Exception as error:
                _log.error("figures or keys could not be read", exc_info=error)
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)


def _of_method(found: dict[str, Endpoint], method: str) -> Endpoint:
    endpoint = found.get("GET" if method == "HEAD" else method)
    if endpoint is None:
        raise _not_allowed(list(found), method)
    return endpoint


def _not_allowed(methods: list[str], method: str) -> RefusedError:
    allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
    return RefusedError(405, f"{method[:16]} is not allowed here; allowed: {allowed}", (b"allow", allowed.encode()))


def _headers(scope: Scope) -> tuple[bytes | None, bytes, bytes]:
    """Authorization, content type and length, in one walk over the headers."""
    authorization, content_type, length = None, b"", b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"authorization":
            authorization = value
        elif name == b"content-length":
            length = value
    return authorization, content_type, length
