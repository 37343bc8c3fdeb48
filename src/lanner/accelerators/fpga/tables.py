"""The memories on chip: vectors of codes, and each item's scales and bias."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import COEFFICIENT_BITS, TARGET_SCALE_BITS
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import copies, delayed

ROW_LATENCY, ITEM_LATENCY = 6, 3
BANK_WORDS = 2048
"""Words of a bank: the depth of a block RAM, so that each has its own register before the multiplexer."""
_COLUMN = 72
"""Bits of a word whose memories, eight of 9 bits per bank, share a copy of the addresses."""

ITEM = data.StructLayout(
    {"target_scale": unsigned(TARGET_SCALE_BITS), "source_scale": unsigned(COEFFICIENT_BITS), "bias": signed(32)}
)


class RowTable(wiring.Component):
    """Codes, ``lanes`` per word: ``data`` holds word ``address`` after ``ROW_LATENCY`` cycles.

    push: shift in 32 bits of a word, lowest first. write: with the last of them, store the word at ``write_address``.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.depth, width = parameters.rows * parameters.beats, parameters.lanes * 8
        bits = log2(self.depth)
        write = {"push": In(1), "pushed": In(32), "write": In(1), "write_address": In(bits)}
        super().__init__({"address": In(bits), "data": Out(width), **write})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = [range(first, min(first + _COLUMN, len(self.data))) for first in range(0, len(self.data), _COLUMN)]
        addresses = copies(m, delayed(m, self.address, 1, "address"), len(columns), "address")
        writes = copies(m, delayed(m, self.write, 1, "write"), len(columns), "write")
        places = copies(m, delayed(m, self.write_address, 1, "place"), len(columns), "place")
        pushes = copies(m, self.push, len(columns), "push")
        word = Signal(len(self.data))
        shifted = Cat(word[32:], delayed(m, self.pushed, 1, "pushed"))
        for number, column in enumerate(columns):
            part = slice(column.start, column.stop)
            with m.If(pushes[number]):
                m.d.sync += word[part].eq(shifted[part])
            m.d.sync += self.data[part].eq(
                self._column(m, number, addresses[number], writes[number], places[number], word[part])
            )
        return m

    def _column(self, m: Module, number: int, address: Any, write: Any, place: Any, word: Any) -> Any:
        """Some bits of every word, in memories that hold ``BANK_WORDS`` words each."""
        banks = []
        for bank, first in enumerate(range(0, self.depth, BANK_WORDS)):
            bits = memory.Memory(shape=len(word), depth=min(BANK_WORDS, self.depth - first), init=[])
            m.submodules[f"bank{bank}_{number}"] = bits
            writing, reading = bits.write_port(), bits.read_port()
            m.d.comb += [writing.addr.eq(place), writing.data.eq(word), reading.addr.eq(address)]
            m.d.comb += writing.en.eq(write & ((place >> log2(BANK_WORDS)) == bank))
            # One register near the block, which takes half a cycle itself, and one near the multiplexer.
            banks.append(delayed(m, reading.data, 2, f"bank{bank}_{number}_data"))
        if len(banks) == 1:
            return banks[0]
        return Array(banks)[delayed(m, address >> log2(BANK_WORDS), 3, f"chosen{number}")]


class ItemTable(wiring.Component):
    """Scales and bias: ``item`` holds those of ``row`` after ``ITEM_LATENCY`` cycles."""

    def __init__(self, parameters: Parameters) -> None:
        self.depth = parameters.items
        bits = log2(self.depth)
        write = {"write": In(1), "write_row": In(bits), "write_item": In(ITEM)}
        super().__init__({"row": In(bits), "item": Out(ITEM), **write})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = table = memory.Memory(shape=ITEM, depth=self.depth, init=[])
        writing, reading = table.write_port(), table.read_port()
        row, read = Signal.like(self.row), Signal(ITEM)
        m.d.sync += [row.eq(self.row), read.eq(reading.data)]
        m.d.comb += [reading.addr.eq(row), self.item.eq(read)]
        m.d.sync += [writing.en.eq(self.write), writing.addr.eq(self.write_row), writing.data.eq(self.write_item)]
        return m
