"""HTTP replies with prepared headers, and the mapping of errors to statuses."""

import http
import logging
import math
import secrets
from typing import Any, NamedTuple

import msgspec

from lanner.errors import LannerError, OverloadedError, RequestError, StoreUnavailableError, UnknownIdError
from lanner.serving.messages import ErrorAnswer

_log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

STATUS: dict[type, int] = {
    RequestError: 400,
    UnknownIdError: 404,
    OverloadedError: 429,
    StoreUnavailableError: 503,
    LannerError: 503,
}
"""By the nearest base class: client errors are 4xx, server errors 503; anything but a LannerError is 500."""

CONTENT_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY: tuple[Header, ...] = (
    (b"content-security-policy", CONTENT_POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"
CLOSE: Header = (b"connection", b"close")
_LONGEST_LINE = 500
_LONGEST_WAIT_S = 3600.0
_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """headers: all but Content-Length, shared by equal kinds of replies."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    @property
    def start(self) -> dict[str, Any]:
        """The ASGI ``http.response.start`` message."""
        length = (b"content-length", b"%d" % len(self.body))
        return {"type": "http.response.start", "status": self.status, "headers": [*self.headers, length]}

    @property
    def closing(self) -> bytes:
        """The whole HTTP/1.1 response as bytes, with ``Connection: close``."""
        lines = b"".join(b"%s: %s\r\n" % header for header in (*self.start["headers"], CLOSE))
        phrase = http.HTTPStatus(self.status).phrase.encode()
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (self.status, phrase, lines, self.body)


class RejectedError(Exception):
    """Ends a request with an error reply."""

    def __init__(self, status: int, line: str, *headers: Header) -> None:
        super().__init__(line)
        self.reply = error_reply(status, line, *headers)


def headers_of(content_type: bytes, *headers: Header, cache: bytes = b"no-store") -> tuple[Header, ...]:
    """The standard headers plus ``headers``."""
    return ((b"content-type", content_type), (b"cache-control", cache), *SECURITY, *headers)


JSON_HEADERS = headers_of(JSON)


def json_reply(answer: msgspec.Struct, status: int = 200) -> Reply:
    """A message as JSON."""
    return Reply(status, JSON_HEADERS, _encode(answer))


def error_reply(status: int, line: str, *headers: Header) -> Reply:
    """An ``ErrorAnswer`` with one line."""
    line = " ".join(line.split())
    line = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
    every = headers_of(JSON, *headers) if headers else JSON_HEADERS
    return Reply(status, every, _encode(ErrorAnswer(error=line.encode("utf-8", "replace").decode())))


def reply_to(error: Exception) -> Reply:
    """Client errors as one line; server errors as a reference number for the details in the log."""
    if isinstance(error, RejectedError):
        return error.reply
    status = status_of(error)
    if status >= 500:
        number = secrets.token_hex(4)
        _log.error("error %s: %s", number, error, exc_info=error if status == 500 else None)
        return error_reply(status, f"{http.HTTPStatus(status).phrase}: error {number} in the server's log")
    if isinstance(error, OverloadedError):
        wait = math.ceil(min(max(error.retry_after_s, 1.0), _LONGEST_WAIT_S))
        return error_reply(status, str(error), (b"retry-after", b"%d" % wait))
    return error_reply(status, str(error))


def status_of(error: Exception) -> int:
    """The status for an error's nearest base class in ``STATUS``."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
