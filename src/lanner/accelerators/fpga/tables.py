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
            lines = addresses[number], writes[number], places[number], word[part]
            # One register near the block, which takes half a cycle itself, and one near the multiplexer.
            banks = _banks(m, self.depth, f"column{number}_bank", lines, 2)
            m.d.sync += self.data[part].eq(_chosen(m, banks, addresses[number], 3, f"chosen{number}"))
        return m


class ItemTable(wiring.Component):
    """Scales and bias: ``item`` holds those of ``row`` after ``ITEM_LATENCY`` cycles.

    It is not a register if there are several banks: theirs are near the blocks, and multipliers have their own.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.depth = parameters.items
        bits = log2(self.depth)
        write = {"write": In(1), "write_row": In(bits), "write_item": In(ITEM)}
        super().__init__({"row": In(bits), "item": Out(ITEM), **write})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, place = delayed(m, self.row, 1, "row"), delayed(m, self.write_row, 1, "place")
        write, item = delayed(m, self.write, 1, "write"), delayed(m, self.write_item.as_value(), 1, "written")
        banks = _banks(m, self.depth, "bank", (row, write, place, item), 1)
        m.d.comb += self.item.as_value().eq(_chosen(m, banks, row, 2, "chosen"))
        return m


def _banks(m: Module, depth: int, name: str, lines: tuple[Any, Any, Any, Any], registers: int) -> list[Any]:
    """What memories of ``BANK_WORDS`` words each hold, ``1 + registers`` cycles later.

    lines: address to read, whether to write, address to write, word to write.
    """
    address, write, place, word = lines
    banks = []
    for bank, first in enumerate(range(0, depth, BANK_WORDS)):
        bits = memory.Memory(shape=len(word), depth=min(BANK_WORDS, depth - first), init=[])
        m.submodules[f"{name}{bank}"] = bits
        writing, reading = bits.write_port(), bits.read_port()
        m.d.comb += [writing.addr.eq(place), writing.data.eq(word), reading.addr.eq(address)]
        m.d.comb += writing.en.eq(write & ((place >> log2(BANK_WORDS)) == bank))
        banks.append(delayed(m, reading.data, registers, f"{name}{bank}_data"))
    return banks


def _chosen(m: Module, banks: list[Any], address: Any, cycles: int, name: str) -> Any:
    """The bank that an address of ``cycles`` cycles ago is in."""
    if len(banks) == 1:
        return banks[0]
    return Array(banks)[delayed(m, address >> log2(BANK_WORDS), cycles, name)]
