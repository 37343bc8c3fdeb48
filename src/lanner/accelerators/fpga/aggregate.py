"""The weighted sum of the history's rows."""

from itertools import pairwise

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ACCUMULATOR_BITS
from lanner.accelerators.fpga.array import PRODUCT_BITS
from lanner.accelerators.fpga.parameters import Parameters


class Aggregate(wiring.Component):
    """One accumulator a dimension. Products come a beat a cycle, in order; sums leave some at a time, in order.

    clear: all sums to 0. add: take ``products``. shift: the next ``requantisers`` sums are put on ``sums``.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        super().__init__(
            {
                "clear": In(1),
                "add": In(1),
                "products": In(data.ArrayLayout(signed(PRODUCT_BITS), parameters.lanes)),
                "shift": In(1),
                "sums": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), parameters.requantisers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, beats, step = self.parameters.lanes, self.parameters.beats, self.parameters.requantisers
        shape = signed(ACCUMULATOR_BITS)
        sums = [Signal(shape, name=f"sum{number}", reset_less=True) for number in range(self.parameters.dimensions)]
        # Beats rotate: after all of a vector's have passed, the sums stand at their elements.
        with m.If(self.clear):
            m.d.sync += [one.eq(0) for one in sums]
        with m.Elif(self.add):
            for lane in range(lanes):
                column = [sums[beat * lanes + lane] for beat in range(beats)]
                m.d.sync += column[-1].eq(column[0] + self.products[lane])
                m.d.sync += [low.eq(high) for low, high in pairwise(column)]
        with m.Elif(self.shift):
            m.d.sync += [low.eq(high) for low, high in zip(sums[:-step], sums[step:], strict=True)]
        m.d.comb += [self.sums[element].eq(sums[element]) for element in range(step)]
        return m
