"""The coefficient of a history entry: its weight times its row's scale."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import COEFFICIENT_BITS
from lanner.accelerators.fpga import multiplier
from lanner.accelerators.fpga.multiplier import Multiplier

LATENCY = multiplier.LATENCY + 1
_BITS = COEFFICIENT_BITS


class Coefficient(wiring.Component):
    """``c = (weight · scale + 2^11) >> 12``, ``LATENCY`` cycles later."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__({"weight": In(_BITS), "scale": In(_BITS), "c": Out(_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = Multiplier(self.kind, _BITS + 1, _BITS + 1)
        m.d.comb += [product.a.eq(self.weight), product.b.eq(self.scale)]
        m.d.sync += self.c.eq((product.p + (1 << _BITS - 1)) >> _BITS)
        return m
