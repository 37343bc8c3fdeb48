"""From a dot product to a score: multiplied by the target's scale, shifted, rounded, biased and clamped."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import SCORE_BITS, TARGET_SCALE_BITS
from lanner.accelerators.fpga import multiplier
from lanner.accelerators.fpga.multiplier import Multiplier
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import delayed

LATENCY = multiplier.LATENCY + 4
EXTRA_AFTER = multiplier.LATENCY + 1
_LOW = 17
LARGEST = 2 ** (SCORE_BITS - 1) - 1


class Score(wiring.Component):
    """``score = clamp(round(dot · scale >> p) + bias + extra)``, ``LATENCY`` cycles later.

    extra is expected ``EXTRA_AFTER`` cycles after the other inputs.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        width = signed(2 * multiplier.WIDTH)
        self.low_product, self.high_product = Signal(width), Signal(width)
        super().__init__(
            {
                "dot": In(signed(parameters.dot_bits)),
                "scale": In(TARGET_SCALE_BITS),
                "bias": In(signed(SCORE_BITS)),
                "extra": In(signed(SCORE_BITS)),
                "score": Out(signed(SCORE_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind, shift = self.parameters.multiplier, self.parameters.score_shift
        m.submodules.low = low = Multiplier(kind, _LOW + 1, TARGET_SCALE_BITS + 1)
        m.submodules.high = high = Multiplier(kind, len(self.dot) - _LOW, TARGET_SCALE_BITS + 1)
        m.d.comb += [low.a.eq(self.dot[:_LOW]), high.a.eq(self.dot[_LOW:].as_signed())]
        m.d.comb += [low.b.eq(self.scale), high.b.eq(self.scale)]
        m.d.comb += [self.low_product.eq(low.p), self.high_product.eq(high.p)]
        width = len(self.dot) + TARGET_SCALE_BITS + 1
        product, total = Signal(signed(max(width, shift + 2))), Signal(signed(width + 1))
        bias = delayed(m, self.bias, multiplier.LATENCY + 1, "bias")
        m.d.sync += product.eq((self.high_product << _LOW) + self.low_product + (1 << shift >> 1))
        m.d.sync += total.eq((product >> shift) + bias + self.extra)
        above, below, within = Signal(), Signal(), Signal(signed(SCORE_BITS))
        m.d.sync += [above.eq(total > LARGEST), below.eq(total < -LARGEST), within.eq(total)]
        m.d.sync += self.score.eq(Mux(above, LARGEST, Mux(below, -LARGEST, within)))
        return m
