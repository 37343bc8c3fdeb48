"""Malicious and faulty clients on one connection, byte for byte."""

import asyncio
import gc
import time
import tracemalloc
import weakref
from collections.abc import Callable

import pytest
from stand_in_service import StandInService

from lanner.serving.http.app import App
from lanner.serving.http.limits import Limits

uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")
from uvicorn.server import ServerState  # noqa: E402

from lanner.serving.http.connections import LimitedProtocol  # noqa: E402
from lanner.serving.http.server import config_of  # noqa: E402


class Wire(asyncio.Transport):
    """What a client would read."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.7", 4711), "sockname": ("127.0.0.1", 80)})
        self.written, self.writes = b"", 0
        self.closed = self.aborted = self.paused = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Slow(StandInService):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def recommend(self, request):
        await self.may_answer.wait()
        return await super().recommend(request)


class Server:
    """Connections to one application."""

    def __init__(self, service: StandInService | None = None, **limits: object) -> None:
        self.config, self.state = config_of(App(service or StandInService(), limits=Limits(**limits))), ServerState()
        self.config.load()

    def connect(self) -> tuple[LimitedProtocol, Wire]:
        made = self.config.http_protocol_class(config=self.config, server_state=self.state, app_state={})
        wire = Wire()
        made.connection_made(wire)
        return made, wire


def talk(conversation: Callable) -> None:
    asyncio.run(asyncio.wait_for(conversation(), 20))


async def settled(wire: Wire, replies: int) -> list[bytes]:
    """The replies, once there are so many; each has its body's length."""
    while True:
        found, rest = [], wire.written
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            found.append(head + b"\r\n\r\n" + rest[:length])
            rest = rest[length:]
        if len(found) >= replies:
            assert (rest, len(found)) == (b"", replies)
            return found
        await asyncio.sleep(0.002)


def asked(user: str = "ada", *headers: bytes, path: bytes = b"/v1/recommend") -> bytes:
    body = b'{"user_id":"%s","k":1}' % user.encode()
    lines = [b"POST %s HTTP/1.1" % path, b"host: localhost", b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def test_an_answer_is_one_write_whatever_its_kind():
    async def conversation():
        made, wire = Server().connect()
        etag = None
        for request in (LIVE, asked(), LIVE.replace(b"GET", b"HEAD"), LIVE.replace(b"/health/live", b"/")):
            wire.written, wire.writes = b"", 0
            made.data_received(request)
            while not wire.writes:
                await asyncio.sleep(0.002)
            assert wire.writes == 1
            assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
            assert wire.written.endswith(b"\r\n\r\n") == request.startswith(b"HEAD")
            etag = wire.written.partition(b"etag: ")[2].partition(b"\r\n")[0]
        made.data_received(b"GET / HTTP/1.1\r\nhost: localhost\r\nif-none-match: %s\r\n\r\n" % etag)
        while wire.writes < 2:
            await asyncio.sleep(0.002)
        assert b"HTTP/1.1 304 " in wire.written

    talk(conversation)


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked():
    async def conversation():
        made, wire = Server().connect()
        head, _, body = asked("ada", b"expect: 100-continue").partition(b"\r\n\r\n")
        made.data_received(head + b"\r\n\r\n")
        while not wire.writes:
            await asyncio.sleep(0.002)
        assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.written = b""
        made.data_received(body)
        (reply,) = await settled(wire, 1)
        assert reply.startswith(b"HTTP/1.1 200 ")

    talk(conversation)


def test_a_head_of_many_headers_and_a_tab_is_read_in_milliseconds():
    head = b"POST /v1/recommend HTTP/1.1\r\n" + b"a:  b\r\n" * 22 + b"c:\td\r\n\r\n"

    async def conversation():
        made, wire = Server().connect()
        began = time.perf_counter()
        made.data_received(head)
        assert time.perf_counter() - began < 0.05
        (reply,) = await settled(wire, 1)
        assert reply.startswith(b"HTTP/1.1 415 ")

    talk(conversation)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET / HTTP/1.1\r\na: ", b"b" * 1000),
        (b"GET / HTTP/1.1\r\n", b"b" * 1000),
        (b"GET /", b"b" * 1000),
        (b"", b"\r\n" * 500),
        (b"POST /v1/recommend HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"0" * 1000),
        (b"POST /v1/recommend HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", b"b" * 1000),
        (b"POST /v1/recommend HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    ],
    ids=["headers", "a value", "a name", "a path", "empty lines", "a chunk size", "a chunk extension", "trailers"],
)
def test_what_never_ends_ends_at_64_kib(first, more):
    async def conversation():
        made, wire = Server().connect()
        made.data_received(first)
        sent = 0
        while not wire.closed:
            made.data_received(more)
            sent += len(more)
            assert sent < 80_000
        assert wire.written[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")
        if b"chunked" not in first:
            assert sent >= 60_000 or wire.written[:12] == b"HTTP/1.1 400"

    talk(conversation)


def test_a_head_of_just_under_64_kib_is_answered_and_one_above_is_431():
    async def conversation():
        for length, status in ((60_000, b"200"), (70_000, b"431")):
            made, wire = Server().connect()
            made.data_received(b"GET /health/live HTTP/1.1\r\nx: " + b"y" * length + b"\r\n\r\n")
            (reply,) = await settled(wire, 1)
            assert reply[9:12] == status
            assert (b"connection: close" in reply) == wire.closed == (status == b"431")
            assert status == b"200" or b'{"error":"request header too large"}' in reply

    talk(conversation)


def test_a_long_body_is_no_long_head():
    body = b'{"text":"' + b"x" * 19_000 + b'","history":[' + b",".join([b'"%060d"' % 7] * 3000) + b"]}"
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

    async def conversation():
        made, wire = Server().connect()
        request = head + b"content-length: %d\r\n\r\n" % len(body) + body
        made.data_received(request + LIVE)
        chunked = head + b"transfer-encoding: chunked\r\n\r\n"
        chunked += b"".join(b"1\r\n%c\r\n" % one for one in body[:20_000]) + b"%x\r\n" % (len(body) - 20_000)
        await settled(wire, 2)
        made.data_received(chunked + body[20_000:] + b"\r\n0\r\n\r\n")
        assert [reply[9:12] for reply in await settled(wire, 3)] == [b"200"] * 3

    talk(conversation)


def test_trailers_are_no_headers():
    async def conversation():
        made, wire = Server().connect()
        head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        made.data_received(head + b'11\r\n{"user_id":"ada"}\r\n0\r\ncontent-type: application/json\r\n\r\n')
        (reply,) = await settled(wire, 1)
        assert reply.startswith(b"HTTP/1.1 415 ")

    talk(conversation)


def test_a_head_may_not_dawdle():
    async def conversation():
        server = Server(Slow(), head_seconds=0.05)
        silent, dripping, empty, at_work, waiting = (server.connect() for _ in range(5))
        at_work[0].data_received(asked())
        head, _, body = asked().partition(b"\r\n\r\n")
        waiting[0].data_received(head + b"\r\n\r\n" + body[:5])
        dripping[0].data_received(LIVE)
        empty[0].data_received(LIVE)
        await settled(dripping[1], 1)
        for _ in range(10):
            await asyncio.sleep(0.01)
            for made, wire in (silent, dripping, empty, at_work, waiting):
                if not wire.closed:
                    made.close_if_late(made.loop.time())
            if not dripping[1].closed:
                dripping[0].data_received(b"G" if dripping[0]._head_since == float("inf") else b"E")
            if not empty[1].closed:
                empty[0].data_received(b"\r\n")
        closed = [wire.closed for _, wire in (silent, dripping, empty, at_work, waiting)]
        assert closed == [True, True, True, False, False]

    talk(conversation)


def test_a_connection_between_two_requests_may_rest():
    async def conversation():
        made, wire = Server(head_seconds=0.02).connect()
        made.data_received(LIVE)
        await settled(wire, 1)
        await asyncio.sleep(0.05)
        made.close_if_late(made.loop.time())
        assert not wire.closed

    talk(conversation)


def test_a_slow_body_is_408_and_one_that_nobody_reads_is_not_waited_for():
    async def conversation():
        server = Server(body_seconds=0.05, head_seconds=0.05)
        slow, unread = server.connect(), server.connect()
        head, _, body = asked().partition(b"\r\n\r\n")
        slow[0].data_received(head + b"\r\n\r\n" + body[:5])
        unread[0].data_received(head.replace(b"/json", b"/text") + b"\r\n\r\n" + body[:5])
        (timed_out,), (unsupported,) = await settled(slow[1], 1), await settled(unread[1], 1)
        assert (timed_out[9:12], unsupported[9:12]) == (b"408", b"415")
        assert slow[1].closed
        await asyncio.sleep(0.06)
        unread[0].close_if_late(unread[0].loop.time())
        assert unread[1].closed

    talk(conversation)


def test_pipelined_requests_are_answered_in_order():
    async def conversation():
        service = Slow()
        made, wire = Server(service).connect()
        names = [f"user-{number}" for number in range(100)]
        half = asked("last")
        made.data_received(b"".join(asked(name) for name in names) + half[:30])
        await asyncio.sleep(0.01)
        assert (wire.written, wire.paused) == (b"", True)
        service.may_answer.set()
        replies = await settled(wire, 100)
        assert not wire.paused
        made.data_received(half[30:])
        replies = await settled(wire, 101)
        assert [
            name
            for name, reply in zip([*names, "last"], replies, strict=True)
            if b'"%s-1"' % name.encode() not in reply
        ] == []

    talk(conversation)


def test_a_pipelined_flood_waits_in_the_socket():
    async def conversation():
        made, wire = Server(Slow()).connect()
        made.data_received(asked())
        chunk, taken = LIVE * 5000, 0
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(400):
            await asyncio.sleep(0)
            if not wire.paused:
                made.data_received(chunk)
                taken += 1
        assert taken <= 2
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000

    tracemalloc.start()
    try:
        talk(conversation)
    finally:
        tracemalloc.stop()


def test_a_client_that_never_reads_is_given_nothing_more_and_then_cut_off():
    async def conversation():
        made, wire = Server().connect()
        made.pause_writing()
        chunk, taken = LIVE * 5000, 0
        for _ in range(400):
            await asyncio.sleep(0)
            if not wire.paused:
                made.data_received(chunk)
                taken += 1
        assert (taken, wire.written) == (1, b"")
        made.close_if_late(made.loop.time() + 29)
        assert not wire.closed
        made.close_if_late(made.loop.time() + 31)
        assert wire.aborted
        made.connection_lost(None)

    talk(conversation)


def test_for_one_connection_too_many_the_idlest_is_closed_and_none_that_waits_for_an_answer():
    async def conversation():
        service = Slow()
        server = Server(service, connections=3)
        at_work, older, newer = (server.connect() for _ in range(3))
        at_work[0].data_received(asked())
        for made, wire in (newer, older, newer):
            made.data_received(LIVE)
            await settled(wire, 1 + (wire.written != b""))
            await asyncio.sleep(0.002)
        another = server.connect()
        assert [one[1].closed for one in (at_work, older, newer, another)] == [False, True, False, False]
        older[0].connection_lost(None)
        for made, _ in (newer, another):
            made.data_received(asked())
        _, rejected = server.connect()
        assert rejected.written.startswith(b"HTTP/1.1 503 ")
        assert rejected.closed
        service.may_answer.set()
        for _, wire in (at_work, another):
            await settled(wire, 1)

    talk(conversation)


@pytest.mark.parametrize(
    "broken",
    [
        b"POST / HTTP/1.1\r\nhost a\r\n\r\n",
        b"\x16\x03\x01 hello",
        b"GET / HTTP/9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400_but_not_in_place_of_an_earlier_answer(broken):
    async def conversation():
        server = Server(Slow())
        made, wire = server.connect()
        made.data_received(broken)
        (reply,) = await settled(wire, 1)
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert wire.closed
        made, wire = server.connect()
        made.data_received(asked())
        made.data_received(broken)
        assert (wire.written, wire.closed) == (b"", True)

    talk(conversation)


@pytest.mark.parametrize(("proxies", "statuses"), [((), [200, 429, 429]), (("10.0.0.7",), [200, 429, 200])])
def test_a_forwarded_address_is_believed_of_configured_proxies_alone(proxies, statuses, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")

    async def conversation():
        made, wire = Server(requests_per_second=0.01, burst=1, proxies=proxies).connect()
        for count, caller in enumerate((b"10.1.1.1", b"10.1.1.1", b"10.1.1.2"), 1):
            made.data_received(asked("ada", b"x-forwarded-for: " + caller))
            await settled(wire, count)
        assert [int(reply[9:12]) for reply in await settled(wire, 3)] == statuses

    talk(conversation)


def test_a_client_that_leaves_is_sent_nothing(caplog):
    async def conversation():
        service = Slow()
        made, wire = Server(service).connect()
        made.data_received(asked() * 100)
        await asyncio.sleep(0.01)
        wire.close()
        made.connection_lost(None)
        service.may_answer.set()
        while made.tasks:
            await asyncio.sleep(0.002)
        assert wire.written == b""

    with caplog.at_level("ERROR"):
        talk(conversation)
    assert caplog.text == ""


@pytest.mark.parametrize("sent", [b"", asked(), asked("ada", b"connection: close"), b"POST /v1/rec", LIVE * 100])
def test_nothing_is_left_of_a_connection_that_ended(sent):
    async def conversation():
        made, wire = Server().connect()
        made.data_received(sent)
        await asyncio.sleep(0.02)
        wire.close()
        made.connection_lost(ConnectionResetError())
        left = weakref.ref(made)
        del made
        await asyncio.sleep(0.01)
        assert left() is None

    gc.disable()
    try:
        talk(conversation)
    finally:
        gc.enable()


def test_a_server_that_stops_answers_first():
    async def conversation():
        service = Slow()
        server = Server(service)
        (made, wire), (idle, idle_wire) = server.connect(), server.connect()
        made.data_received(asked())
        made.shutdown()
        idle.shutdown()
        assert (wire.closed, idle_wire.closed) == (False, True)
        service.may_answer.set()
        (reply,) = await settled(wire, 1)
        assert b"connection: close\r\n" in reply
        assert wire.closed

    talk(conversation)
