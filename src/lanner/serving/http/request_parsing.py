"""Parse requests into typed arguments; errors name the field and the value received."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from lanner.serving.http.limits import Limits
from lanner.serving.http.responses import CLOSE, RejectedError
from lanner.serving.http.routes import REQUIRED, Parameter
from lanner.serving.messages import LATEST, ONE_LINE

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_MAX_PARAMETERS = 32
_SWEEPS = 8
"""Checks of arriving bodies per ``body_seconds``."""
_TOO_SLOW = "the body is too slow"
_LONGEST_SHOWN = 80
_PLACE = re.compile(r"^(?P<what>.*) - at `(?:key` in `)?\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_PLAIN = {
    f"Expected `str` matching regex {ONE_LINE!r}": "must be one line without white space at its ends",
    f"Expected `float` < {float(LATEST)}": "must be in seconds since 1970",
    "Object contains unknown field `rating`": "object contains unknown field `rating`; the rating of an event is its "
    "`weight`",
}
"""Replacements for msgspec's messages."""
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class RequestHeaders:
    """The headers that the application reads, collected in one pass."""

    __slots__ = ("authorization", "content_encoding", "content_length", "content_type", "host")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.authorization: bytes | None = None
        self.content_type = self.content_encoding = self.content_length = self.host = b""
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"authorization":
                self.authorization = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"content-encoding":
                self.content_encoding = value
            elif name == b"host":
                self.host = value


class BodyReader:
    """Reads request bodies within the limits on size, time and total memory.

    One timer watches all arriving bodies: a timer per request took 5 % of its time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self.pending_bytes = limits, 0
        self._since: dict[asyncio.Task[Any], float] = {}
        """Start time of each task that is reading a body, in seconds of ``monotonic``."""
        self._swept: asyncio.AbstractEventLoop | None = None
        """The loop on which a sweep is scheduled."""

    async def read(self, receive: Receive, length: int | None) -> bytes:
        """The whole body. length: Content-Length; None if not given.

        Raises:
            RejectedError: too large (413), too slow (408), truncated or badly chunked (400; an ASGI server reports
                that as a disconnect, but the client may still read a reply), too many pending bodies (503).
        """
        task, body = asyncio.current_task(), bytearray()
        assert task is not None
        self._since[task] = monotonic()
        loop = asyncio.get_running_loop()
        if self._swept is not loop:
            self._schedule_sweep(loop)
        try:
            more = True
            # A server may send an empty last part after the announced bytes; do not wait for it.
            while more and len(body) != length:
                message = await receive()
                if message["type"] != "http.request":
                    raise RejectedError(400, "the body is truncated or badly chunked")
                part, more = message.get("body", b""), message.get("more_body", False)
                body += part
                self.pending_bytes += len(part)
                if len(body) > self._limits.body_bytes:
                    raise too_long(self._limits.body_bytes)
                if more and self.pending_bytes > self._limits.pending_body_bytes:
                    raise RejectedError(503, "too many request bodies are being received; try again later", CLOSE)
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (_TOO_SLOW,):
                raise
            task.uncancel()
            raise RejectedError(408, f"the body took longer than {self._limits.body_seconds:g} s", CLOSE) from None
        finally:
            del self._since[task]
            self.pending_bytes -= len(body)
        return bytes(body)

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._swept = loop
        loop.call_later(self._limits.body_seconds / _SWEEPS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel slow readers. A watched task waits for a body part, so nothing else of it is cancelled."""
        self._swept, before = None, monotonic() - self._limits.body_seconds
        for task, since in self._since.items():
            if since < before:
                task.cancel(_TOO_SLOW)
        if self._since:
            self._schedule_sweep(loop)


def too_long(limit: int) -> RejectedError:
    """413."""
    return RejectedError(413, f"the body exceeds {limit} bytes; send smaller batches")


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a message from a body.

    Raises:
        RejectedError: invalid JSON or not this message (400); the error names the field and the value received.
    """
    if b"\\u0000" in body and _NUL.search(body):
        raise RejectedError(400, "the body contains a NUL character (\\u0000), which is not allowed")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RejectedError(400, _validation_message(str(error), body)) from None
    except RecursionError:
        raise RejectedError(400, "the body is nested too deeply") from None
    except ValueError as error:
        problem = str(error).removeprefix("JSON is malformed: ")
        problem = "half of a surrogate pair is not a character" if _has_lone_surrogate(body) else problem
        raise RejectedError(400, f"malformed JSON: {problem}" if body else "the body is empty; send JSON") from None


def _has_lone_surrogate(body: bytes) -> bool:
    """Whether this is JSON with a lone surrogate, which msgspec reports only as truncated input."""
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        pass
    return False


def _validation_message(text: str, body: bytes) -> str:
    found = _PLACE.match(text)
    if found is None:
        return f"the body: {text}"
    what, path = _PLAIN.get(found["what"], found["what"]), found["path"]
    line = f"{path.lstrip('.')}: {what[:1].lower()}{what[1:]}"
    try:
        value = msgspec.json.decode(body)
        for name, place in _STEP.findall(path):
            value = value[name] if name else value[int(place)]
        shown = msgspec.json.encode(value).decode()
    except (ValueError, RecursionError, LookupError, TypeError):
        return line
    return f"{line}, received {shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + ' …'}"


def read_segment(parameter: Parameter, raw: bytes) -> Any:
    """Convert a path segment.

    Raises:
        RejectedError: not UTF-8, or not a valid value of the parameter (400).
    """
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RejectedError(400, f"{parameter.name}: the path is not percent-encoded UTF-8") from None
    return _converted(parameter, text)


def read_query(parameters: tuple[Parameter, ...], query: bytes) -> list[Any]:
    """Query parameters in the route's order; defaults for missing ones.

    Raises:
        RejectedError: a parameter is missing, unknown, repeated or invalid (400).
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError as error:
        raise RejectedError(400, f"malformed query string: {error}") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise RejectedError(400, "a query parameter is repeated")
    unknown = given.keys() - {one.name for one in parameters}
    if unknown:
        known = ", ".join(one.name for one in parameters) or "none"
        raise RejectedError(400, f"unknown query parameter {min(unknown)!r}; known: {known}")
    return [_given(one, given) for one in parameters]


def _given(parameter: Parameter, given: dict[str, str]) -> Any:
    if parameter.name in given:
        return _converted(parameter, given[parameter.name])
    if parameter.default is REQUIRED:
        raise RejectedError(400, f"missing query parameter '{parameter.name}'")
    return parameter.default


def _converted(parameter: Parameter, text: str) -> Any:
    if "\0" in text:
        raise RejectedError(400, f"{parameter.name}: contains a NUL character, which is not allowed")
    try:
        return msgspec.convert(text, parameter.kind, strict=False)
    except msgspec.ValidationError as error:
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} …"
        what = _PLAIN.get(str(error), str(error))
        raise RejectedError(400, f"{parameter.name}: {what}, received {shown!r}") from None
