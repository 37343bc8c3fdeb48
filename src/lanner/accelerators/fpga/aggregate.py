"""The weighted sum of the history's rows."""

from itertools import pairwise

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ACCUMULATOR_BITS
from lanner.accelerators.fpga.array import PRODUCT_BITS
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import shared


class Aggregate(wiring.Component):
    """One accumulator per dimension. Products arrive one beat per cycle, sums leave ``requantisers`` at a time.

    Commands take effect in the next cycle. clear: all sums to 0. add: accumulate ``products`` of the next cycle.
    shift: in the next cycle ``sums`` are output, followed by the next ``requantisers`` sums. Both are in order.
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
        lanes, step = self.parameters.lanes, self.parameters.requantisers
        shape = signed(ACCUMULATOR_BITS)
        sums = [Signal(shape, name=f"sum{number}", reset_less=True) for number in range(self.parameters.dimensions)]
        clear, add = shared(m, self.clear, lanes, "clear"), shared(m, self.add, lanes, "add")
        shift = shared(m, self.shift, lanes, "shift")
        following = [*sums[step:], *sums[-step:]]
        for lane in range(lanes):
            column = range(lane, len(sums), lanes)
            with m.If(clear[lane]):
                m.d.sync += [sums[element].eq(0) for element in column]
            with m.Elif(add[lane]):
                # Beats rotate: after all beats of a vector, each sum is back at its element.
                m.d.sync += sums[column[-1]].eq(sums[lane] + self.products[lane])
                m.d.sync += [sums[low].eq(sums[high]) for low, high in pairwise(column)]
            with m.Elif(shift[lane]):
                m.d.sync += [sums[element].eq(following[element]) for element in column]
        m.d.comb += [self.sums[element].eq(sums[element]) for element in range(step)]
        return m
