"""The multiplier array, shared by aggregation and scoring: codes times coefficients, or times the user vector."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import COEFFICIENT_BITS, USER_BITS
from lanner.accelerators.fpga import multiplier
from lanner.accelerators.fpga.multiplier import Multiplier
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import delayed, shared

LATENCY = 2 + multiplier.LATENCY
PRODUCT_BITS = 24
"""−128 times −32,768 is 2^22."""


class Array(wiring.Component):
    """``products[i] = codes[i] · (user[i] if scoring else c)``, ``LATENCY`` cycles later.

    ``scoring`` must be stable one cycle before the first codes.
    """

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
        lanes = self.parameters.lanes
        # Inverted: synthesis then resets the bits that c lacks by the copies themselves, without a gate behind them.
        c, of_history = shared(m, self.c, lanes, "c"), shared(m, ~self.scoring, lanes, "of_history")
        user = delayed(m, self.user, 1, "user")
        codes = delayed(m, self.codes, 2, "codes")
        for lane in range(lanes):
            m.submodules[f"lane{lane}"] = one = Multiplier(self.parameters.multiplier, 8, USER_BITS)
            operand = Signal(signed(USER_BITS), name=f"operand{lane}")
            m.d.sync += operand.eq(Mux(of_history[lane], c[lane], user[lane]))
            m.d.comb += [one.a.eq(codes[lane]), one.b.eq(operand), self.products[lane].eq(one.p)]
        return m
