"""The weighted sum of the history's rows."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ACCUMULATOR_BITS
from lanner.accelerators.fpga.array import PRODUCT_BITS
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import delayed, shared

LATENCY = 2
"""Cycles from a command to its effect."""
_SHARING = 4
"""Sums that share a copy of the commands."""


class Aggregate(wiring.Component):
    """One accumulator per dimension. Products arrive one beat per cycle, sums leave ``requantisers`` at a time.

    Commands take effect ``LATENCY`` cycles later. clear: all sums to 0. add: accumulate the ``products`` of then.
    shift: ``sums`` are output then, followed by the next ``requantisers`` sums. Both are in order.
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
        each = max(1, _SHARING // self.parameters.beats)
        # One line enables a sum: a gate behind the copies of two would be another net across the chip.
        clear, add, moves = (
            shared(m, delayed(m, command, LATENCY - 1, name), lanes, name, each)
            for name, command in (("clear", self.clear), ("add", self.add), ("moves", self.add | self.shift))
        )
        following = [*sums[step:], *sums[-step:]]
        for lane in range(lanes):
            column = range(lane, len(sums), lanes)
            with m.If(clear[lane]):
                m.d.sync += [sums[element].eq(0) for element in column]
            with m.Elif(moves[lane]):
                # Beats rotate: after all beats of a vector, each sum is back at its element.
                rotated = [*(sums[element] for element in column[1:]), sums[lane] + self.products[lane]]
                m.d.sync += [
                    sums[element].eq(Mux(add[lane], after, following[element]))
                    for element, after in zip(column, rotated, strict=True)
                ]
        m.d.comb += [self.sums[element].eq(sums[element]) for element in range(step)]
        return m
