"""A board behind a byte stream (serial device or TCP): one connection, one reply frame per frame, in order.

A frame, little-endian: a header of 8 bytes, 32-bit words, and the CRC-32 (zlib) of everything before it::

    to the board     kind u8, tag u8, register u16, words u32
    to the host      code u8, tag u8, 0 u16, words u32

- PACKET: words of ``fpga/protocol.py``, of which the last is the packet's last. A request is answered by the answer's
  words followed by the register CYCLES; other packets by no words.
- READ: no words; answered by the register. WRITE: one word; answered by the register STATUS.

An answer has the tag of the frame it answers. Its code is ``Code.OK``, or an error, in which case nothing was done and
there are no words. The board drops an incomplete frame after a second of silence, and replies BUSY on any further
connection.
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
"""Maximum words of a frame; a longer one indicates a line fault."""
ANSWER_SECONDS, LOAD_SECONDS, RETRY_SECONDS = 0.1, 30.0, 5.0
"""Timeouts of an answer and of a frame while loading tables; interval between connection attempts."""
LONGEST_LIST = 255
"""Maximum of any board, until the board reports its own."""
_log = logging.getLogger(__name__)
Words = NDArray[np.uint32]


class Kind(IntEnum):
    """Kinds of frames to the board."""

    PACKET = 1
    READ = 2
    WRITE = 3


class Code(IntEnum):
    """Result codes of a frame."""

    OK = 0
    BUSY = 1
    BAD_CHECKSUM = 2
    BAD_FRAME = 3


def frame(kind: int, tag: int, register: int, words: NDArray[np.integer] | Sequence[int] = ()) -> bytes:
    """A frame, in either direction."""
    data = np.asarray(words).astype("<u4").tobytes()
    told = HEAD.pack(kind, tag, register, len(data) // 4) + data
    return told + CHECK.pack(zlib.crc32(told))


class Board:
    """Implements ``emulator.Accelerator``. After a fault it reconnects in the background and reloads the tables.

    Until then, requests fail immediately, so that no caller waits.
    """

    def __init__(self, place: str, contract: Contract) -> None:
        """place: path of a serial device, with the baud rate as configured (``stty``), or HOST:PORT.

        Raises:
            ConfigError: ``place`` is neither.
        """
        _check_address(place)
        self._place, self._contract = place, contract
        self._link: _Link | None = None
        self.longest_list = LONGEST_LIST
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._problem = ""
        try:
            self._link, self.longest_list = self._connected()
        except AcceleratorError as error:
            self._on_disconnect(error)

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer per request, in order.

        Raises:
            AcceleratorError: there is no board, it failed, or it refused a request.
        """
        if not self._lock.acquire(timeout=ANSWER_SECONDS):
            raise AcceleratorError(f"{self._place}: busy with another caller for {ANSWER_SECONDS:g} s")
        try:
            if self._link is None:
                raise AcceleratorError(f"not connected: {self._problem}")
            return self._run_all(self._link, requests)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Release the board."""
        self._closed.set()
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None

    def _run_all(self, link: "_Link", requests: Sequence[Request]) -> list[Timed]:
        try:
            return [self._run_one(link, request) for request in requests]
        except _RefusedError:
            raise
        except AcceleratorError as error:
            self._on_disconnect(error)
            raise

    def _run_one(self, link: "_Link", request: Request) -> Timed:
        words = link.packet(request_packet(request, self._contract.sparse), ANSWER_SECONDS)
        if len(words) != answer_words(request.k) + 1:
            raise AcceleratorError(
                f"{self._place}: an answer of {len(words)} words, expected {answer_words(request.k) + 1}"
            )
        found, status = read_answer(words[:-1])
        if status:
            raise _RefusedError(f"{self._place}: the board refused a request: {_status_names(status)}")
        return Timed(found, int(words[-1]))

    def _connected(self) -> tuple["_Link", int]:
        """A connection to a board with loaded tables, and its longest list."""
        link = _Link(self._place)
        try:
            version, sizes = link.read(Register.VERSION), link.read(Register.SIZES)
            if version != VERSION:
                raise AcceleratorError(f"{self._place}: board version {version}, expected {VERSION}")
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
        link.write(Register.CONTRACT, 0)  # invalid until everything is loaded
        link.write(Register.STATUS, 0xFFFFFFFF)
        for packet in packets:
            link.packet(packet, LOAD_SECONDS)
        for register, value in settings(contract).items():
            status = Status(link.write(register, value)) & ~Status.BUSY
            if status:
                raise AcceleratorError(f"{self._place}: the board rejected the contract: {_status_names(status)}")

    def _on_disconnect(self, error: AcceleratorError) -> None:
        """Drop the connection, and reconnect in the background."""
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
    """The board works but rejected a request."""


class _Link:
    """One connection: sends a frame, receives a frame."""

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
        """Read a register."""
        return self._single_word(self._exchange(Kind.READ, register, (), LOAD_SECONDS))

    def write(self, register: Register, value: int) -> int:
        """Write a register; returns the register STATUS."""
        return self._single_word(self._exchange(Kind.WRITE, register, [value], LOAD_SECONDS))

    def close(self) -> None:
        os.close(self._file)

    def _single_word(self, words: Words) -> int:
        if len(words) != 1:
            raise AcceleratorError(f"{self._place}: {len(words)} words in answer to a register access, expected 1")
        return int(words[0])

    def _exchange(self, kind: Kind, register: int, words: NDArray[np.integer] | Sequence[int], seconds: float) -> Words:
        self._tag = (self._tag + 1) % 256
        ends = time.monotonic() + seconds
        self._send(frame(kind, self._tag, register, words), ends)
        head = self._receive(HEAD.size, ends)
        code, tag, _, length = HEAD.unpack(head)
        if length > MOST_WORDS:
            raise AcceleratorError(f"{self._place}: an answer of {length:,} words; the link is faulty")
        data = self._receive(4 * length, ends)
        (check,) = CHECK.unpack(self._receive(CHECK.size, ends))
        if check != zlib.crc32(head + data):
            raise AcceleratorError(f"{self._place}: wrong checksum in an answer; the link is faulty")
        if code != Code.OK:
            name = Code(code).name if code in list(Code) else str(code)
            raise AcceleratorError(f"{self._place}: the board answered {name}")
        if tag != self._tag:
            raise AcceleratorError(f"{self._place}: an answer to frame {tag}, expected {self._tag}")
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


def _check_address(place: str) -> None:
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


def _status_names(status: Status) -> str:
    return " and ".join(one.name for one in Status if one in status and one.name)
