"""The short way of a request says what the long way says, and keeps the order of a connection."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable

import pytest
from stand_in_service import StandInService

from lanner.serving.http import protocol as module
from lanner.serving.http.app import App
from lanner.serving.http.limits import Limits
from lanner.serving.http.protocol import protocol_of
from lanner.serving.waited import WAITED_S

uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")
from uvicorn.server import ServerState  # noqa: E402


class Wire(asyncio.Transport):
    """What a client would read."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.7", 4711), "sockname": ("10.0.0.1", 80)})
        self.written, self.writes, self.closed, self.paused = b"", 0, False, False

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Slow(StandInService):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def recommend(self, request):
        await self.let.wait()
        return await super().recommend(request)


def connected(app: App) -> tuple:
    config = uvicorn.Config(app, ws="none", access_log=False, server_header=False, date_header=False)
    config.load()
    made = protocol_of(app)(config=config, server_state=ServerState(), app_state={})
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
            assert rest == b""
            assert len(found) == replies
            return found
        await asyncio.sleep(0.002)


def asked(
    user: str = "ada", *headers: bytes, path: bytes = b"/v1/recommend", kind: bytes = b"application/json"
) -> bytes:
    body = b'{"user_id":"%s","k":2}' % user.encode()
    lines = [b"POST %s HTTP/1.1" % path, b"host: a", b"content-type: " + kind, *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


SHORT = {"plain": asked(), "forwarded": asked("ada", b"X-Forwarded-For: 10.1.1.1"), "no such path": asked(path=b"/v2")}
SHORT |= {"keeps alive": asked("ada", b"Connection: Keep-Alive")}
SHORT |= {"no JSON": asked(kind=b"text/plain"), "not allowed": asked(path=b"/v1/status")}
LONG = {
    "a query": asked(path=b"/v1/recommend?x=1"),
    "closing": asked("ada", b"connection: close"),
    "in chunks": b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b'transfer-encoding: chunked\r\n\r\n11\r\n{"user_id":"ada"}\r\n0\r\n\r\n',
    "no body": b"GET /v1/status HTTP/1.1\r\nhost: a\r\n\r\n",
    "two lengths": asked("ada", b"content-length: 3"),
    "a folded line": asked("ada", b"x-a: b\r\n c"),
    "old": asked().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "broken": b"POST /v1/recommend HTTP/1.1\r\nhost a\r\n\r\n",
}


def without_length(reply: bytes) -> list[bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return [*sorted(line for line in head.split(b"\r\n")), body]


@pytest.mark.parametrize("name", SHORT)
def test_the_short_way_says_what_the_long_way_says_in_one_write(name, monkeypatch):
    async def conversation():
        made, wire = connected(App(StandInService()))
        made.data_received(SHORT[name])
        (short,) = await settled(wire, 1)
        assert wire.writes == 1
        made.data_received(SHORT[name])
        await settled(wire, 2)
        made, wire = connected(App(StandInService()))
        monkeypatch.setattr(made, "_take", lambda data: False)
        made.data_received(SHORT[name])
        (long,) = await settled(wire, 1)
        assert without_length(short) == without_length(long)
        assert wire.writes == 2

    talk(conversation)


def test_what_needs_no_waiting_is_answered_before_the_loop_comes_round():
    async def conversation():
        made, wire = connected(App(StandInService()))
        made.data_received(asked())
        assert wire.writes == 1

    talk(conversation)


def test_how_long_a_request_waited_outside_counts():
    waited = []

    class Waits(StandInService):
        async def recommend(self, request):
            waited.append(WAITED_S.get())
            return await super().recommend(request)

    async def conversation():
        made, wire = connected(App(Waits(), deadline_s=1.0))
        for _ in range(2):
            made.data_received(asked())
            await settled(wire, wire.writes)
            time.sleep(0.1)
        assert waited[0] < 0.05 < 0.09 < waited[1]
        assert WAITED_S.get() == 0.0

    talk(conversation)


@pytest.mark.parametrize("name", LONG)
def test_what_is_unusual_takes_the_long_way(name, monkeypatch):
    async def conversation():
        app = App(StandInService())
        made, wire = connected(app)
        created = []
        monkeypatch.setattr(app, "knock", lambda path: created.append(path))
        made.data_received(LONG[name])
        await settled(wire, 1)
        assert not created
        assert wire.closed == (name in ("closing", "old", "broken", "two lengths", "a folded line"))

    talk(conversation)


def test_what_is_sent_ahead_waits_for_its_turn():
    async def conversation():
        service = Slow()
        made, wire = connected(App(service))
        made.data_received(asked("a"))
        for user in "bcd":
            made.data_received(asked(user))
        half = asked("e")
        made.data_received(half[:30])
        await asyncio.sleep(0.01)
        assert wire.written == b""
        service.let.set()
        await settled(wire, 4)
        made.data_received(half[30:])
        replies = await settled(wire, 5)
        assert [user for user, reply in zip("abcde", replies, strict=True) if f'"{user}-1"'.encode() in reply] == [
            *"abcde"
        ]
        assert not wire.paused

    talk(conversation)


def test_who_sends_too_much_ahead_is_not_read():
    async def conversation():
        service = Slow()
        made, wire = connected(App(service))
        made.data_received(asked("a"))
        while not wire.paused:
            made.data_received(asked("b"))
        assert len(made._ahead) < module._MOST_AHEAD + 1000
        service.let.set()
        await settled(wire, 1 + made._ahead.count(b"POST"))
        assert not wire.paused

    talk(conversation)


def test_a_shut_door_is_met_before_anything_is_begun(monkeypatch):
    async def conversation():
        app = App(StandInService())
        monkeypatch.setattr(app._door, "lets_in", lambda now: False)
        made, wire = connected(app)
        made.data_received(asked())
        assert wire.writes == 1
        assert not made.tasks
        assert b" 429 " in wire.written
        assert b"retry-after: " in wire.written
        made.data_received(asked(path=b"/v1/events"))
        assert b" 400 " in (await settled(wire, 2))[1]
        app._observe()
        refused = app.metrics.text().decode()
        assert 'route="/v1/recommend",status="429"} 1.0' in refused

    talk(conversation)


def test_who_does_not_read_takes_the_long_way_which_waits():
    async def conversation():
        made, wire = connected(App(StandInService()))
        made.pause_writing()
        made.data_received(asked())
        await asyncio.sleep(0.02)
        assert wire.written == b""
        made.resume_writing()
        await settled(wire, 1)

    talk(conversation)


def test_a_server_that_stops_answers_and_says_goodbye():
    async def conversation():
        service = Slow()
        made, wire = connected(App(service))
        made.data_received(asked())
        await asyncio.sleep(0)
        made.shutdown()
        assert not wire.closed
        service.let.set()
        (reply,) = await settled(wire, 1)
        assert b"connection: close\r\n" in reply
        assert wire.closed
        idle, wire = connected(App(service))
        idle.shutdown()
        assert wire.closed

    talk(conversation)


def test_a_connection_that_is_not_answered_ends_and_says_so(monkeypatch, capsys):
    async def broken(scope, receive):
        raise RuntimeError("broken")

    async def conversation():
        app = App(StandInService())
        monkeypatch.setattr(app, "reply", broken)
        made, wire = connected(app)
        made.data_received(asked())
        while not wire.closed:
            await asyncio.sleep(0.002)
        assert not made.tasks

    talk(conversation)
    assert "RuntimeError: broken" in capsys.readouterr().err


def test_a_caller_who_went_is_sent_nothing():
    async def conversation():
        service = Slow()
        made, wire = connected(App(service))
        made.data_received(asked())
        wire.close()
        made.connection_lost(None)
        service.let.set()
        while made.tasks:
            await asyncio.sleep(0.002)
        assert wire.written == b""

    talk(conversation)


@pytest.mark.parametrize("sent", [b"", asked(), asked("ada", b"connection: close"), b"POST /v1/rec"])
def test_nothing_is_left_of_a_connection_that_ended(sent):
    async def conversation():
        made, wire = connected(App(StandInService()))
        made.data_received(sent)
        if sent.endswith(b"}"):
            await settled(wire, 1)
        await asyncio.sleep(0.01)
        made.connection_lost(None)
        left = weakref.ref(made)
        del made
        await asyncio.sleep(0.01)
        assert left() is None

    gc.disable()
    try:
        talk(conversation)
    finally:
        gc.enable()


def test_a_head_may_not_dawdle(monkeypatch):
    monkeypatch.setattr(module, "_HEAD_SECONDS", 0.05)

    async def conversation():
        silent, first = connected(App(StandInService()))
        silent.timeout_keep_alive = 0.05
        silent.connection_made(first)
        slow, second = connected(App(StandInService()))
        whole, third = connected(App(Slow()))
        slow.data_received(b"POST /v1/rec")
        head, _, body = asked().partition(b"\r\n\r\n")
        whole.data_received(head + b"\r\n\r\n" + body[:5])
        for _ in range(10):
            await asyncio.sleep(0.01)
            if not second.closed:
                slow.data_received(b"o")
        assert (first.closed, second.closed, third.closed) == (True, True, False)

    talk(conversation)


def test_who_is_silent_is_let_go_but_not_who_waits(monkeypatch):
    async def conversation():
        service = Slow()
        made, wire = connected(App(service))
        made.timeout_keep_alive = 0.04
        made._end_if_silent()
        for _ in range(10):
            made.data_received(asked(path=b"/v1/events"))
            await asyncio.sleep(0.01)
        made.data_received(asked())
        await asyncio.sleep(0.1)
        assert not wire.closed
        service.let.set()
        await asyncio.sleep(0.15)
        assert wire.closed

    talk(conversation)


def test_a_rate_is_that_of_the_caller_behind_a_trusted_proxy(monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.7")

    async def conversation():
        made, wire = connected(App(StandInService(), limits=Limits(requests_per_second=0.01, burst=1)))
        for caller in (b"10.1.1.1", b"10.1.1.1", b"10.1.1.2"):
            made.data_received(asked("ada", b"x-forwarded-for: " + caller))
            await asyncio.sleep(0.01)
        assert [reply[9:12] for reply in await settled(wire, 3)] == [b"200", b"429", b"200"]

    talk(conversation)
