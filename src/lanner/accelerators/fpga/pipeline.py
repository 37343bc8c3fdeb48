"""What pipelines are made of: delays, and a buffer that cuts a stream's paths in both directions."""

from typing import Any

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


def delayed(m: Module, value: Any, cycles: int, name: str) -> Any:
    """The value so many cycles later."""
    for stage in range(cycles):
        register = Signal.like(value, name=f"{name}_{stage + 1}")
        m.d.sync += register.eq(value)
        value = register
    return value


class SkidBuffer(wiring.Component):
    """A queue of two whose payload, valid and ready are all registers: one transfer a cycle, no path through it."""

    def __init__(self, shape: Any) -> None:
        self.spare = Signal(Shape.cast(shape).width)
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = (side.payload for side in (self.i, self.o))
        head, has_head, has_spare = Signal(len(self.spare)), Signal(), Signal()
        word = Signal(len(self.spare))
        m.d.comb += [word.eq(taken), offered.eq(head), self.o.valid.eq(has_head), self.i.ready.eq(~has_spare)]
        with m.If(self.o.ready | ~has_head):
            m.d.sync += [head.eq(Mux(has_spare, self.spare, word)), has_head.eq(has_spare | self.i.valid)]
            m.d.sync += has_spare.eq(0)
        with m.Elif(self.i.valid):
            m.d.sync += has_spare.eq(1)
        with m.If(~has_spare):
            m.d.sync += self.spare.eq(word)
        return m
