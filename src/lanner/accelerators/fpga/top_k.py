"""The k best of a stream, in order: one candidate a cycle.

A systolic list: a candidate moves one place per cycle and takes the first whose entry it beats. The displaced entry
moves on to the next place, and so on: wires only connect neighbouring places, however long the list. Candidates arrive
in row order, so the newcomer loses ties, and lists are ordered by score, then by row.
"""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import NO_SCORE, ROW_BITS, SCORE_BITS

PLACE = data.StructLayout({"score": signed(SCORE_BITS), "row": ROW_BITS})
PASSING = data.StructLayout({"valid": 1, "entry": PLACE})
_EMPTY = {"score": NO_SCORE, "row": (1 << ROW_BITS) - 1}


def latency(k: int) -> int:
    """Cycles from a candidate until it and all displaced entries are in place."""
    return k + 1


class TopK(wiring.Component):
    """valid: ``candidate`` is one. best: the best of what is held.

    pop: a cycle later the best is dropped and the others move up. clear: a cycle later all are dropped. An empty place
    has the score −2^31, which no candidate has. In the cycle after a pop no candidate must come or still be passing.
    """

    def __init__(self, k: int) -> None:
        # Cleared rather than reset: two lines to every bit would not route.
        self.places = [Signal(PLACE, name=f"place{place}", init=_EMPTY, reset_less=True) for place in range(k)]
        self.passing = [Signal(PASSING, name=f"passing{place}") for place in range(k)]
        """The entry that arrives at each place in this cycle."""
        self.takes = [Signal(name=f"takes{place}") for place in range(k)]
        """Whether the place takes the arriving entry; compared one cycle ahead with what the place would hold."""
        # A register for each place: one alone would have to reach them all within a cycle.
        self.popping, self.clearing = (
            [Signal(name=f"{what}{place}", attrs={"keep": 1}) for place in range(k)] for what in ("popping", "clearing")
        )
        super().__init__({"valid": In(1), "candidate": In(PLACE), "pop": In(1), "clear": In(1), "best": Out(PLACE)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, entry, displaced = self.valid, self.candidate, Const(0)
        for number, (place, passing, takes) in enumerate(zip(self.places, self.passing, self.takes, strict=True)):
            # An entry displaced from the previous place always takes this one.
            beats = Mux(takes, _beats(entry, passing.entry), _beats(entry, place))
            m.d.sync += takes.eq(valid & (displaced | beats))
            passes = entry if number == 0 else Mux(displaced, self.places[number - 1], entry)
            m.d.sync += [passing.valid.eq(valid), passing.entry.eq(passes)]
            with m.If(takes):
                m.d.sync += place.eq(passing.entry)
            m.d.sync += [self.popping[number].eq(self.pop), self.clearing[number].eq(self.clear)]
            with m.If(self.popping[number]):
                below = self.places[number + 1] if number + 1 < len(self.places) else Const(_EMPTY, PLACE)
                m.d.sync += place.eq(below)
            with m.If(self.clearing[number]):
                m.d.sync += place.eq(Const(_EMPTY, PLACE))
            valid, entry, displaced = passing.valid, passing.entry, takes
        m.d.comb += self.best.eq(self.places[0])
        return m


def _beats(entry: Any, other: Any) -> Any:
    """Whether it has the higher score. Compared without signs, which takes one chain of carries; with signs, two."""
    return _unsigned(entry.score) > _unsigned(other.score)


def _unsigned(score: Any) -> Any:
    return score.as_unsigned() ^ (1 << SCORE_BITS - 1)
