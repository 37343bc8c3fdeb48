"""The neighbour sampler: addresses of a random subset of a node's neighbours in a CSR list, one per cycle.

``accelerators/sampling.py`` defines the subset. If a node has at most ``fanout`` neighbours, all are taken.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ROW_BITS
from lanner.accelerators.sampling import MAX_FANOUT

NODE = data.StructLayout({"first": 32, "degree": ROW_BITS, "fanout": 5, "seed": 32})
"""first: address of the node's list. fanout: 0 … 16; a larger one counts as 16.

seed: 0 to continue the generator from the previous node."""
NEIGHBOUR = data.StructLayout({"address": 32, "last": 1})
"""last: the node's last neighbour. A node without neighbours, or with fanout 0, yields none."""
DRAW = data.StructLayout({"first": 32, "highest": ROW_BITS, "begins": 1, "last": 1, "listed": 1})
_HALF = 16


class Sampler(wiring.Component):
    """Accepts a node in one cycle, then emits a neighbour per cycle; back-pressure stalls the whole pipeline."""

    def __init__(self) -> None:
        super().__init__({"nodes": In(stream.Signature(NODE)), "neighbours": Out(stream.Signature(NEIGHBOUR))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        goes = Signal()
        m.d.comb += goes.eq(self.neighbours.ready | ~self.neighbours.valid)
        valid, draw, random = self._draws(m, goes)
        place = self._reduced(m, goes, random, draw.highest)
        at_pick, token = valid, draw.as_value()
        for stage in range(3):
            later, its = Signal(name=f"valid{stage}"), Signal(len(token), name=f"draw{stage}")
            with m.If(goes):
                m.d.sync += [later.eq(at_pick), its.eq(token)]
            at_pick, token = later, its
        self._pick(m, goes, at_pick, data.View(DRAW, token), place)
        return m

    def _draws(self, m: Module, goes: Signal) -> tuple[Signal, data.View, Signal]:
        """One draw per cycle while a node is processed, together with the generator's word."""
        node = self.nodes.payload
        state, drawn, active = Signal(32, init=1), Signal(32), Signal()
        draw, left = Signal(DRAW), Signal(5)
        word = state
        for amount in (13, -17, 5):
            shifted = (word << amount)[:32] if amount > 0 else word >> -amount
            word = word ^ shifted
        m.d.comb += [drawn.eq(word), self.nodes.ready.eq(~active), draw.last.eq(left == 1)]
        with m.If(self.nodes.valid & ~active):
            fanout = Mux(node.fanout > MAX_FANOUT, MAX_FANOUT, node.fanout)
            few = node.degree <= fanout
            count = Mux(few, node.degree, fanout)[: len(left)]
            m.d.sync += [
                active.eq(count != 0),
                draw.first.eq(node.first),
                draw.listed.eq(few),
                draw.begins.eq(1),
                draw.highest.eq(Mux(few, 0, node.degree - fanout)),
                left.eq(count),
            ]
            with m.If(node.seed != 0):
                m.d.sync += state.eq(node.seed)
        with m.Elif(active & goes):
            m.d.sync += [draw.highest.eq(draw.highest + 1), draw.begins.eq(0), left.eq(left - 1)]
            m.d.sync += active.eq(left != 1)
            with m.If(~draw.listed):
                m.d.sync += state.eq(drawn)
        return active, draw, drawn

    def _reduced(self, m: Module, goes: Signal, random: Signal, highest: Signal) -> Signal:
        """``random · (highest + 1) >> 32``, three cycles later."""
        word, bound = Signal(32), Signal(ROW_BITS + 1)
        low, high = Signal(_HALF + len(bound)), Signal(_HALF + len(bound))
        place = Signal(ROW_BITS)
        with m.If(goes):
            m.d.sync += [word.eq(random), bound.eq(highest + 1)]
            m.d.sync += [low.eq(word[:_HALF] * bound), high.eq(word[_HALF:] * bound)]
            m.d.sync += place.eq(((high << _HALF) + low) >> 32)
        return place

    def _pick(self, m: Module, goes: Signal, valid: Signal, draw: data.View, place: Signal) -> None:
        taken = [Signal(ROW_BITS, name=f"taken{number}") for number in range(MAX_FANOUT)]
        held = Signal(MAX_FANOUT)
        again, picked = Signal(), Signal(ROW_BITS)
        alike = Cat(*(one == place for one in taken))
        m.d.comb += again.eq(~draw.begins & (alike & held).any())
        m.d.comb += picked.eq(Mux(draw.listed | again, draw.highest, place))
        out = self.neighbours
        with m.If(goes):
            m.d.sync += [out.valid.eq(valid), out.payload.last.eq(draw.last)]
            m.d.sync += out.payload.address.eq(draw.first + picked)
            with m.If(valid):
                m.d.sync += [later.eq(one) for one, later in zip([picked, *taken[:-1]], taken, strict=True)]
                m.d.sync += held.eq(Cat(1, Mux(draw.begins, 0, held[:-1])))
