"""Heads of requests are read once."""

from lanner.serving.http import heads as module
from lanner.serving.http.heads import Heads

LINES = [b"POST /v1/recommend HTTP/1.1", b"Host: a", b"Content-Type: application/json", b"content-length: 12"]


def written(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


def test_a_head_is_read_once(monkeypatch):
    heads, read = Heads(), []
    parse = module._read
    monkeypatch.setattr(module, "_read", lambda head: read.append(head) or parse(head))
    first, second = heads.read(written(*LINES)), heads.read(written(*LINES))
    assert first is second
    assert len(read) == 1
    assert (first.method, first.path, first.length, first.is_forwarded) == ("POST", b"/v1/recommend", 12, False)
    assert first.headers == [(b"host", b"a"), (b"content-type", b"application/json"), (b"content-length", b"12")]
    assert heads.read(written(*LINES, b"X-Forwarded-For: b")).is_forwarded


def test_no_more_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 3)
    heads = Heads()
    for number in range(20):
        heads.read(written(*LINES, b"x: %d" % number))
        assert len(heads._known) <= 3
    before = len(heads._known)
    heads.read(written(*LINES, b"x: " + b"y" * module._LONGEST_KEPT))
    assert len(heads._known) == before


def test_what_is_unusual_is_for_a_general_parser():
    heads = Heads()
    for line in (b"content-length: 12", b"transfer-encoding: chunked", b"Connection: close", b"a b: c"):
        assert heads.read(written(*LINES, line)) is None
    for length in (b"+12", b"012", b"1_2", b"", b"9" * 40, b"12 13"):
        assert heads.read(written(*LINES[:3], b"content-length: " + length)) is None
    assert heads.read(b"") is None
    assert heads.read(written(*LINES)[:-2]) is None
