"""An accelerator for catalogues in external memory: targets are streamed once per batch of users, sources gathered.

::

    words ─► skid buffer ─► control ─► burst reader ◄─► external memory
                                            │
               ┌────────────────────────────┴──── a word: codes, or an item's scale and bias
               ▼
    for each user: array ─► dot product ─► score ─► top k ─► words
               └─► aggregate ─► requantise ─► user vectors        (of one user after another, before targets pass)

A word is multiplied for all users in the cycle in which it arrives, so the memory is never stalled. Coefficients of
history entries come from the host, which has the source scales. See ``batches.py`` for words and memory layout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array as Choice
from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import (
    COEFFICIENT_BITS,
    MAX_HISTORY,
    MAX_SHIFT,
    MULTIPLIER_BITS,
    NO_SCORE,
    ROW_BITS,
    SCORE_BITS,
    TARGET_SCALE_BITS,
    USER_BITS,
)
from lanner.accelerators.fpga import aggregate, array, dot_product, requantise, score, top_k
from lanner.accelerators.fpga.aggregate import Aggregate
from lanner.accelerators.fpga.array import Array
from lanner.accelerators.fpga.burst_reader import ADDRESS_BITS, BurstReader, port
from lanner.accelerators.fpga.dot_product import DotProduct
from lanner.accelerators.fpga.engine import WORD
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import SkidBuffer, delayed
from lanner.accelerators.fpga.protocol import Status
from lanner.accelerators.fpga.registers import STATUS_BITS
from lanner.accelerators.fpga.requantise import Requantise
from lanner.accelerators.fpga.score import Score
from lanner.accelerators.fpga.top_k import PLACE, TopK
from lanner.errors import ConfigError

TARGET = data.StructLayout({"row": ROW_BITS, "scale": TARGET_SCALE_BITS, "bias": signed(SCORE_BITS)})


@dataclass(frozen=True)
class Batch:
    """Sizes of an accelerator with external memory. users: of a batch. seen: rows that each may have seen.

    sizes: ``lanes`` are the codes of a word of memory; ``items`` those of the catalogue.
    """

    sizes: Parameters
    users: int = 8
    seen: int = 1024

    def __post_init__(self) -> None:
        if self.sizes.lanes < 8 or self.sizes.requantisers != 1 or self.sizes.item_to_item:
            raise ConfigError("external memory needs words of 64 bits or more, one requantiser, no item-to-item part")

    @property
    def record(self) -> int:
        """Words of a target: its scale and bias, then its codes."""
        return self.sizes.beats + 1


def to_place(sizes: Parameters) -> int:
    """Cycles from the last word of a target until it is placed in the lists."""
    return 1 + array.LATENCY + dot_product.latency(sizes) + score.LATENCY + top_k.latency(sizes.k)


class Streamed(wiring.Component):
    """words: batches of the host. answers: words for it. port: of the memory. cycles: of the last batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        super().__init__(
            {
                "words": In(stream.Signature(WORD)),
                "answers": Out(stream.Signature(WORD)),
                "port": Out(port(8 * batch.sizes.lanes)),
                "cycles": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._place(m)
        self._targets_and_codes(m)
        self._users(m)
        self._requantised(m)
        with m.FSM() as phase:
            self._head(m)
            self._history(m)
            self._user_vector(m)
            self._lists(m)
            self._answer(m)
        cycles = Signal(32)
        m.d.sync += cycles.eq(Mux(phase.ongoing("IDLE"), 1, cycles + 1))
        with m.If(self.answered):
            m.d.sync += self.cycles.eq(cycles + 1)
        return m

    def _place(self, m: Module) -> None:
        sizes = self.batch.sizes
        m.submodules.words_in = words_in = SkidBuffer(WORD)
        m.submodules.answers_out = answers_out = SkidBuffer(WORD)
        m.submodules.reader = self.reader = BurstReader(8 * sizes.lanes)
        m.submodules.aggregate = self.aggregate = Aggregate(sizes)
        m.submodules.requantise = self.requantise = Requantise(sizes.multiplier, USER_BITS)
        wiring.connect(m, wiring.flipped(self.words), words_in.i)
        wiring.connect(m, answers_out.o, wiring.flipped(self.answers))
        wiring.connect(m, self.reader.port, wiring.flipped(self.port))
        self.source, self.sink = words_in.o, answers_out.i
        self.word, self.is_last = words_in.o.payload["data"], words_in.o.payload["last"]
        self.verdict, self.ended, self.answered = Signal(STATUS_BITS), Signal(), Signal()
        self.scoring, self.begins, self.emptied, self.pop = Signal(), Signal(), Signal(), Signal()
        self.number, self.user = Signal(8), Signal(8)
        self.multiplier, self.shift = Signal(MULTIPLIER_BITS), Signal(6)
        self.left, self.seen_left = Signal(ROW_BITS), Signal(16)
        """Remaining words, or cycles."""
        m.d.comb += self.aggregate.clear.eq(self.begins | self.emptied)

    # --- datapath ----------------------------------------------------------------------------------------------------

    def _targets_and_codes(self, m: Module) -> None:
        """Registers the received word: codes with their position in a vector, or the head of a target."""
        sizes, word = self.batch.sizes, self.reader.word
        last_place = Mux(self.scoring, sizes.beats, sizes.beats - 1)
        place, row = Signal(range(sizes.beats + 1)), Signal(ROW_BITS)
        self.codes, self.coefficient = Signal(8 * sizes.lanes), Signal(COEFFICIENT_BITS)
        self.has_codes, self.is_last_code, self.is_head = Signal(), Signal(), Signal()
        self.beat = Signal(max(1, log2(sizes.beats)))
        self.target = Signal(TARGET)
        head = self.scoring & (place == 0)
        m.d.comb += self.beat.eq(place - self.scoring)
        m.d.sync += [
            self.codes.eq(word.data),
            self.coefficient.eq(word.tag),
            self.has_codes.eq(word.valid & ~head),
            self.is_last_code.eq(word.valid & (place == last_place)),
            self.is_head.eq(word.valid & head),
        ]
        with m.If(word.valid):
            m.d.sync += place.eq(Mux(place == last_place, 0, place + 1))
            with m.If(head):
                here = Mux(word.first, word.tag, row)
                m.d.sync += [row.eq(here + 1), self.target.row.eq(here)]
                m.d.sync += [self.target.scale.eq(word.data[:16]), self.target.bias.eq(word.data[16:48])]

    def _users(self, m: Module) -> None:
        sizes = self.batch.sizes
        to_dot = array.LATENCY + dot_product.latency(sizes)
        products_valid = delayed(m, self.has_codes, array.LATENCY, "has_codes")
        products_last = delayed(m, self.is_last_code, array.LATENCY, "is_last_code")
        at_dot = data.View(TARGET, delayed(m, self.target.as_value(), to_dot, "at_dot"))
        at_score = delayed(m, at_dot.row, score.LATENCY, "at_score")
        ends = delayed(m, self.is_last_code & self.scoring, to_dot + score.LATENCY, "ends")
        before_products = delayed(m, self.has_codes, array.LATENCY - aggregate.LATENCY, "before_products")
        m.d.comb += self.aggregate.add.eq(before_products & ~self.scoring)
        self.bests: list[Any] = []
        self.vectors: list[Any] = []
        self.seen_rows: list[Any] = []
        for user in range(self.batch.users):
            m.submodules[f"array{user}"] = products = Array(sizes)
            m.submodules[f"dot{user}"] = dot = DotProduct(sizes)
            m.submodules[f"score{user}"] = scores = Score(sizes)
            m.submodules[f"top_k{user}"] = best = TopK(sizes.k)
            vector = self._vector(m, user)
            skipped = delayed(m, self._seen(m, user), to_dot + score.LATENCY, f"skipped{user}")
            m.d.comb += [
                products.codes.eq(self.codes),
                products.user.eq(vector),
                products.c.eq(self.coefficient),
                products.scoring.eq(self.scoring if user == 0 else 1),  # the first aggregates for all
                dot.products.eq(products.products),
                dot.valid.eq(products_valid & self.scoring),
                dot.last.eq(products_last),
                scores.dot.eq(dot.dot),
                scores.scale.eq(at_dot.scale),
                scores.bias.eq(at_dot.bias),
                best.candidate.score.eq(scores.score),
                best.candidate.row.eq(at_score),
                best.valid.eq(ends & ~skipped),
                best.clear.eq(self.begins),
                best.pop.eq(self.pop & (self.user == user)),
            ]
            if user == 0:
                m.d.comb += self.aggregate.products.eq(products.products)
            self.bests.append(best.best)

    def _vector(self, m: Module, user: int) -> Any:
        """A user vector: elements are written one by one as they are requantised, and read a word's worth at a time."""
        sizes = self.batch.sizes
        shape = data.ArrayLayout(signed(USER_BITS), sizes.lanes)
        m.submodules[f"vector{user}"] = vector = memory.Memory(shape=shape, depth=sizes.beats, init=[])
        writing, reading = vector.write_port(granularity=1), vector.read_port()
        self.vectors.append(writing)
        m.d.comb += reading.addr.eq(self.beat)
        return reading.data

    def _seen(self, m: Module, user: int) -> Any:
        """Whether the user has seen the current target; seen rows are matched in order."""
        depth = self.batch.seen
        m.submodules[f"seen{user}"] = rows = memory.Memory(shape=ROW_BITS, depth=depth, init=[])
        writing, reading = rows.write_port(), rows.read_port()
        count, met = Signal(range(depth + 1)), Signal(range(depth + 1))
        m.d.comb += [reading.addr.eq(met), writing.addr.eq(count), writing.data.eq(self.word)]
        here = (met != count) & (reading.data == self.target.row)
        is_seen = Signal(name=f"is_seen{user}")
        with m.If(self.is_head):
            m.d.sync += [is_seen.eq(here), met.eq(met + here)]
        with m.If(writing.en):
            m.d.sync += count.eq(count + 1)
        with m.If(self.begins):
            m.d.sync += [count.eq(0), met.eq(0)]
        self.seen_rows.append(writing)
        return is_seen

    def _requantised(self, m: Module) -> None:
        """Writes the elements of a user vector, one per cycle."""
        sizes, element = self.batch.sizes, Signal(range(self.batch.sizes.dimensions))
        written = delayed(m, self.aggregate.shift, aggregate.LATENCY + requantise.LATENCY, "requantised")
        lane_bits = log2(sizes.lanes)
        m.d.comb += [
            self.requantise.value.eq(self.aggregate.sums[0]),
            self.requantise.multiplier.eq(self.multiplier),
            self.requantise.shift.eq(self.shift),
        ]
        with m.If(written):
            m.d.sync += element.eq(element + 1)
        for user, writing in enumerate(self.vectors):
            m.d.comb += writing.addr.eq(element[lane_bits:])
            m.d.comb += [writing.data[lane].eq(self.requantise.result) for lane in range(sizes.lanes)]
            with m.If(written & (self.user == user)):
                m.d.comb += writing.en.eq(1 << element[:lane_bits])

    # --- control -----------------------------------------------------------------------------------------------------

    def _flag(self, m: Module, status: Status) -> None:
        m.d.sync += self.verdict[status.bit_length() - 1].eq(1)

    def _take(self, m: Module) -> None:
        """Take the word that is offered, and note whether it was the packet's last."""
        m.d.comb += self.source.ready.eq(1)
        m.d.sync += self.ended.eq(self.is_last)

    def _refuse(self, m: Module, status: Status) -> None:
        """Read the packet to its end, and answer with the status alone."""
        self._flag(m, status)
        m.next = "REST"

    @contextmanager
    def _word(self, m: Module, state: str) -> Iterator[None]:
        """A state that takes one word."""
        with m.State(state):
            with m.If(self.ended):
                self._refuse(m, Status.TRUNCATED)
            with m.Elif(self.source.valid):
                self._take(m)
                yield

    def _head(self, m: Module) -> None:
        with m.State("IDLE"):
            m.d.sync += [self.number.eq(self.word), self.user.eq(0), self.scoring.eq(0), self.verdict.eq(0)]
            with m.If(self.source.valid):
                self._take(m)
                m.d.comb += self.begins.eq(1)
                m.next = "SCALE"
                with m.If((self.word == 0) | (self.word > self.batch.users)):
                    self._refuse(m, Status.UNKNOWN_OPERATION)
        with self._word(m, "SCALE"):
            m.d.sync += [self.multiplier.eq(self.word[:16]), self.shift.eq(self.word[16:22])]
            m.next = "LENGTHS"
            with m.If(self.word[16:] > MAX_SHIFT):
                self._refuse(m, Status.BAD_SHIFT)
        with self._word(m, "LENGTHS"):
            m.d.sync += [self.left.eq(self.word[:16]), self.seen_left.eq(self.word[16:])]
            m.next = "HISTORY"
            with m.If((self.word[:16] > MAX_HISTORY) | (self.word[16:] > self.batch.seen)):
                self._refuse(m, Status.HISTORY_TOO_LONG)

    def _history(self, m: Module) -> None:
        sizes, bursts = self.batch.sizes, self.reader.bursts
        row, first_source = self.word[:ROW_BITS], sizes.items * self.batch.record
        with m.State("HISTORY"):
            with m.If(self.left == 0):
                m.next = "SEEN"
            with m.Elif(self.ended):
                self._refuse(m, Status.TRUNCATED)
            with m.Elif(self.source.valid & (row >= sizes.items)):
                self._refuse(m, Status.ROW_OUT_OF_RANGE)
            with m.Elif(self.source.valid):
                self._burst(m, first_source + row * sizes.beats, sizes.beats, self.word[ROW_BITS:])
                with m.If(bursts.ready):
                    self._take(m)
                    m.d.sync += self.left.eq(self.left - 1)
        with m.State("SEEN"):
            with m.If(self.seen_left == 0):
                m.d.sync += self.left.eq(array.LATENCY + 1 - aggregate.LATENCY)
                m.next = "GATHERED"
            with m.Elif(self.ended):
                self._refuse(m, Status.TRUNCATED)
            with m.Elif(self.source.valid):
                self._take(m)
                m.d.sync += self.seen_left.eq(self.seen_left - 1)
                for user, writing in enumerate(self.seen_rows):
                    m.d.comb += writing.en.eq(self.user == user)

    def _burst(self, m: Module, address: Any, count: Any, tag: Any) -> None:
        burst = self.reader.bursts.payload
        m.d.comb += [self.reader.bursts.valid.eq(1), burst.tag.eq(tag)]
        m.d.comb += [burst.address.eq(address), burst.count.eq(count)]

    def _once_idle(self, m: Module, state: str, following: str) -> None:
        """A state that lasts until ``left`` cycles after the last word from memory."""
        with m.State(state):
            with m.If(self.reader.idle):
                m.d.sync += self.left.eq(self.left - 1)
                with m.If(self.left == 0):
                    m.next = following

    def _user_vector(self, m: Module) -> None:
        sizes, shift = self.batch.sizes, self.aggregate.shift
        self._once_idle(m, "GATHERED", "BEGIN")
        with m.State("BEGIN"):
            m.d.sync += self.left.eq(sizes.dimensions - 1)
            m.next = "REQUANTISE"
        with m.State("REQUANTISE"):
            m.d.comb += shift.eq(1)
            m.d.sync += self.left.eq(self.left - 1)
            with m.If(self.left == 0):
                m.d.sync += self.left.eq(aggregate.LATENCY + requantise.LATENCY)
                m.next = "VECTOR"
        with m.State("VECTOR"):
            m.d.sync += self.left.eq(self.left - 1)
            with m.If(self.left == 0):
                m.d.comb += self.emptied.eq(1)
                m.d.sync += self.user.eq(self.user + 1)
                m.next = "SCALE"
                with m.If(self.user + 1 == self.number):
                    m.d.sync += self.scoring.eq(1)
                    m.next = "LISTS"

    def _lists(self, m: Module) -> None:
        sizes, record = self.batch.sizes, self.batch.record
        lists, first, count = Signal(ROW_BITS + 1), Signal(ROW_BITS), Signal(ROW_BITS + 1)
        address, words = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        with self._word(m, "LISTS"):
            m.d.sync += [lists.eq(self.word), self.user.eq(0)]
            m.next = "FIRST"
            with m.If(self.word == 0):
                m.next = "REST"
        with self._word(m, "FIRST"):
            m.d.sync += [first.eq(self.word), lists.eq(lists - 1)]
            m.next = "COUNT"
            with m.If(self.word >= sizes.items):
                self._refuse(m, Status.ROW_OUT_OF_RANGE)
        with self._word(m, "COUNT"):
            m.d.sync += [count.eq(self.word), address.eq(first * record), words.eq(self.word * record)]
            m.next = "SEND"
            with m.If((self.word == 0) | (self.word > sizes.items - first)):
                self._refuse(m, Status.ROW_OUT_OF_RANGE)
        with m.State("SEND"):
            self._burst(m, address, words, first)
            with m.If(self.reader.bursts.ready):
                m.next = "FIRST"
                with m.If(lists == 0):
                    m.next = "REST"
        with m.State("REST"):
            m.d.sync += self.left.eq(to_place(sizes))
            with m.If(self.ended):
                m.next = "DRAIN"
            with m.Elif(self.source.valid):
                self._take(m)
                with m.If(self.verdict == 0):
                    self._flag(m, Status.TOO_LONG)
        self._once_idle(m, "DRAIN", "LIST")

    def _answer(self, m: Module) -> None:
        best = data.View(PLACE, Choice([one.as_value() for one in self.bests])[self.user])
        out, is_row, held_score, listed = self.sink.payload, Signal(init=1), Signal(SCORE_BITS), Signal(8)
        row = Mux(best.score == NO_SCORE, Const(2**32 - 1, 32), best.row)
        with m.State("LIST"):
            m.d.comb += out["data"].eq(Mux(is_row, row, held_score))
            with m.If(self.verdict != 0):
                m.next = "VERDICT"
            with m.Else():
                m.d.comb += self.sink.valid.eq(1)
                with m.If(self.sink.ready):
                    m.d.sync += is_row.eq(~is_row)
                    with m.If(is_row):
                        m.d.sync += held_score.eq(best.score)
                        m.d.comb += self.pop.eq(1)
                    with m.Else():
                        m.d.sync += listed.eq(listed + 1)
                        with m.If(listed == self.batch.sizes.k - 1):
                            m.d.sync += [listed.eq(0), self.user.eq(self.user + 1)]
                            with m.If(self.user + 1 == self.number):
                                m.next = "VERDICT"
        with m.State("VERDICT"):
            m.d.comb += [self.sink.valid.eq(1), out["data"].eq(self.verdict), out["last"].eq(1)]
            m.d.comb += self.answered.eq(self.sink.ready)
            with m.If(self.sink.ready):
                m.next = "IDLE"
