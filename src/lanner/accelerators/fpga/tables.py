"""The memories on chip: vectors of codes, and each item's scales and bias."""

from amaranth.hdl import Array, Module, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import COEFFICIENT_BITS, TARGET_SCALE_BITS
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import delayed

ROW_LATENCY, ITEM_LATENCY = 4, 3
_BANK = 2048
"""Words of a bank: the depth of a block RAM, so that each has a register of its own before the multiplexer."""

ITEM = data.StructLayout(
    {"target_scale": unsigned(TARGET_SCALE_BITS), "source_scale": unsigned(COEFFICIENT_BITS), "bias": signed(32)}
)


class RowTable(wiring.Component):
    """Codes, ``lanes`` of them a word: ``data`` holds word ``address`` after ``ROW_LATENCY`` cycles."""

    def __init__(self, parameters: Parameters) -> None:
        self.depth, width = parameters.rows * parameters.beats, parameters.lanes * 8
        bits = log2(self.depth)
        write = {"write": In(1), "write_address": In(bits), "write_data": In(width)}
        super().__init__({"address": In(bits), "data": Out(width), **write})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address = delayed(m, self.address, 1, "address")
        write, where, what = (
            delayed(m, line, 1, name)
            for line, name in ((self.write, "write"), (self.write_address, "where"), (self.write_data, "what"))
        )
        banks = []
        for number, first in enumerate(range(0, self.depth, _BANK)):
            bank = memory.Memory(shape=len(self.data), depth=min(_BANK, self.depth - first), init=[])
            m.submodules[f"bank{number}"] = bank
            writing, reading = bank.write_port(), bank.read_port()
            m.d.comb += [writing.addr.eq(where), writing.data.eq(what), reading.addr.eq(address)]
            m.d.comb += writing.en.eq(write & ((where >> log2(_BANK)) == number))
            banks.append(delayed(m, reading.data, 1, f"bank{number}_data"))
        chosen = delayed(m, address >> log2(_BANK), 2, "chosen") if len(banks) > 1 else None
        m.d.sync += self.data.eq(banks[0] if chosen is None else Array(banks)[chosen])
        return m


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
