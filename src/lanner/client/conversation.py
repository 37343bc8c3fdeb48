"""The retry policy, shared by both clients."""

import random
from collections.abc import Generator
from dataclasses import dataclass

import msgspec

from lanner.client.calls import A, Call
from lanner.errors import ConfigError, LannerError, OverloadedError, RequestError, ServerError, UnknownIdError
from lanner.serving.messages import ErrorAnswer

_ERRORS: dict[int, type[LannerError]] = {
    **dict.fromkeys((400, 413, 415), RequestError),
    **dict.fromkeys((401, 403, 421), ConfigError),
    404: UnknownIdError,
}
"""Error classes by status, raised with the server's message; 429 and 5xx are handled separately."""
_AGAIN = {429, 503}


@dataclass(frozen=True)
class Retries:
    """Retry policy: after 429, 503 or a connection failure. All operations are idempotent."""

    attempts: int = 4
    """Maximum number of attempts; 1: no retry."""
    first_wait_s: float = 0.1
    """Seconds before the first retry; doubled each time, with random jitter of −50 to 0 %."""
    longest_wait_s: float = 5.0
    """Maximum wait in seconds; if Retry-After is longer, the error is raised."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_wait_s < 0 or self.longest_wait_s < 0:
            raise ConfigError(f"retries: received {self}, expected attempts >= 1 and waits >= 0 s")


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    content: bytes
    retry_after_s: float | None = None


Talk = Generator[float, Reply | Exception, A]
"""Yields the seconds to wait before sending the request; receives the outcome."""


def conversation(call: Call[A], retries: Retries) -> Talk[A]:
    """A generator that returns the answer. It does no I/O and reads no clock, so that both clients can drive it.

    Raises:
        LannerError: the server rejected the request, failed or was unreachable, after ``retries.attempts`` attempts.
    """
    wait = 0.0
    for attempt in range(1, retries.attempts + 1):
        came = yield wait
        if isinstance(came, Reply) and came.status in call.takes:
            return _read(call, came.content)
        asked = (came.retry_after_s or 0.0) if isinstance(came, Reply) else 0.0
        again = isinstance(came, Exception) or (came.status in _AGAIN and asked <= retries.longest_wait_s)
        if attempt == retries.attempts or not again:
            raise _error(came)
        grown = retries.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
        wait = min(max(grown, asked), retries.longest_wait_s)
    raise AssertionError("the last attempt returns or raises")


def _read(call: Call[A], content: bytes) -> A:
    if call.answer is str:
        return content.decode()  # type: ignore[return-value]
    try:
        return msgspec.json.decode(content, type=call.answer)
    except ValueError as error:
        raise ServerError(f"{call.path}: the response does not match this client's version ({error})") from None


def _error(came: Reply | Exception) -> LannerError:
    if not isinstance(came, Reply):
        return ServerError(
            f"the server cannot be reached ({str(came) or type(came).__name__}); is it running at this address?"
        )
    try:
        line = msgspec.json.decode(came.content, type=ErrorAnswer).error
    except ValueError:
        line = f"the server responded with status {came.status}"
    if came.status == 429:
        return OverloadedError(line, came.retry_after_s or 1.0)
    kind = _ERRORS.get(came.status)
    return ServerError(line, came.status) if kind is None else kind(line)
