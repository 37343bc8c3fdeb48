"""The k best of a stream, in order: one candidate a cycle.

Each place compares the candidate with its own score; those it beats move down by one. Candidates come by row, so a tie
is lost by the newcomer, and lists are ordered by score, then by row.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import NO_SCORE, ROW_BITS, SCORE_BITS

PLACE = data.StructLayout({"score": signed(SCORE_BITS), "row": ROW_BITS})
_EMPTY = {"score": NO_SCORE, "row": (1 << ROW_BITS) - 1}


class TopK(wiring.Component):
    """valid: ``candidate`` is one. pop: the best is dropped, the others move up. clear: all
    are dropped. best: the best of what is held.

    An empty place has the score −2^31, which no candidate has. A candidate must not come with a pop.
    """

    def __init__(self, k: int) -> None:
        # Cleared rather than reset: two lines to every bit would be one too many to route.
        self.places = [Signal(PLACE, name=f"place{place}", init=_EMPTY, reset_less=True) for place in range(k)]
        super().__init__({"valid": In(1), "candidate": In(PLACE), "pop": In(1), "clear": In(1), "best": Out(PLACE)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beaten = Signal(len(self.places))
        m.d.comb += beaten.eq(Cat(*(self.candidate.score > place.score for place in self.places)))
        above = [self.candidate, *self.places[:-1]]
        for number, place in enumerate(self.places):
            with m.If(self.valid & beaten[number]):
                # Beaten above as well: that one's place moves down to here. Else the candidate enters here.
                higher = beaten[number - 1] if number else Const(0)
                m.d.sync += place.eq(Mux(higher, above[number], self.candidate))
            with m.If(self.pop):
                below = self.places[number + 1] if number + 1 < len(self.places) else Const(_EMPTY, PLACE)
                m.d.sync += place.eq(below)
            with m.If(self.clear):
                m.d.sync += place.eq(Const(_EMPTY, PLACE))
        m.d.comb += self.best.eq(self.places[0])
        return m
