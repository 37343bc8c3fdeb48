"""A signed multiplier with the three registers of a DSP block (operands, product, output) and one after it."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

LATENCY = 4
WIDTH = 18
"""Operand bits of ECP5's MULT18X18D."""


class Multiplier(wiring.Component):
    """``p = a · b``, ``LATENCY`` cycles later. Operands have at most 18 bits."""

    def __init__(self, kind: str, a_bits: int, b_bits: int) -> None:
        assert max(a_bits, b_bits) <= WIDTH
        self.kind = kind
        super().__init__({"a": In(signed(a_bits)), "b": In(signed(b_bits)), "p": Out(signed(a_bits + b_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.kind == "ecp5":
            self._instance(m)
        else:
            a, b, product, output = Signal.like(self.a), Signal.like(self.b), Signal.like(self.p), Signal.like(self.p)
            m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b), output.eq(product), self.p.eq(output)]
        return m

    def _instance(self, m: Module) -> None:
        a, b, p = Signal(signed(WIDTH)), Signal(signed(WIDTH)), Signal(2 * WIDTH)
        m.d.comb += [a.eq(self.a), b.eq(self.b)]
        m.d.sync += self.p.eq(p[: len(self.p)].as_signed())  # so that adders need not wait for the block's output
        clocks = {
            f"p_REG_{register}_{line}": f"{line}0"
            for register in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
            for line in ("CLK", "CE", "RST")
        }
        m.submodules.block = Instance(
            "MULT18X18D",
            **clocks,
            p_REG_INPUTC_CLK="NONE",
            p_CLK0_DIV="ENABLED",
            p_GSR="DISABLED",
            p_RESETMODE="SYNC",
            i_CLK0=ClockSignal("sync"),
            i_CE0=Const(1),
            i_RST0=Const(0),
            i_SIGNEDA=Const(1),
            i_SIGNEDB=Const(1),
            i_SOURCEA=Const(0),
            i_SOURCEB=Const(0),
            **{f"i_A{bit}": a[bit] for bit in range(WIDTH)},
            **{f"i_B{bit}": b[bit] for bit in range(WIDTH)},
            **{f"o_P{bit}": p[bit] for bit in range(2 * WIDTH)},
        )
