"""From sums to the user vector: multiplied, shifted, rounded and clamped."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ACCUMULATOR_BITS, MULTIPLIER_BITS
from lanner.accelerators.fpga import multiplier
from lanner.accelerators.fpga.multiplier import Multiplier

LATENCY = multiplier.LATENCY + 5
_HALF = ACCUMULATOR_BITS // 2
_WIDE = ACCUMULATOR_BITS + MULTIPLIER_BITS + 2


class Requantise(wiring.Component):
    """``result = clamp((value · multiplier + 2^(shift-1)) >> shift)``, ``LATENCY`` cycles later; shift 0 … 47.

    ``multiplier`` and ``shift`` must be stable one cycle before the first value.
    """

    def __init__(self, kind: str, bits: int) -> None:
        self.kind, self.bits = kind, bits
        width = signed(_HALF + MULTIPLIER_BITS + 2)
        self.low_product, self.high_product = Signal(width), Signal(width)
        super().__init__(
            {
                "value": In(signed(ACCUMULATOR_BITS)),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(6),
                "result": Out(signed(bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.low = low = Multiplier(self.kind, _HALF + 1, MULTIPLIER_BITS + 1)
        m.submodules.high = high = Multiplier(self.kind, _HALF + 1, MULTIPLIER_BITS + 1)
        m.d.comb += [low.a.eq(self.value[:_HALF]), high.a.eq(self.value[_HALF:].as_signed())]
        m.d.comb += [low.b.eq(self.multiplier), high.b.eq(self.multiplier)]
        m.d.comb += [self.low_product.eq(low.p), self.high_product.eq(high.p)]
        half, total = Signal(ACCUMULATOR_BITS + MULTIPLIER_BITS), Signal(signed(_WIDE))
        by_bytes, shifted = Signal(signed(_WIDE)), Signal(signed(_WIDE))
        m.d.sync += half.eq((Const(1, len(half)) << self.shift) >> 1)
        m.d.sync += total.eq((self.high_product << _HALF) + self.low_product + half)
        m.d.sync += [by_bytes.eq(total >> (self.shift[3:] << 3)), shifted.eq(by_bytes >> self.shift[:3])]
        largest = 2 ** (self.bits - 1) - 1
        above, below, within = Signal(), Signal(), Signal(signed(self.bits))
        m.d.sync += [above.eq(shifted > largest), below.eq(shifted < -largest), within.eq(shifted)]
        m.d.sync += self.result.eq(Mux(above, largest, Mux(below, -largest, within)))
        return m
