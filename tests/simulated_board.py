"""A board in a thread: speaks ``accelerators/host.py``'s frames over TCP or a pseudo-terminal, and answers
with the reference, from only the words it was sent.

fault: applied to the next responses to requests, until set to None.
"""

import os
import select
import socket
import threading
import tty
import zlib
from collections.abc import Callable

import numpy as np

from lanner.accelerators.contract import ROW_BITS, Contract, FixedPoint, Request, SparseCodes, Units
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import VERSION, Operation, Register, Status
from lanner.accelerators.host import CHECK, HEAD, Code, Kind, frame

ROW_MASK = (1 << ROW_BITS) - 1


class SimulatedBoard:
    """``with SimulatedBoard(sizes) as board``: listens at ``board.place``."""

    def __init__(self, sizes: Parameters, *, serial: bool = False) -> None:
        self.sizes, self.fault, self.requests, self.loads = sizes, None, 0, 0
        self._words = np.zeros(sizes.rows * sizes.dimensions // 4, np.uint32)
        self._items = np.zeros((sizes.items, 2), np.uint32)
        self._registers = {Register.ITEMS: sizes.items, Register.TARGET_BASE: 0, Register.CONTRACT: 0}
        self._status, self._cycles = 0, 0
        self._stopping = False
        if serial:
            self._file, self._device = os.openpty()
            tty.setraw(self._device)
            self.place, work = os.ttyname(self._device), lambda: self._serve(self._file)
        else:
            self._listening = socket.create_server(("127.0.0.1", 0))
            self.place, work = f"127.0.0.1:{self._listening.getsockname()[1]}", self._accept
        self._thread = threading.Thread(target=work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping = True
        self._thread.join(5)

    def _accept(self) -> None:
        with self._listening:
            while not self._stopping:
                if select.select([self._listening], [], [], 0.02)[0]:
                    one, _ = self._listening.accept()
                    with one:
                        self._serve(one.fileno())

    def _serve(self, file: int) -> None:
        """One connection, until it ends; any further one is told BUSY."""
        held = bytearray()
        others = [] if not hasattr(self, "_listening") else [self._listening]
        while not self._stopping:
            ready = select.select([file, *others], [], [], 0.02)[0]
            if others and others[0] in ready:
                other, _ = others[0].accept()
                with other:
                    other.recv(1 << 16)
                    other.sendall(frame(Code.BUSY, 1, 0))
            if file not in ready:
                continue
            try:
                read = os.read(file, 1 << 16)
            except OSError:
                return
            if not read:
                return
            held += read
            while (reply := self._reply(held)) is not None:
                if callable(self.fault) and reply[1]:
                    cut = self.fault(reply[0])
                    os.write(file, cut)
                    if len(cut) < len(reply[0]) and cut:
                        return
                else:
                    os.write(file, reply[0])

    def _reply(self, held: bytearray) -> tuple[bytes, bool] | None:
        """The answer to the first whole frame, and whether that was a request; None: there is none yet."""
        if len(held) < HEAD.size:
            return None
        kind, tag, register, length = HEAD.unpack(held[: HEAD.size])
        end = HEAD.size + 4 * length
        if len(held) < end + CHECK.size:
            return None
        told, (check,) = bytes(held[:end]), CHECK.unpack(held[end : end + CHECK.size])
        del held[: end + CHECK.size]
        if zlib.crc32(told) != check:
            return frame(Code.BAD_CHECKSUM, tag, 0), False
        words = np.frombuffer(told[HEAD.size :], "<u4").astype(np.int64)
        if kind == Kind.READ:
            return frame(Code.OK, tag, 0, [self._read(register)]), False
        if kind == Kind.WRITE:
            self._write(register, int(words[0]))
            return frame(Code.OK, tag, 0, [self._status]), False
        if kind != Kind.PACKET:
            return frame(Code.BAD_FRAME, tag, 0), False
        operation = int(words[0]) >> 28
        return frame(Code.OK, tag, 0, self._packet(operation, words)), operation == Operation.REQUEST

    def _read(self, register: int) -> int:
        sizes = self.sizes
        fixed = {
            Register.VERSION: VERSION,
            Register.STATUS: self._status,
            Register.SIZES: sizes.dimensions | sizes.lanes << 12 | sizes.k << 24,
            Register.CYCLES: self._cycles,
        }
        return {**self._registers, **fixed}[Register(register)]

    def _write(self, register: int, value: int) -> None:
        if register == Register.STATUS:
            self._status &= ~value
        elif register == Register.ITEMS and not 0 < value <= self.sizes.items:
            self._status |= Status.ROW_OUT_OF_RANGE
        else:
            self._registers[Register(register)] = value

    def _packet(self, operation: int, words: np.ndarray) -> list[int]:
        if operation == Operation.REQUEST:
            return self._request(words)
        self.loads += 1
        first = int(words[0]) & 0xFFFFFF
        table, given = (
            (self._words, words[1:]) if operation == Operation.LOAD_ROWS else (self._items, words[1:].reshape(-1, 2))
        )
        if first + len(given) > len(table):
            self._status |= Status.ROW_OUT_OF_RANGE
        else:
            table[first : first + len(given)] = given
        return []

    def _request(self, words: np.ndarray) -> list[int]:
        self.requests += 1
        number, k, sparse = int(words[0]) & 0xFFFF, int(words[0]) >> 16 & 0xFF, self.sizes.item_to_item
        scales = [FixedPoint(int(word) & 0xFFFF, int(word) >> 16) for word in words[1 : 2 + sparse]]
        place = 2 + sparse
        num_seen, place = int(words[place]), place + 1
        rows, weights, row_scales, lists = [], [], [], []
        for _ in range(number):
            rows.append(int(words[place]) & ROW_MASK)
            weights.append(int(words[place]) >> ROW_BITS)
            place += 1
            if sparse:
                row_scales.append(int(words[place]) & 0xFFF)
                length = int(words[place]) >> 12
                lists.append(words[place + 1 : place + 1 + length])
                place += 1 + length
        seen = words[place : place + num_seen]
        contract = self._contract(rows, row_scales, lists)
        by = scales[1] if sparse else FixedPoint(0, 0)
        request = Request(np.array(rows, np.int64), np.array(weights, np.int64), scales[0], by, seen, k)
        (timed,) = Emulator(contract, self.sizes).answer([request])
        self._cycles = timed.cycles
        pairs = np.stack([timed.answer.rows, timed.answer.scores], axis=1).reshape(-1)
        return [*(pairs & 0xFFFFFFFF).tolist(), 0, timed.cycles]

    def _contract(self, rows: list[int], row_scales: list[int], lists: list[np.ndarray]) -> Contract:
        """What the tables hold, and the item-to-item rows that came along."""
        items, base = self._registers[Register.ITEMS], self._registers[Register.TARGET_BASE]
        table = self._words.view(np.int8).reshape(-1, self.sizes.dimensions)
        scale, bias = self._items[:items].T
        sparse = None
        if self.sizes.item_to_item:
            entries = dict(zip(rows, lists, strict=True))
            lengths = [len(entries.get(row, ())) for row in range(items)]
            joined = np.concatenate([np.empty(0, np.int64), *(entries[row] for row in sorted(entries))])
            scales = np.ones(items, np.uint16)
            scales[rows] = row_scales
            codes = (joined >> ROW_BITS).astype(np.uint8).view(np.int8)
            indptr = np.concatenate([[0], np.cumsum(lengths)])
            sparse = SparseCodes(indptr, (joined & ROW_MASK).astype(np.int32), codes, scales)
        return Contract(
            table[:items],
            table[base : base + items],
            (scale >> 16).astype(np.uint16),
            (scale & 0xFFFF).astype(np.uint16),
            bias.view(np.int32) if bias.flags.c_contiguous else np.ascontiguousarray(bias).view(np.int32),
            sparse,
            self.sizes.score_shift,
            Units(1, 1, 1, 1, 1),
        )


Fault = Callable[[bytes], bytes]


def truncated(reply: bytes) -> bytes:
    """The stream ends within the answer."""
    return reply[:-7]


def disturbed(reply: bytes) -> bytes:
    """One bit is wrong."""
    return reply[:9] + bytes([reply[9] ^ 4]) + reply[10:]


def silent(reply: bytes) -> bytes:
    """No answer."""
    return b""


def busy(reply: bytes) -> bytes:
    """The board is at something else."""
    _, tag, _, _ = HEAD.unpack(reply[: HEAD.size])
    return frame(Code.BUSY, tag, 0)


def late(reply: bytes) -> bytes:
    """The answer to another request."""
    code, tag, _, _ = HEAD.unpack(reply[: HEAD.size])
    words = np.frombuffer(reply[HEAD.size : -CHECK.size], "<u4")
    return frame(code, (tag - 1) % 256, 0, words)


def refused(reply: bytes) -> bytes:
    """The engine did not take the history."""
    code, tag, _, _ = HEAD.unpack(reply[: HEAD.size])
    words = np.frombuffer(reply[HEAD.size : -CHECK.size], "<u4").copy()
    words[-2] = Status.HISTORY_TOO_LONG
    return frame(code, tag, 0, words)
