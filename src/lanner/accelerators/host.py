"""A board behind a byte stream, a serial device or TCP: one connection, a frame for each frame, in order.

A frame, in little-endian bytes: a head of 8, so many words of 32 bits, and the CRC-32 (zlib's) of all before it::

    to the board     kind u8, tag u8, register u16, words u32
    to the host      code u8, tag u8, 0 u16, words u32

- PACKET: words of ``fpga/protocol.py``, of which the last is the packet's last. Answered, where it is a request, by
  the answer's words and then the register CYCLES; by no words otherwise.
- READ: no words; answered by the register. WRITE: one word; answered by the register STATUS.

The answer bears the tag of what it answers. Its code is ``Code.OK``, or says why nothing was done; it has no words
then. The board drops an unfinished frame after a second of silence, and gives BUSY to every further connection.
"""

import logging
import os
import select
import socket
import struct
import termios
import threading
import time
import tty
import zlib
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import Contract, Request
from lanner.accelerators.emulator import Timed
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import (
    VERSION,
    Packet,
    Register,
    Status,
    answer_words,
    load,
    read_answer,
    request_packet,
    settings,
)
from lanner.errors import AcceleratorError, ConfigError

HEAD, CHECK = struct.Struct("<BBHI"), struct.Struct("<I")
MOST_WORDS = 1 << 24
"""Words of a frame; a longer one is a fault of the line."""
ANSWER_SECONDS, LOAD_SECONDS, RETRY_SECONDS = 0.1, 30.0, 5.0
"""For an answer; for a frame while tables are loaded; between attempts to connect."""
LONGEST_LIST = 255
"""Of any board, until this one says its own."""
_log = logging.getLogger(__name__)
Words = NDArray[np.uint32]


class Kind(IntEnum):
    """What a frame to the board is."""

    PACKET = 1
    READ = 2
    WRITE = 3


class Code(IntEnum):
    """What became of a frame."""

    OK = 0
    BUSY = 1
    BAD_CHECKSUM = 2
    BAD_FRAME = 3


def frame(kind: int, tag: int, register: int, words: NDArray[np.integer] | Sequence[int] = ()) -> bytes:
    """A frame of either direction."""
    data = np.asarray(words).astype("<u4").tobytes()
    told = HEAD.pack(kind, tag, register, len(data) // 4) + data
    return told + CHECK.pack(zlib.crc32(told))


class Board:
    """Implements ``emulator.Accelerator``. After a fault it is connected anew in the background, tables included.

    Until then every request is refused at once, so that no caller waits.
    """

    def __init__(self, place: str, contract: Contract) -> None:
        """place: path of a serial device, whose speed is what it is set to (``stty``), or HOST:PORT.

        Raises:
            ConfigError: neither.
        """
        _check_place(place)
        self._place, self._contract = place, contract
        self._link: _Link | None = None
        self.longest_list = LONGEST_LIST
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._problem = ""
        try:
            self._link, self.longest_list = self._connected()
        except AcceleratorError as error:
            self._lost(error)

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer a request, in order.

        Raises:
            AcceleratorError: there is no board, it failed, or it refused a request.
        """
        if not self._lock.acquire(timeout=ANSWER_SECONDS):
            raise AcceleratorError(f"{self._place}: busy with another caller for {ANSWER_SECONDS:g} s")
        try:
            if self._link is None:
                raise AcceleratorError(f"not connected: {self._problem}")
            return self._asked(self._link, requests)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Hand the board back."""
        self._closed.set()
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None

    def _asked(self, link: "_Link", requests: Sequence[Request]) -> list[Timed]:
        try:
            return [self._ask(link, request) for request in requests]
        except _RefusedError:
            raise
        except AcceleratorError as error:
            self._lost(error)
            raise

    def _ask(self, link: "_Link", request: Request) -> Timed:
        words = link.packet(request_packet(request, self._contract.sparse), ANSWER_SECONDS)
        if len(words) != answer_words(request.k) + 1:
            raise AcceleratorError(f"{self._place}: an answer of {len(words)} words, not {answer_words(request.k) + 1}")
        found, status = read_answer(words[:-1])
        if status:
            raise _RefusedError(f"{self._place}: the board refused a request: {_named(status)}")
        return Timed(found, int(words[-1]))

    def _connected(self) -> tuple["_Link", int]:
        """A connection to a board that holds the tables, and its longest list."""
        link = _Link(self._place)
        try:
            version, sizes = link.read(Register.VERSION), link.read(Register.SIZES)
            if version != VERSION:
                raise AcceleratorError(f"{self._place}: a board of version {version}, not {VERSION}")
            if link.read(Register.CONTRACT) != settings(self._contract)[Register.CONTRACT]:
                self._load(link, sizes)
        except AcceleratorError:
            link.close()
            raise
        return link, sizes >> 24

    def _load(self, link: "_Link", sizes: int) -> None:
        contract, dimensions, lanes = self._contract, sizes & 0xFFF, sizes >> 12 & 0xFFF
        rows = contract.num_items * (1 if contract.tied else 2)
        sparse = contract.sparse is not None
        try:
            built = Parameters(
                dimensions, lanes, rows, contract.num_items, sizes >> 24, contract.score_shift, 4, item_to_item=sparse
            )
            packets = load(contract, built)
        except ConfigError as error:
            raise AcceleratorError(f"{self._place}: {error}") from None
        link.write(Register.CONTRACT, 0)  # until all is loaded
        link.write(Register.STATUS, 0xFFFFFFFF)
        for packet in packets:
            link.packet(packet, LOAD_SECONDS)
        for register, value in settings(contract).items():
            status = Status(link.write(register, value)) & ~Status.BUSY
            if status:
                raise AcceleratorError(f"{self._place}: the board does not hold the contract: {_named(status)}")

    def _lost(self, error: AcceleratorError) -> None:
        """Drop the connection, and connect anew in the background."""
        if self._link is not None:
            self._link.close()
        self._link, self._problem = None, str(error)
        _log.warning("accelerator lost: %s", error)
        threading.Thread(target=self._reconnect, name="accelerator", daemon=True).start()

    def _reconnect(self) -> None:
        while not self._closed.wait(RETRY_SECONDS):
            try:
                link, longest_list = self._connected()
            except AcceleratorError as error:
                self._problem = str(error)
                continue
            with self._lock:
                if self._closed.is_set():
                    link.close()
                    return
                self._link, self.longest_list = link, longest_list
            _log.warning("accelerator connected: %s", self._place)
            return


class _RefusedError(AcceleratorError):
    """The board is well, and refused a request."""


class _Link:
    """One connection: a frame out, a frame in."""

    def __init__(self, place: str) -> None:
        self._place, self._tag = place, 0
        try:
            self._file = _opened(place)
        except OSError as error:
            raise AcceleratorError(f"{place}: cannot connect ({error.strerror or error})") from None
        os.set_blocking(self._file, False)

    def packet(self, packet: Packet, seconds: float) -> Words:
        """The words that answer a packet."""
        return self._exchange(Kind.PACKET, 0, packet, seconds)

    def read(self, register: Register) -> int:
        """A register."""
        return self._one(self._exchange(Kind.READ, register, (), LOAD_SECONDS))

    def write(self, register: Register, value: int) -> int:
        """Write a register; the register STATUS afterwards."""
        return self._one(self._exchange(Kind.WRITE, register, [value], LOAD_SECONDS))

    def close(self) -> None:
        os.close(self._file)

    def _one(self, words: Words) -> int:
        if len(words) != 1:
            raise AcceleratorError(f"{self._place}: {len(words)} words in answer to a register access, not 1")
        return int(words[0])

    def _exchange(self, kind: Kind, register: int, words: NDArray[np.integer] | Sequence[int], seconds: float) -> Words:
        self._tag = (self._tag + 1) % 256
        ends = time.monotonic() + seconds
        self._send(frame(kind, self._tag, register, words), ends)
        head = self._receive(HEAD.size, ends)
        code, tag, _, length = HEAD.unpack(head)
        if length > MOST_WORDS:
            raise AcceleratorError(f"{self._place}: an answer of {length:,} words; the line is disturbed")
        data = self._receive(4 * length, ends)
        (check,) = CHECK.unpack(self._receive(CHECK.size, ends))
        if check != zlib.crc32(head + data):
            raise AcceleratorError(f"{self._place}: wrong checksum of an answer; the line is disturbed")
        if code != Code.OK:
            name = Code(code).name if code in list(Code) else str(code)
            raise AcceleratorError(f"{self._place}: the board answered {name}")
        if tag != self._tag:
            raise AcceleratorError(f"{self._place}: an answer to frame {tag}, not {self._tag}")
        return np.frombuffer(data, "<u4").astype(np.uint32)

    def _send(self, data: bytes, ends: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT, ends)
            try:
                left = left[os.write(self._file, left) :]
            except OSError as error:
                raise AcceleratorError(f"{self._place}: the connection broke ({error.strerror})") from None

    def _receive(self, number: int, ends: float) -> bytes:
        found = bytearray()
        while len(found) < number:
            self._wait(select.POLLIN, ends)
            try:
                read = os.read(self._file, number - len(found))
            except OSError as error:
                raise AcceleratorError(f"{self._place}: the connection broke ({error.strerror})") from None
            if not read:
                raise AcceleratorError(f"{self._place}: the stream ended {len(found)} bytes into {number}")
            found += read
        return bytes(found)

    def _wait(self, event: int, ends: float) -> None:
        waiting = select.poll()
        waiting.register(self._file, event)
        if not waiting.poll(max(0.0, ends - time.monotonic()) * 1e3):
            raise AcceleratorError(f"{self._place}: no answer in time")


def _check_place(place: str) -> None:
    _, _, port = place.rpartition(":")
    if not place.startswith("/") and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"'{place}' is neither a device's path nor HOST:PORT")


def _opened(place: str) -> int:
    """A file descriptor."""
    if not place.startswith("/"):
        host, _, port = place.rpartition(":")
        connected = socket.create_connection((host, int(port)), timeout=1.0)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected.detach()
    file = os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        tty.setraw(file)
        termios.tcflush(file, termios.TCIOFLUSH)
    except termios.error:
        os.close(file)
        raise OSError(0, "not a serial device") from None
    return file


def _named(status: Status) -> str:
    return " and ".join(one.name for one in Status if one in status and one.name)
