"""Pipeline building blocks: delays, register copies for high-fan-out lines, and stream buffers."""

from typing import Any

from amaranth.hdl import Module, Mux, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

_SHARING = 8
"""Members that share a copy of a line, or bits a state."""


def delayed(m: Module, value: Any, cycles: int, name: str) -> Any:
    """The value, ``cycles`` cycles later."""
    for stage in range(cycles):
        register = Signal.like(value, name=f"{name}_{stage + 1}")
        m.d.sync += register.eq(value)
        value = register
    return value


def copies(m: Module, value: Any, number: int, name: str) -> list[Any]:
    """The value a cycle later, in ``number`` registers, each driving a part of the chip.

    ``netlist.synthesise`` keeps them; synthesis would otherwise merge identical registers.
    """
    registers = [Signal.like(value, name=f"{name}_copy{copy}", attrs={"keep": 1}) for copy in range(number)]
    m.d.sync += [register.eq(value) for register in registers]
    return registers


def shared(m: Module, value: Any, members: int, name: str, each: int = _SHARING) -> list[Any]:
    """The value a cycle later for each of ``members`` members; ``each`` neighbours share a register copy."""
    registers = copies(m, value, -(-members // each), name)
    return [registers[member // each] for member in range(members)]


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


class PinBuffer(wiring.Component):
    """A ``SkidBuffer`` whose pins may be far apart: every few bits have their own state, alike in all of them."""

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = Value.cast(self.i.payload), Value.cast(self.o.payload)
        for first in range(0, len(taken), _SHARING):
            part = slice(first, min(first + _SHARING, len(taken)))
            m.submodules[f"bits{first}"] = buffer = SkidBuffer(part.stop - first)
            m.d.comb += [buffer.i.payload.eq(taken[part]), buffer.i.valid.eq(self.i.valid)]
            m.d.comb += [offered[part].eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]
            if first == 0:
                m.d.comb += [self.i.ready.eq(buffer.i.ready), self.o.valid.eq(buffer.o.valid)]
        return m


class Ahead(wiring.Component):
    """A stream register that exposes what it will offer in the next cycle, for lookahead.

    moves: in the next cycle it offers the current input. Ready is passed through combinationally.
    """

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "moves": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.moves.eq(self.o.ready | ~self.o.valid), self.i.ready.eq(self.moves)]
        with m.If(self.moves):
            m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(self.i.valid)]
        return m
