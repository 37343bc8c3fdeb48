"""From the bytes of a request to typed arguments; what cannot be read is rejected with a line that names the place."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from lanner.serving.http.limits import Limits
from lanner.serving.http.responses import CLOSE, RejectedError
from lanner.serving.http.routes import REQUIRED, Parameter

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_MOST_PARAMETERS = 32
_SWEEPS = 8
"""So often within their time, bodies that are arriving are looked at."""
_TOO_SLOW = "the body is too slow"
_LONGEST_SHOWN = 80
_PLACE = re.compile(r"^(?P<what>.*) - at `(?:key` in `)?\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class RequestHeaders:
    """The headers that the application reads, found in one walk."""

    __slots__ = ("authorization", "content_length", "content_type", "host")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.authorization: bytes | None = None
        self.content_type = self.content_length = self.host = b""
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"authorization":
                self.authorization = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"host":
                self.host = value


class BodyReader:
    """Reads bodies within the limits on their size, their time, and on what all of them hold together.

    One timer looks after all bodies that are arriving: a timer for each request took a twentieth of its time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self.pending_bytes = limits, 0
        self._since: dict[asyncio.Task[Any], float] = {}
        """When the tasks that read a body began to, in seconds of ``monotonic``."""
        self._swept: asyncio.AbstractEventLoop | None = None
        """The loop on which a sweep is due."""

    async def read(self, receive: Receive, length: int | None) -> bytes:
        """The whole body. length: as announced; None where it was not.

        Raises:
            RejectedError: too long (413), too slow (408), ends early or in broken parts (400): an ASGI server shows
                that as a caller who went away, who may yet read a reply. Too much of other bodies is pending (503).
        """
        task, body = asyncio.current_task(), bytearray()
        assert task is not None
        self._since[task] = monotonic()
        loop = asyncio.get_running_loop()
        if self._swept is not loop:
            self._schedule_sweep(loop)
        try:
            more = True
            # A server may send an empty last part after the bytes that were announced; it need not be waited for.
            while more and len(body) != length:
                message = await receive()
                if message["type"] != "http.request":
                    raise RejectedError(400, "the body ends before it should, or its parts are broken")
                part, more = message.get("body", b""), message.get("more_body", False)
                body += part
                self.pending_bytes += len(part)
                if len(body) > self._limits.body_bytes:
                    raise too_long(self._limits.body_bytes)
                if more and self.pending_bytes > self._limits.pending_body_bytes:
                    raise RejectedError(503, "too many bodies are arriving at once; try again", CLOSE)
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
        """The tasks that are looked at wait for a part of a body, so nothing else of theirs is cancelled."""
        self._swept, before = None, monotonic() - self._limits.body_seconds
        for task, since in self._since.items():
            if since < before:
                task.cancel(_TOO_SLOW)
        if self._since:
            self._schedule_sweep(loop)


def too_long(limit: int) -> RejectedError:
    """413."""
    return RejectedError(413, f"the body is longer than {limit} bytes; send less at once")


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The message in a body.

    Raises:
        RejectedError: it is no JSON, or not this message (400); the line names the field and what was received.
    """
    if b"\\u0000" in body and _NUL.search(body):
        raise RejectedError(400, "the body has a NUL character (\\u0000), which no text may hold")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RejectedError(400, _explained(str(error), body)) from None
    except RecursionError:
        raise RejectedError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise RejectedError(400, f"the body is no JSON: {error}" if body else "the body is empty; send JSON") from None


def _explained(text: str, body: bytes) -> str:
    found = _PLACE.match(text)
    if found is None:
        return f"the body: {text}"
    what, path = found["what"], found["path"]
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
    """A parameter from a segment of the path.

    Raises:
        RejectedError: it is not UTF-8, or not what the parameter takes (400).
    """
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RejectedError(400, f"{parameter.name}: the address is not percent-encoded UTF-8") from None
    return _converted(parameter, text)


def read_query(parameters: tuple[Parameter, ...], query: bytes) -> list[Any]:
    """The parameters of a query in the table's order; the default where one is absent.

    Raises:
        RejectedError: one is missing, unknown, given twice, or not what it should be (400).
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError as error:
        raise RejectedError(400, f"the query cannot be read: {error}") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise RejectedError(400, "the query gives a parameter twice")
    unknown = given.keys() - {one.name for one in parameters}
    if unknown:
        known = ", ".join(one.name for one in parameters) or "none"
        raise RejectedError(400, f"the query has an unknown parameter {min(unknown)!r}; known: {known}")
    return [_given(one, given) for one in parameters]


def _given(parameter: Parameter, given: dict[str, str]) -> Any:
    if parameter.name in given:
        return _converted(parameter, given[parameter.name])
    if parameter.default is REQUIRED:
        raise RejectedError(400, f"the query lacks the parameter '{parameter.name}'")
    return parameter.default


def _converted(parameter: Parameter, text: str) -> Any:
    if "\0" in text:
        raise RejectedError(400, f"{parameter.name}: has a NUL character, which no text may hold")
    try:
        return msgspec.convert(text, parameter.kind, strict=False)
    except msgspec.ValidationError as error:
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} …"
        raise RejectedError(400, f"{parameter.name}: {error}, received {shown!r}") from None
