"""The multiplier array, shared by aggregation and scoring: codes times coefficients, or times the user vector."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import COEFFICIENT_BITS, USER_BITS
from lanner.accelerators.fpga import multiplier
from lanner.accelerators.fpga.multiplier import Multiplier
from lanner.accelerators.fpga.parameters import Parameters

LATENCY = multiplier.LATENCY
PRODUCT_BITS = 24
"""−128 times −32,768 is 2^22."""


class Array(wiring.Component):
    """``products[i] = codes[i] · (user[i] if scoring else c)``, ``LATENCY`` cycles later."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        lanes = parameters.lanes
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "user": In(data.ArrayLayout(signed(USER_BITS), lanes)),
                "c": In(COEFFICIENT_BITS),
                "scoring": In(1),
                "products": Out(data.ArrayLayout(signed(PRODUCT_BITS), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = Signal(signed(USER_BITS))
        m.d.comb += c.eq(self.c)
        for lane in range(self.parameters.lanes):
            m.submodules[f"lane{lane}"] = one = Multiplier(self.parameters.multiplier, 8, USER_BITS)
            m.d.comb += [one.a.eq(self.codes[lane]), one.b.eq(Mux(self.scoring, self.user[lane], c))]
            m.d.comb += self.products[lane].eq(one.p)
        return m
