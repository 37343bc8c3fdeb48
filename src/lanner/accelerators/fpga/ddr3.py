"""Simulation model of a DDR3 chip behind LiteDRAM's native port, data included, exact to the controller's cycle.

The controller is modelled as LiteDRAM (github.com/enjoy-digital/litedram) works for one reading port: a queue of
commands for one bank at a time (its crossbar locks a port to a bank until that bank's queue is empty), rows that stay
open until another is needed, and a refresh that closes all of them. Addresses count words; a page is what a row holds
in one bank, and the next page lies in the next bank (``ROW_BANK_COL``).
"""

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BURST, _CLOCKS, _QUEUE = 8, 2, 8
"""Transfers of a read; clocks of the chip in a cycle of the controller (ECP5's PHY); LiteDRAM's cmd_buffer_depth."""


@dataclass(frozen=True)
class Chip:
    """Parameters by their datasheet names. Times in ns, CL and tCCD in clocks."""

    banks: int
    rows: int
    columns: int
    pins: int
    tRP: float
    tRCD: float
    tRAS: float
    tRFC: float
    tREFI: float
    tCCD: int
    CL: int

    @property
    def word_bits(self) -> int:
        """Bits of a burst, which is a word of the port."""
        return _BURST * self.pins

    @property
    def page(self) -> int:
        """Words of a row in one bank."""
        return self.columns // _BURST

    @property
    def words(self) -> int:
        return self.banks * self.rows * self.page


MT41K128M16 = Chip(8, 16_384, 1024, 16, 13.75, 13.75, 35.0, 160.0, 7812.5, 4, 6)
"""Micron's MT41K128M16JT-125: 2 Gbit on 16 pins, as found on ECP5 boards."""


@dataclass(frozen=True)
class Timing:
    """A chip's times in cycles of the controller."""

    chip: Chip
    precharge: int
    activate: int
    row_open: int
    refresh: int
    refresh_every: int
    apart: int
    """Minimum cycles between two reads, which limits the peak rate."""
    latency: int
    """Cycles from a read to its word: CL, and the way through PHY and crossbar."""

    @classmethod
    def of(cls, chip: Chip, mhz: float) -> "Timing":
        """At the controller's clock. LiteDRAM adds half a cycle to times in ns, since its commands have two phases."""
        period = 1e3 / mhz

        def cycles(nanoseconds: float) -> int:
            return ceil((nanoseconds + period / 2) / period)

        return cls(
            chip,
            precharge=cycles(chip.tRP),
            activate=cycles(chip.tRCD),
            row_open=cycles(chip.tRAS),
            refresh=cycles(chip.tRFC),
            refresh_every=int(chip.tREFI / period),
            apart=ceil(chip.tCCD / _CLOCKS),
            latency=ceil(chip.CL / _CLOCKS) + 11,
        )


class Memory:
    """Memory contents and their timing. stall: share of cycles granted to another port."""

    def __init__(self, timing: Timing, words: NDArray[np.uint8], stall: float = 0.0, seed: int = 0) -> None:
        """words: uint8 ``[n, word_bits / 8]``, from address 0 on. The first refresh is due at a random cycle."""
        self._timing, self._words, self._stall = timing, words, stall
        self._draw = np.random.default_rng(seed)
        self._now, self._busy_until, self._next_read = 0, 0, 0
        self._refresh_at = int(self._draw.integers(1, timing.refresh_every + 1))
        self._open: list[int | None] = [None] * timing.chip.banks
        self._opened_at = [0] * timing.chip.banks
        self._queue: deque[int] = deque()
        self._coming: deque[tuple[int, int]] = deque()

    async def serve(self, context: Any, port: Any) -> None:
        """A process of Amaranth's simulator on the port of a reader."""
        while True:
            word = self._coming.popleft()[1] if self._coming and self._coming[0][0] <= self._now else None
            context.set(port.rdata.valid, word is not None)
            if word is not None:
                context.set(port.rdata.payload, int.from_bytes(self._words[word].tobytes(), "little"))
            asks, address = context.get(port.cmd.valid), context.get(port.cmd.payload)
            ready = len(self._queue) < _QUEUE and (not self._queue or self._bank(address) == self._bank(self._queue[0]))
            context.set(port.cmd.ready, ready)
            await context.tick()
            self._advance()
            if asks and ready:
                self._queue.append(address)

    def _bank(self, address: int) -> int:
        return address // self._timing.chip.page % self._timing.chip.banks

    def _advance(self) -> None:
        """One cycle: at most one command to the chip."""
        timing, now = self._timing, self._now
        self._now += 1
        if now < self._busy_until or self._draw.random() < self._stall:
            return
        if now >= self._refresh_at:
            self._open = [None] * timing.chip.banks
            self._busy_until = now + 1 + timing.precharge + timing.refresh
            self._refresh_at += timing.refresh_every
        elif self._queue:
            address = self._queue[0]
            bank, row = self._bank(address), address // (timing.chip.page * timing.chip.banks)
            if self._open[bank] == row:
                if now >= self._next_read:
                    self._queue.popleft()
                    self._coming.append((now + timing.latency, address))
                    self._next_read = now + timing.apart
            elif self._open[bank] is None:
                self._open[bank], self._opened_at[bank] = row, now
                self._busy_until = now + 1 + timing.activate
            elif now >= self._opened_at[bank] + timing.row_open:
                self._open[bank] = None
                self._busy_until = now + 1 + timing.precharge
