"""The k best of a stream, in order: one candidate a cycle.

A candidate is compared with every place in one cycle and enters in the next; those it beats move down by one. What is
compared are the places as the candidate before it will leave them. Candidates come by row, so a tie is lost by the
newcomer, and lists are ordered by score, then by row.
"""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import NO_SCORE, ROW_BITS, SCORE_BITS

LATENCY = 2
"""Cycles from a candidate until it has its place."""
PLACE = data.StructLayout({"score": signed(SCORE_BITS), "row": ROW_BITS})
_EMPTY = {"score": NO_SCORE, "row": (1 << ROW_BITS) - 1}


class TopK(wiring.Component):
    """valid: ``candidate`` is one. pop: the best is dropped, the others move up. clear: all
    are dropped. best: the best of what is held.

    An empty place has the score −2^31, which no candidate has. A candidate must not come with a pop, or just before it.
    """

    def __init__(self, k: int) -> None:
        # Cleared rather than reset: two lines to every bit would be one too many to route.
        self.places = [Signal(PLACE, name=f"place{place}", init=_EMPTY, reset_less=True) for place in range(k)]
        self.enters, self.entrant, self.beaten = Signal(), Signal(PLACE, reset_less=True), Signal(k)
        """The candidate that is entering, and the places that it beats."""
        super().__init__({"valid": In(1), "candidate": In(PLACE), "pop": In(1), "clear": In(1), "best": Out(PLACE)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += [self.enters.eq(self.valid), self.entrant.eq(self.candidate)]
        against = [self.candidate.score > place.score for place in self.places]
        beats_entrant = self.candidate.score > self.entrant.score
        for number, place in enumerate(self.places):
            moves = self.enters & self.beaten[number]
            # Beaten above as well: that one's place moves down to here. Else the entrant enters here.
            above, beats = self.entrant, beats_entrant
            if number:
                higher = self.beaten[number - 1]
                above = Mux(higher, self.places[number - 1], self.entrant)
                beats = Mux(higher, against[number - 1], beats_entrant)
            m.d.sync += self.beaten[number].eq(Mux(moves, beats, against[number]))
            with m.If(moves):
                m.d.sync += place.eq(above)
            with m.If(self.pop):
                below = self.places[number + 1] if number + 1 < len(self.places) else Const(_EMPTY, PLACE)
                m.d.sync += place.eq(below)
            with m.If(self.clear):
                m.d.sync += place.eq(Const(_EMPTY, PLACE))
        m.d.comb += self.best.eq(self.places[0])
        return m
