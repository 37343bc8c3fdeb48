"""The weighted sum of item-to-item rows: one entry per cycle into a memory with a sum for each item."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ACCUMULATOR_BITS, COEFFICIENT_BITS
from lanner.accelerators.fpga import coefficient, multiplier
from lanner.accelerators.fpga.coefficient import Coefficient
from lanner.accelerators.fpga.multiplier import Multiplier
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import delayed

READ_LATENCY = 2
ENTRIES_APART = 3
"""Minimum cycles between two entries of the same item, so that a sum is written before it is read again. Always met:
items of a row are distinct, and two words come between rows."""
ADD_CYCLES = coefficient.LATENCY + multiplier.LATENCY + 2
"""Cycles from an entry until its sum is written."""


class SparseSums(wiring.Component):
    """weight, scale: of a row, standing from the cycle of its first entry on. add: ``item`` and ``code`` are an entry.

    take: the sum of ``item`` is on ``sum`` after ``READ_LATENCY`` cycles, and 0 in the memory. Not while entries come.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        super().__init__(
            {
                "weight": In(COEFFICIENT_BITS),
                "scale": In(COEFFICIENT_BITS),
                "add": In(1),
                "item": In(log2(parameters.items)),
                "code": In(signed(8)),
                "take": In(1),
                "sum": Out(signed(ACCUMULATOR_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind = self.parameters.multiplier
        shape = signed(ACCUMULATOR_BITS)
        m.submodules.memory = sums = memory.Memory(shape=shape, depth=self.parameters.items, init=[])
        m.submodules.coefficient = row = Coefficient(kind)
        m.submodules.product = product = Multiplier(kind, 8, COEFFICIENT_BITS + 1)
        writing, reading = sums.write_port(), sums.read_port()
        m.d.comb += [row.weight.eq(self.weight), row.scale.eq(self.scale)]
        m.d.comb += [product.a.eq(delayed(m, self.code, coefficient.LATENCY, "code")), product.b.eq(row.c)]
        # The read is timed so that the sum arrives together with the product.
        before_read = coefficient.LATENCY + multiplier.LATENCY - 1
        item = delayed(m, self.item, before_read, "item")
        adds = delayed(m, self.add, before_read, "add")
        m.d.comb += reading.addr.eq(Mux(adds, item, self.item))
        m.d.sync += self.sum.eq(reading.data)
        added, takes = delayed(m, adds, 1, "added"), delayed(m, self.take, 1, "takes")
        at_sum, taken = delayed(m, item, 1, "at_sum"), delayed(m, self.item, 1, "taken")
        total, write, where = Signal(shape), Signal(), Signal.like(self.item)
        m.d.sync += [total.eq(Mux(added, reading.data + product.p, 0)), write.eq(added | takes)]
        m.d.sync += where.eq(Mux(added, at_sum, taken))
        m.d.comb += [writing.addr.eq(where), writing.data.eq(total), writing.en.eq(write)]
        return m
