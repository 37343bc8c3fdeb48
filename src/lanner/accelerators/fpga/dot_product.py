"""The sum of a vector's products: a tree over the lanes, then over the beats."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.fpga.array import PRODUCT_BITS
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import delayed


def latency(parameters: Parameters) -> int:
    """Cycles from a vector's last products to its dot product."""
    return log2(parameters.lanes) + 1


class DotProduct(wiring.Component):
    """valid: ``products`` are of a vector; last: its last. dot holds their sum ``latency`` cycles after the last."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        super().__init__(
            {
                "valid": In(1),
                "last": In(1),
                "products": In(data.ArrayLayout(signed(PRODUCT_BITS), parameters.lanes)),
                "dot": Out(signed(parameters.dot_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level, depth = [self.products[lane] for lane in range(self.parameters.lanes)], 0
        while len(level) > 1:
            depth += 1
            width = signed(PRODUCT_BITS + depth)
            sums = [Signal(width, name=f"sum{depth}_{pair}") for pair in range(len(level) // 2)]
            m.d.sync += [one.eq(level[2 * pair] + level[2 * pair + 1]) for pair, one in enumerate(sums)]
            level = sums
        valid, last = delayed(m, self.valid, depth, "valid"), delayed(m, self.last, depth, "last")
        first = Signal(init=1)
        with m.If(valid):
            m.d.sync += [self.dot.eq(level[0] + Mux(first, 0, self.dot)), first.eq(last)]
        return m
