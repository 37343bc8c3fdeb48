"""An open-loop load generator: send times are drawn in advance, and no answer delays the next request.

Latency counts from the intended send time, which avoids Gil Tene's "coordinated omission": a request that finds no idle
connection waits, and its wait counts, as does any delay of the generator itself.

It runs as a separate process with one thread, one epoll and hand-written HTTP/1.1, so that it takes as little CPU as
possible from the server next to it; its own cost is in every outcome (``cpu_us_per_request``). Linux only.
"""

import argparse
import ctypes
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._serving_arrivals import poisson

RECOMMEND, EVENT, NEW_ITEM = range(3)
KINDS = ("recommend", "event", "new_item")
NOTHING = 0
"""Status of a request that was never answered."""
VARIANTS = ("", "full", "int8", "pruned", "distilled", "popularity")
"""The variant that an answer names as its source; the first: it names none."""
_GRACE_S = 2.0
_RECEIVED_AT_ONCE = 65536


@dataclass(frozen=True)
class Addresses:
    """Where a server accepts each kind of request, as (method, path); ``{id}`` is the new item's."""

    recommend: tuple[str, str] = ("POST", "/v1/recommend")
    event: tuple[str, str] = ("POST", "/v1/events")
    new_item: tuple[str, str] = ("PUT", "/v1/items/{id}")


@dataclass(frozen=True)
class Load:
    """What to send. phases: (requests a second, seconds), each Poisson; short ones are bursts.

    requests: a file as ``Requests`` reads it. by_user: share of the recommendations requested by user id instead of by
    history. connections: kept alive; requests beyond that number wait for one.
    """

    port: int
    phases: Sequence[tuple[float, float]]
    requests: str
    seed: int
    addresses: Addresses = field(default_factory=Addresses)
    events: float = 0.10
    new_items: float = 0.01
    by_user: float = 0.0
    connections: int = 1024
    key: str = ""
    """An API key, if the server requires one."""


@dataclass(frozen=True)
class Outcome:
    """Every request of a load, ordered by intended send time.

    due_s, latency_s: float64, NaN if unanswered. status: int16. kind, variant: int8, see ``KINDS``,
    ``VARIANTS``. cost: of the generator.
    """

    due_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    status: NDArray[np.int16]
    kind: NDArray[np.int8]
    variant: NDArray[np.int8]
    cost: dict[str, float]

    @property
    def answered(self) -> NDArray[np.bool_]:
        return (self.status >= 200) & (self.status < 300)

    def within(self, first_s: float, last_s: float) -> "Outcome":
        """The requests due between two moments."""
        chosen = (self.due_s >= first_s) & (self.due_s < last_s)
        columns = (self.due_s, self.latency_s, self.status, self.kind, self.variant)
        return Outcome(*(column[chosen] for column in columns), self.cost)

    def of_kind(self, kind: int) -> "Outcome":
        """The requests of one kind."""
        chosen = self.kind == kind
        columns = (self.due_s, self.latency_s, self.status, self.kind, self.variant)
        return Outcome(*(column[chosen] for column in columns), self.cost)

    def figures(self, seconds: float, deadline_s: float) -> dict[str, Any]:
        """Rates over ``seconds``, and latencies of the answered requests, in milliseconds."""
        answered, latency_ms = self.answered, 1e3 * self.latency_s
        in_time = answered & (self.latency_s <= deadline_s)
        is_personal = self.variant != VARIANTS.index("popularity")
        known = latency_ms[answered]
        p50, p99 = np.percentile(known, (50, 99)) if len(known) else (np.nan, np.nan)
        return {
            "offered_per_s": len(self.due_s) / seconds,
            "answered_per_s": np.count_nonzero(answered) / seconds,
            "goodput_per_s": np.count_nonzero(in_time) / seconds,
            "personal_goodput_per_s": np.count_nonzero(in_time & is_personal) / seconds,
            "p50_ms": none_if_nan(p50),
            "p99_ms": none_if_nan(p99),
            "rejected": int(np.count_nonzero(self.status == 429)),
            "failed": int(np.count_nonzero((self.status >= 500) | (self.status == NOTHING))),
            "answered_by": self._answered_by(),
        } | self.cost

    def _answered_by(self) -> dict[str, float]:
        """The share of the answers that each variant made; empty if the server names no variant."""
        counts = np.bincount(self.variant[self.answered], minlength=len(VARIANTS))
        return {name: float(n / counts.sum()) for name, n in zip(VARIANTS, counts, strict=True) if name and n}


def none_if_nan(value: float) -> float | None:
    """A number in a form that JSON allows."""
    return None if np.isnan(value) else float(value)


def send(load: Load) -> Outcome:
    """Run a load in a separate process. If no server listens, nothing is answered."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "load.json", Path(folder) / "outcome.npz"
        given.write_text(json.dumps(asdict(load)))
        subprocess.run([sys.executable, "-m", "benchmarks._serving_load", str(given), str(found)], check=True)
        with np.load(found) as read:
            cost = json.loads(str(read["cost"]))
            return Outcome(*(read[name] for name in ("due_s", "latency_s", "status", "kind", "variant")), cost)


# --- requests ------------------------------------------------------------------------------------------------------


class Requests:
    """Request bytes, each request different from all others, so that no server can answer from a cache.

    The file holds ``items``, ``histories`` (50 item ids each), ``users`` (their number) and ``texts``. The last item of
    each history is redrawn, among ids of equal length so that only digits change.
    """

    def __init__(self, load: Load, kinds: NDArray[np.int8], random: np.random.Generator) -> None:
        told = json.loads(Path(load.requests).read_text())
        self._load, self._texts, self._users = load, told["texts"], told["users"]
        number, digits = len(kinds), len(str(told["items"] - 1))
        self._kinds = kinds.tolist()
        self._item = random.integers(10 ** (digits - 1), told["items"], number).tolist()
        self._base = random.integers(0, 1 << 30, number).tolist()
        self._by_user = (random.random(number) < load.by_user).tolist()
        self._run = f"{os.getpid():x}-{time.time_ns():x}"
        self._strangers = [self._stranger(history, digits) for history in told["histories"]]

    def __getitem__(self, number: int) -> bytes:
        kind = self._kinds[number]
        if kind == EVENT:
            return self._event(number)
        if kind == NEW_ITEM:
            return self._new_item(number)
        if self._by_user[number]:
            return self._written(self._load.addresses.recommend, {"user_id": self._user(number), "k": 10})
        head, tail = self._strangers[self._base[number] % len(self._strangers)]
        return b"%b%d%b" % (head, self._item[number], tail)

    def _stranger(self, history: list[int], digits: int) -> tuple[bytes, bytes]:
        mark = "#" * digits
        body = {"history": [*map(str, history[:-1]), mark], "k": 10}
        head, _, tail = self._written(self._load.addresses.recommend, body).partition(mark.encode())
        return head, tail

    def _user(self, number: int) -> str:
        return f"u{self._base[number] % self._users}"

    def _event(self, number: int) -> bytes:
        event = {"user_id": self._user(number), "item_id": str(self._item[number]), "key": f"{self._run}-{number}"}
        return self._written(self._load.addresses.event, {"events": [event]})

    def _new_item(self, number: int) -> bytes:
        method, path = self._load.addresses.new_item
        text = self._texts[self._base[number] % len(self._texts)]
        body = {"title": f"New {number}", "text": f"{text} {number}"}
        return self._written((method, path.replace("{id}", f"new-{self._run}-{number}")), body)

    def _written(self, address: tuple[str, str], body: dict[str, Any]) -> bytes:
        content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        head = f"{address[0]} {address[1]} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {self._load.key}\r\n" if self._load.key else ""
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


# --- the generator -------------------------------------------------------------------------------------------------


class _Timer:
    """A file descriptor that becomes readable at a given moment; epoll's own timeout has millisecond resolution."""

    _CLOCK_MONOTONIC, _ABSOLUTE = 1, 1

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(self._CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        self._spec = (ctypes.c_long * 4)()

    def set(self, moment: float) -> None:
        """``moment``: on the clock of ``time.monotonic``."""
        self._spec[2] = int(moment)
        self._spec[3] = int((moment % 1) * 1e9)
        self._libc.timerfd_settime(self.fd, self._ABSOLUTE, self._spec, None)

    def clear(self) -> None:
        """Acknowledge that it fired."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return


class _Generator:
    def __init__(self, load: Load) -> None:
        self.load = load
        random = np.random.default_rng(load.seed)
        self.due_s = poisson(load.phases, load.seed)
        drawn = random.random(len(self.due_s))
        self.kind = np.where(drawn < load.events, EVENT, RECOMMEND).astype(np.int8)
        self.kind[drawn >= 1 - load.new_items] = NEW_ITEM
        self.requests = Requests(load, self.kind, random)
        number = len(self.due_s)
        self.latency_s = np.full(number, np.nan)
        self.status, self.variant = np.zeros(number, np.int16), np.zeros(number, np.int8)
        self.epoll, self.timer = select.epoll(), _Timer()
        self.sockets: dict[int, socket.socket] = {}
        self.idle: list[int] = []
        self.asked: dict[int, int] = {}
        """The request in flight on each busy connection."""
        self.partial: dict[int, bytes] = {}
        self.waiting: deque[int] = deque()
        self.lateness: list[float] = []
        """Lateness of each wake-up in seconds, against the first request that was due."""

    def run(self) -> Outcome:
        self.epoll.register(self.timer.fd, select.EPOLLIN)
        # A server still busy with an earlier load may accept few connections, or none.
        with suppress(OSError):
            for _ in range(self.load.connections):
                self._connect()
        before = resource.getrusage(resource.RUSAGE_SELF)
        begun = time.monotonic() + 0.1
        self._drive(begun)
        seconds = time.monotonic() - begun
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        cost = {
            "generator_cpu_us_per_request": 1e6 * cpu_s / max(1, len(self.due_s)),
            "generator_cpu_share_of_a_core": cpu_s / seconds,
            "generator_late_p99_ms": 1e3 * float(np.percentile(self.lateness, 99)) if self.lateness else 0.0,
        }
        return Outcome(self.due_s, self.latency_s, self.status, self.kind, self.variant, cost)

    def _drive(self, begun: float) -> None:
        due = (self.due_s + begun).tolist()
        place, number, last = 0, len(due), begun + sum(seconds for _, seconds in self.load.phases) + _GRACE_S
        self.timer.set(due[0] if due else last)
        poll, timer_fd = self.epoll.poll, self.timer.fd
        while place < number or self.asked or self.waiting:
            now = time.monotonic()
            if now > last:
                break
            if place < number and due[place] <= now:
                self.lateness.append(now - due[place])
                while place < number and due[place] <= now:
                    self._ask(place)
                    place += 1
                self.timer.set(due[place] if place < number else last)
            for fd, _ in poll(max(0.0, last - now)):
                if fd == timer_fd:
                    self.timer.clear()
                else:
                    self._receive(fd, begun)

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self.load.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets[connection.fileno()] = connection
        self.epoll.register(connection.fileno(), select.EPOLLIN)
        self.idle.append(connection.fileno())

    def _ask(self, number: int) -> None:
        if not self.idle:
            self.waiting.append(number)
            return
        fd = self.idle.pop()
        self.asked[fd] = number
        try:
            self.sockets[fd].sendall(self.requests[number])
        except OSError:
            self._lost(fd)

    def _receive(self, fd: int, begun: float) -> None:
        if fd not in self.sockets:
            return
        try:
            data = self.sockets[fd].recv(_RECEIVED_AT_ONCE)
        except OSError:
            data = b""
        if not data:
            self._lost(fd)
            return
        before = self.partial.pop(fd, None)
        if before is not None:
            data = before + data
        if not is_whole(data):
            self.partial[fd] = data
            return
        number = self.asked.pop(fd, None)
        if number is None:
            return
        self.status[number] = int(data[9:12])
        self.latency_s[number] = time.monotonic() - begun - self.due_s[number]
        self.variant[number] = _variant_of(data)
        if b"onnection: close" in data[:400]:
            self._lost(fd)
            return
        self._free(fd)

    def _free(self, fd: int) -> None:
        self.idle.append(fd)
        if self.waiting:
            self._ask(self.waiting.popleft())

    def _lost(self, fd: int) -> None:
        """The connection is lost, and its request with it; another one replaces it."""
        self.asked.pop(fd, None)
        self.partial.pop(fd, None)
        if fd in self.idle:
            self.idle.remove(fd)
        self.epoll.unregister(fd)
        self.sockets.pop(fd).close()
        try:
            self._connect()
        except OSError:
            return
        if self.waiting:
            self._ask(self.waiting.popleft())


def is_whole(data: bytes) -> bool:
    """Whether an answer has arrived completely."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    place = head.find(b"content-length:")
    if place < 0:
        return data.endswith(b"0\r\n\r\n") if b"transfer-encoding: chunked" in head else True
    line = head.find(b"\r\n", place)
    length = int(head[place + 15 : line if line >= 0 else end])
    return len(data) - end - 4 >= length


def _variant_of(data: bytes) -> int:
    place = data.rfind(b'"variant":"')
    if place < 0:
        return 0
    name = data[place + 11 : data.index(b'"', place + 11)].decode()
    return VARIANTS.index(name) if name in VARIANTS else 0


def _read(path: str) -> Load:
    told = json.loads(Path(path).read_text())
    addresses = {name: tuple(address) for name, address in told.pop("addresses").items()}
    return Load(addresses=Addresses(**addresses), **told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", help="a Load as JSON")
    parser.add_argument("outcome", help="where to write what came of it, as .npz")
    options = parser.parse_args()
    # Higher priority than the server if permitted: the generator's own delay would count as the server's.
    with suppress(PermissionError):
        os.nice(-10)
    outcome = _Generator(_read(options.load)).run()
    columns = {name: getattr(outcome, name) for name in ("due_s", "latency_s", "status", "kind", "variant")}
    np.savez(options.outcome, **columns, cost=json.dumps(outcome.cost))


if __name__ == "__main__":
    main()
