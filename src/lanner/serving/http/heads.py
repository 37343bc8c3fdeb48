"""Heads of requests, read once: a client repeats the same lines with each request but for the length of the body."""

import re
from typing import NamedTuple

_PLAIN = re.compile(rb"(POST|PUT) (/[\w/.~-]+) HTTP/1\.1\r\n((?:[\w-]+: ?[\x20-\x7e]*\r\n)+)\r\n")
_HEADER = re.compile(rb"([\w-]+): ?([\x20-\x7e]*)\r\n")
_UNUSUAL = {b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer"}
_KEEP_ALIVE = b"keep-alive"
_FORWARDED = {b"x-forwarded-for", b"x-forwarded-proto"}
_KEPT, _LONGEST_KEPT = 1024, 2048
"""Heads, and bytes of one; what is longer is read each time."""


class Head(NamedTuple):
    """headers: names in lower case, shared by all requests that say the same. length: of the body, in bytes.

    is_forwarded: a proxy says for whom it asks.
    """

    method: str
    path: bytes
    headers: list[tuple[bytes, bytes]]
    length: int
    is_forwarded: bool


class Heads:
    """Reads heads, and keeps those it has read; when there are too many it begins anew."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """A head with its empty line; None where it is unusual, and a general parser is to read it."""
        known = self._known.get(head)
        if known is not None:
            return known
        found = _read(head)
        if found is not None and len(head) <= _LONGEST_KEPT:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[head] = found
        return found


def _read(head: bytes) -> Head | None:
    found = _PLAIN.fullmatch(head)
    if found is None:
        return None
    headers = [(name.lower(), value.strip()) for name, value in _HEADER.findall(found[3])]
    named = dict(headers)
    if len(named) < len(headers) or not _UNUSUAL.isdisjoint(named):
        return None
    if named.get(b"connection", _KEEP_ALIVE).lower() != _KEEP_ALIVE:
        return None
    length = named.get(b"content-length", b"")
    # Written as a number is written, and no other way: what a general parser might read differently is its own to read.
    if len(length) > 9 or length != b"%d" % int(length if length.isdigit() else 0):
        return None
    return Head(found[1].decode(), found[2], headers, int(length), not _FORWARDED.isdisjoint(named))
