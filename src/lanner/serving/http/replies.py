"""What goes back over the wire: headers made once, and a status for every kind of error."""

import functools
import http
import logging
import math
import secrets
from typing import Any, NamedTuple

import msgspec

from lanner.errors import LannerError, OverloadedError
from lanner.serving.messages import ErrorAnswer

_log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

STATUS = {
    "UnknownIdError": 404,
    "ConfigError": 400,
    "DataError": 400,
    "OverloadedError": 429,
    "BundleError": 503,
    "StorageError": 503,
    "StoreUnavailableError": 503,
}
"""By name of the class of an error, or of the nearest class above it; everything else is 500."""

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
_LONGEST_LINE = 500
_LONGEST_WAIT_S = 3600.0
_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """headers: all but the length, made once and shared by all replies alike."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    @property
    def start(self) -> dict[str, Any]:
        """The first message to send."""
        length = (b"content-length", b"%d" % len(self.body))
        return {"type": "http.response.start", "status": self.status, "headers": [*self.headers, length]}

    @property
    def whole(self) -> bytes:
        """Everything that goes over the wire, for who writes it there."""
        return b"%scontent-length: %d\r\n\r\n%s" % (_head(self.status, self.headers), len(self.body), self.body)


@functools.lru_cache(maxsize=256)
def _head(status: int, headers: tuple[Header, ...]) -> bytes:
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %s\r\n%s" % (status, http.HTTPStatus(status).phrase.encode(), lines)


class RefusedError(Exception):
    """Ends a request with a reply that is no answer."""

    def __init__(self, status: int, line: str, *headers: Header) -> None:
        super().__init__(line)
        self.reply = error_reply(status, line, *headers)


def headers_of(content_type: bytes, *headers: Header, cache: bytes = b"no-store") -> tuple[Header, ...]:
    """What every reply says, and ``headers``."""
    return ((b"content-type", content_type), (b"cache-control", cache), *SECURITY, *headers)


JSON_HEADERS = headers_of(JSON)


def json_reply(answer: msgspec.Struct, status: int = 200) -> Reply:
    """A message of the API."""
    return Reply(status, JSON_HEADERS, _encode(answer))


def error_reply(status: int, line: str, *headers: Header) -> Reply:
    """One line in an ``ErrorAnswer``."""
    line = " ".join(line.split())
    line = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
    every = headers_of(JSON, *headers) if headers else JSON_HEADERS
    return Reply(status, every, _encode(ErrorAnswer(error=line.encode("utf-8", "replace").decode())))


def reply_to(error: Exception) -> Reply:
    """What a caller may know of an error: of their own mistake its line, of the server's own a number in its log."""
    if isinstance(error, RefusedError):
        return error.reply
    status = status_of(error)
    if status >= 500:
        number = secrets.token_hex(4)
        _log.error("error %s", number, exc_info=error)
        return error_reply(status, f"{http.HTTPStatus(status).phrase}: error {number} in the server's log")
    if isinstance(error, OverloadedError):
        wait = math.ceil(min(max(error.retry_after_s, 1.0), _LONGEST_WAIT_S))
        return error_reply(status, str(error), (b"retry-after", b"%d" % wait))
    return error_reply(status, str(error))


def status_of(error: Exception) -> int:
    """The status of an error, from the nearest class that ``STATUS`` names."""
    kinds = type(error).__mro__ if isinstance(error, LannerError) else ()
    return next((STATUS[kind.__name__] for kind in kinds if kind.__name__ in STATUS), 500)
