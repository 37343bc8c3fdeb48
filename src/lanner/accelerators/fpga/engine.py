"""The accelerator: packets in, answers out.

::

    words ─► skid buffer ─► ahead ─► control ─┬─► row table ──► array ─┬─► aggregate ─► requantise ─► user vector ─┐
                                              │                   ▲    └─► dot product ─► score ─► top k ─► words  │
                                              └─► item table ─► coefficient                    ▲                   │
                                                       └──────────── scales and biases ────────┘   ◄── array ◄─────┘

A request passes in phases: its head, its history (a beat a cycle), the user vector, the catalogue (a beat a cycle), the
list. Only a host that sends or takes words too slowly stalls it, so its cycles are a function of its lengths; see
``cycles.py``.
"""

import operator
from typing import Any

from amaranth.hdl import Array as Choice
from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import (
    COEFFICIENT_BITS,
    MAX_HISTORY,
    MAX_SHIFT,
    MULTIPLIER_BITS,
    ROW_BITS,
    SCORE_BITS,
    USER_BITS,
)
from lanner.accelerators.fpga import aggregate, array, coefficient, dot_product, requantise, score, top_k
from lanner.accelerators.fpga.aggregate import Aggregate
from lanner.accelerators.fpga.array import Array
from lanner.accelerators.fpga.coefficient import Coefficient
from lanner.accelerators.fpga.dot_product import DotProduct
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.pipeline import Ahead, PinBuffer, SkidBuffer, copies, delayed, shared
from lanner.accelerators.fpga.protocol import Operation, Status
from lanner.accelerators.fpga.registers import BUS, STATUS_BITS, Registers
from lanner.accelerators.fpga.requantise import Requantise
from lanner.accelerators.fpga.score import Score
from lanner.accelerators.fpga.sparse_sums import READ_LATENCY as SUM_LATENCY
from lanner.accelerators.fpga.sparse_sums import SparseSums
from lanner.accelerators.fpga.tables import ITEM, ITEM_LATENCY, ROW_LATENCY, ItemTable, RowTable
from lanner.accelerators.fpga.top_k import TopK

WORD = data.StructLayout({"data": 32, "last": 1})
ISSUED = data.StructLayout({"row": ROW_BITS, "beat": 10, "last_beat": 1, "skipped": 1})
"""A beat in flight. skipped: it belongs to a seen item."""

_ROWS_AFTER = ITEM_LATENCY + coefficient.LATENCY - ROW_LATENCY
"""Cycles by which rows are read later than scales, so that a coefficient arrives with its row."""
_TO_PRODUCTS = _ROWS_AFTER + ROW_LATENCY + array.LATENCY
"""Cycles from the issue of a beat to its products."""


def cycles_to_place(parameters: Parameters) -> int:
    """Cycles from the issue of an item's last beat to its place in the list."""
    return _TO_PRODUCTS + dot_product.latency(parameters) + score.LATENCY + top_k.latency(parameters.k)


AGGREGATE_CYCLES = _TO_PRODUCTS + 2 - aggregate.LATENCY
"""Cycles from the issue of the history's last beat until a command can output complete sums."""
USER_CYCLES = aggregate.LATENCY + requantise.LATENCY - (_ROWS_AFTER + ROW_LATENCY)
"""Cycles from the last command to output sums until the catalogue can start; its rows arrive later than its issue."""


class Engine(wiring.Component):
    """words: packets of the host. answers: words for it. bus: the registers."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        super().__init__({"words": In(stream.Signature(WORD)), "answers": Out(stream.Signature(WORD)), "bus": In(BUS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._place_modules(m)
        self._place_state(m)
        self._datapath(m)
        self._take_best(m)
        with m.FSM() as phase:
            self._idle_and_loading(m)
            self._head(m)
            self._history(m)
            self._user_vector(m)
            self._catalogue(m)
            self._list(m)
        self._send_list(m)
        busy = ~phase.ongoing("IDLE")
        clear = delayed(m, ~busy, 1, "clear")
        m.d.comb += [self.top_k.clear.eq(clear), self.aggregate.clear.eq(clear), self.registers.busy.eq(busy)]
        cycles = Signal(32)
        m.d.sync += cycles.eq(Mux(busy, cycles + 1, 1))
        with m.If(self.answered):
            m.d.sync += self.registers.cycles.eq(cycles)
        return m

    def _place_modules(self, m: Module) -> None:
        sizes = self.parameters
        # Two buffers each: one can be placed near the control or the list, the other near the pins.
        m.submodules.words_in = words_in = PinBuffer(WORD)
        m.submodules.words_near = words_near = SkidBuffer(WORD)
        m.submodules.ahead = self.ahead = Ahead(WORD)
        m.submodules.answers = answers = SkidBuffer(WORD)
        m.submodules.answers_out = answers_out = PinBuffer(WORD)
        m.submodules.registers = self.registers = Registers(sizes)
        m.submodules.row_table = self.row_table = RowTable(sizes)
        m.submodules.item_table = self.item_table = ItemTable(sizes)
        m.submodules.coefficient = self.coefficient = Coefficient(sizes.multiplier)
        m.submodules.array = self.array = Array(sizes)
        m.submodules.aggregate = self.aggregate = Aggregate(sizes)
        m.submodules.dot_product = self.dot_product = DotProduct(sizes)
        m.submodules.score = self.score = Score(sizes)
        m.submodules.top_k = self.top_k = TopK(sizes.k)
        if sizes.item_to_item:
            m.submodules.sparse_sums = self.sparse_sums = SparseSums(sizes)
            m.submodules.sparse_scale = self.sparse_scale = Requantise(sizes.multiplier, SCORE_BITS)
        self.requantisers = [Requantise(sizes.multiplier, USER_BITS) for _ in range(sizes.requantisers)]
        for number, one in enumerate(self.requantisers):
            m.submodules[f"requantise{number}"] = one
        wiring.connect(m, wiring.flipped(self.words), words_in.i)
        wiring.connect(m, words_in.o, words_near.i)
        wiring.connect(m, words_near.o, self.ahead.i)
        wiring.connect(m, answers.o, answers_out.i)
        wiring.connect(m, answers_out.o, wiring.flipped(self.answers))
        wiring.connect(m, wiring.flipped(self.bus), self.registers.bus)
        self.source, self.sink = self.ahead.o, answers.i
        self.word, self.is_last = self.source.payload["data"], self.source.payload["last"]

    def _place_state(self, m: Module) -> None:
        sizes = self.parameters
        self.flagged, raised = Signal(STATUS_BITS), Signal(STATUS_BITS)
        self.verdict = Signal(STATUS_BITS)
        # A register between what is compared with a word and the status, which may be far away.
        m.d.sync += [raised.eq(self.flagged), self.verdict.eq(self.verdict | raised)]
        m.d.comb += self.registers.raised.eq(raised)
        self.ended = Signal()
        """Whether the packet's last word was taken."""
        self.left = Signal(16)
        """Remaining words of the history; later, a counter of cycles or words."""
        self.has_history = Signal()
        """Whether words of the history remain: registered, because the next word waits for it."""
        self.seen_left, self.has_seen = Signal(ROW_BITS + 1), Signal()
        """Remaining seen rows, and whether there are any: registered, because of its high fan-out."""
        self.k, self.listed = Signal(8), Signal(8)
        self.sparse_multiplier, self.sparse_shift = Signal(MULTIPLIER_BITS), Signal(6)
        self.row_weight, self.row_scale = Signal(COEFFICIENT_BITS), Signal(COEFFICIENT_BITS)
        self.multiplier, self.shift = Signal(MULTIPLIER_BITS), Signal(6)
        self.issue, self.issued = Signal(), Signal(ISSUED)
        self.weight, self.known = Signal(COEFFICIENT_BITS), Signal()
        """Of a history entry: its weight, and whether its row exists; others count for nothing."""
        self.scoring = Signal()
        self.lists, self.answered = Signal(), Signal()
        """Whether the list is to be sent, and whether it was: registers between its control and that of the request."""
        # Near the control, however far the registers of the bus are.
        self.items = delayed(m, self.registers.items, 1, "items")
        self.loads, self.best_row, self.best_score = Signal(), Signal(32), Signal(signed(SCORE_BITS))
        """Whether the best of the list is taken, and its row and score from the next cycle on."""
        self.closes = Signal()
        """Whether the list ends with the pair that is sent, so that the verdict follows; known a cycle before it is."""
        self.is_row = Signal(init=1)
        """Whether the next word is a row, and not a score."""
        self.item, self.next_item, self.last_item = Signal(ROW_BITS), Signal(ROW_BITS), Signal()
        self.beat = Signal(max(1, log2(sizes.beats)))
        self.last_beat = Signal()
        m.d.comb += [self.last_beat.eq(self.beat == sizes.beats - 1), self.issued.last_beat.eq(self.last_beat)]
        m.d.comb += self.issued.beat.eq(self.beat)
        with m.If(self.issue):
            m.d.sync += self.beat.eq(Mux(self.last_beat, 0, self.beat + 1))

    # --- datapath ----------------------------------------------------------------------------------------------------

    def _take_best(self, m: Module) -> None:
        """Registers halfway between the list and the control, which may be far apart."""
        best = self.top_k.best
        m.d.comb += self.top_k.pop.eq(self.loads)
        with m.If(self.loads):
            row = Mux(best.score == -(2**31), Const(2**32 - 1, 32), best.row)
            m.d.sync += self.best_row.eq(Mux(self.closes, self.verdict, row))
            m.d.sync += self.best_score.eq(best.score)
        # What is sent does not depend on the state: after the list, the verdict takes the place of a row.
        m.d.comb += self.sink.payload["data"].eq(Mux(self.is_row, self.best_row, self.best_score))

    def _datapath(self, m: Module) -> None:
        sizes = self.parameters
        issue = self.issue
        products_valid = delayed(m, issue, _TO_PRODUCTS, "issue")
        # Whether a row is known takes a chain of carries, so it is applied a cycle later.
        weight, known = delayed(m, self.weight, 1, "given"), delayed(m, self.known, 1, "known")
        weight = delayed(m, Mux(known, weight, 0), 1, "known_weight")
        # The history's scales are read at issue; the catalogue's just before a dot product needs them.
        token = self.issued.as_value()
        before_dot = _TO_PRODUCTS + dot_product.latency(sizes) - ITEM_LATENCY
        at_read = delayed(m, token, before_dot, "at_read")
        at_score = delayed(m, at_read, ITEM_LATENCY + score.LATENCY, "at_score")
        read, scored = data.View(ISSUED, at_read), data.View(ISSUED, at_score)
        m.d.comb += self.item_table.row.eq(Mux(self.scoring, read.row, self.issued.row))
        self._read_rows(m, token)
        item = data.View(ITEM, self.item_table.item.as_value())
        before_products = delayed(m, issue, _TO_PRODUCTS - aggregate.LATENCY, "before_products")
        m.d.comb += [
            self.coefficient.weight.eq(delayed(m, weight, ITEM_LATENCY - 2, "weight")),
            self.coefficient.scale.eq(item.source_scale),
            self.array.codes.eq(self.row_table.data),
            self.array.c.eq(self.coefficient.c),
            self.array.scoring.eq(self.scoring),
            self.aggregate.products.eq(self.array.products),
            self.aggregate.add.eq(before_products & ~self.scoring),
            self.dot_product.products.eq(self.array.products),
            self.dot_product.valid.eq(products_valid & self.scoring),
            self.dot_product.last.eq(data.View(ISSUED, self._at_products(m, token)).last_beat),
            self.score.dot.eq(self.dot_product.dot),
            self.score.scale.eq(item.target_scale),
            self.score.bias.eq(item.bias),
            self.top_k.candidate.score.eq(self.score.score),
            self.top_k.candidate.row.eq(scored.row),
        ]
        if sizes.item_to_item:
            self._add_sparse_sums(m, token, products_valid)
        of_item = delayed(m, products_valid & self.scoring, dot_product.latency(sizes) + score.LATENCY, "of_item")
        m.d.comb += self.top_k.valid.eq(of_item & scored.last_beat & ~scored.skipped)

    def _add_sparse_sums(self, m: Module, token: Any, products_valid: Any) -> None:
        """While the catalogue is scored, each item's sum is read, scaled and added to its dot product."""
        sums, scale = self.sparse_sums, self.sparse_scale
        at_dot = _TO_PRODUCTS + dot_product.latency(self.parameters)
        to_sums = at_dot + score.EXTRA_AFTER - requantise.LATENCY - SUM_LATENCY
        taken = data.View(ISSUED, delayed(m, token, to_sums, "at_sums"))
        takes = delayed(m, self.issue, to_sums, "takes") & self.scoring & taken.last_beat
        entry_item, entry_code = self.word[:ROW_BITS], self.word[ROW_BITS : ROW_BITS + 8]
        m.d.comb += [
            sums.take.eq(takes),
            sums.item.eq(Mux(self.scoring, taken.row, entry_item)),
            sums.code.eq(entry_code.as_signed()),
            sums.weight.eq(self.row_weight),
            sums.scale.eq(self.row_scale),
            scale.value.eq(sums.sum),
            scale.multiplier.eq(self.sparse_multiplier),
            scale.shift.eq(self.sparse_shift),
            self.score.extra.eq(scale.result),
        ]

    def _at_products(self, m: Module, token: Any) -> Any:
        return delayed(m, token, _TO_PRODUCTS, "at_products")

    def _read_rows(self, m: Module, token: Any) -> None:
        """Address of the row table, and the part of the user vector that its codes are multiplied with."""
        sizes = self.parameters
        late = data.View(ISSUED, delayed(m, token, _ROWS_AFTER - 1, "at_rows"))
        row = Signal(range(sizes.rows))
        base = delayed(m, self.registers.target_base, 1, "base")
        m.d.sync += row.eq(late.row + Mux(self.scoring, base, 0))
        beat = delayed(m, late.beat, 1, "row_beat")
        address = Cat(beat[: log2(sizes.beats)], row) if sizes.beats > 1 else row
        m.d.comb += self.row_table.address.eq(address)
        step = sizes.requantisers
        user = [Signal(USER_BITS, name=f"user{element}") for element in range(sizes.dimensions)]
        following = [*user[step:], *(each.result for each in self.requantisers)]
        valid = delayed(m, self.aggregate.shift, aggregate.LATENCY - 1 + requantise.LATENCY, "requantised")
        for fills, one, after in zip(shared(m, valid, len(user), "user_valid", each=4), user, following, strict=True):
            with m.If(fills):
                m.d.sync += one.eq(after)
        at_array = [Const(0)] * sizes.lanes
        if sizes.beats > 1:
            at_array = shared(m, delayed(m, beat, ROW_LATENCY - 1, "array_beat"), sizes.lanes, "array_beat", each=2)
        for lane, chosen in enumerate(at_array):
            m.d.comb += self.array.user[lane].eq(Choice(user[lane :: sizes.lanes])[chosen])
        shifts = copies(m, self.shift, sizes.requantisers, "shift")
        for number, one in enumerate(self.requantisers):
            m.d.comb += [
                one.value.eq(self.aggregate.sums[number]),
                one.multiplier.eq(self.multiplier),
                one.shift.eq(shifts[number]),
            ]

    # --- control -----------------------------------------------------------------------------------------------------

    def _flag(self, m: Module, status: Status) -> None:
        m.d.comb += self.flagged[status.bit_length() - 1].eq(1)

    def _take(self, m: Module) -> None:
        """Take the word that is offered, and note whether it was the packet's last."""
        m.d.comb += self.source.ready.eq(1)
        m.d.sync += self.ended.eq(self.is_last)

    def _idle_and_loading(self, m: Module) -> None:
        operation, argument = self.word[28:], self.word[:24]
        self.address, self.is_second, self.half_item = Signal(24), Signal(), Signal(32)
        with m.State("IDLE"):
            m.d.sync += [self.verdict.eq(0), self.address.eq(argument), self.is_second.eq(0), self.beat.eq(0)]
            m.d.sync += [self.left.eq(self.word[:16]), self.has_history.eq(self.word[:16] != 0)]
            m.d.sync += [self.k.eq(self.word[16:24]), self.scoring.eq(0)]
            m.d.sync += [self.item.eq(0), self.next_item.eq(1)]
            with m.If(self.source.valid):
                self._take(m)
                with m.Switch(operation):
                    for name, next_state in zip(Operation, ("LOAD_ROWS", "LOAD_ITEMS", "SCALE"), strict=True):
                        with m.Case(int(name)):
                            m.next = next_state
                    with m.Default():
                        self._flag(m, Status.UNKNOWN_OPERATION)
                        m.next = "REST"
                with m.If(self.is_last):
                    self._flag(m, Status.TRUNCATED)
                    m.next = "IDLE"
        self._load_rows(m)
        self._load_items(m)
        with m.State("REST"):  # drains an invalid packet
            with m.If(self.ended):
                m.next = "IDLE"
            with m.Elif(self.source.valid):
                self._take(m)

    def _load_rows(self, m: Module) -> None:
        words = self.parameters.lanes // 4
        m.d.comb += [
            self.row_table.pushed.eq(self.word),
            self.row_table.write_address.eq(self.address >> log2(words)),
        ]
        with m.State("LOAD_ROWS"):
            with m.If(self.source.valid):
                self._take(m)
                m.d.comb += self.row_table.push.eq(1)
                m.d.sync += self.address.eq(self.address + 1)
                in_range = (self.address >> log2(words)) < self.row_table.depth
                full = self.address[: log2(words)] == words - 1 if words > 1 else Const(1)
                m.d.comb += self.row_table.write.eq(full & in_range)
                self._end_of_load(m, in_range, full)

    def _load_items(self, m: Module) -> None:
        m.d.comb += [
            self.item_table.write_row.eq(self.address),
            self.item_table.write_item.target_scale.eq(self.half_item[:16]),
            self.item_table.write_item.source_scale.eq(self.half_item[16:]),
            self.item_table.write_item.bias.eq(self.word),
        ]
        with m.State("LOAD_ITEMS"):
            with m.If(self.source.valid):
                self._take(m)
                m.d.sync += [self.half_item.eq(self.word), self.is_second.eq(~self.is_second)]
                in_range = self.address < self.parameters.items
                m.d.comb += self.item_table.write.eq(self.is_second & in_range)
                with m.If(self.is_second):
                    m.d.sync += self.address.eq(self.address + 1)
                self._end_of_load(m, in_range, self.is_second)

    def _end_of_load(self, m: Module, in_range: Any, whole: Any) -> None:
        with m.If(~in_range):
            self._flag(m, Status.ROW_OUT_OF_RANGE)
        with m.If(self.is_last):
            with m.If(~whole):
                self._flag(m, Status.TRUNCATED)
            m.next = "IDLE"

    def _head(self, m: Module) -> None:
        too_many = self.parameters.k
        sparse = self.parameters.item_to_item
        self._scale(m, "SCALE", self.multiplier, self.shift, "SPARSE_SCALE" if sparse else "SEEN")
        if sparse:
            self._scale(m, "SPARSE_SCALE", self.sparse_multiplier, self.sparse_shift, "SEEN")
        with m.State("SEEN"):
            m.d.sync += [self.seen_left.eq(self.word), self.has_seen.eq(self.word[: len(self.seen_left)] != 0)]
            with m.If(self.source.valid):
                self._take(m)
                m.next = "CHECK"
        with m.State("CHECK"):
            m.next = "HISTORY"
            with m.If(self.ended & (self.has_history | self.has_seen)):
                self._flag(m, Status.TRUNCATED)
                self._drop_rest(m)
            with m.Elif((self.k == 0) | (self.k > too_many)):
                self._flag(m, Status.BAD_LIST_LENGTH)
                m.d.sync += self.k.eq(too_many)
            with m.Elif(self.left > MAX_HISTORY):
                self._flag(m, Status.HISTORY_TOO_LONG)

    def _scale(self, m: Module, name: str, multiplier: Signal, shift: Signal, following: str) -> None:
        with m.State(name):
            m.d.sync += [multiplier.eq(self.word[:16]), shift.eq(self.word[16:22])]
            with m.If(self.source.valid):
                self._take(m)
                m.next = following
                with m.If(self.is_last):
                    self._flag(m, Status.TRUNCATED)
                    m.next = "IDLE"
                with m.Elif(self.word[16:] > MAX_SHIFT):
                    self._flag(m, Status.BAD_SHIFT)

    def _item_to_item_row(self, m: Module) -> None:
        """A history item's row: its head, then an entry a cycle."""
        entries = Signal(ROW_BITS)
        ends = ~self.has_history & ~self.has_seen
        with m.State("ROW"):
            m.d.sync += [self.row_scale.eq(self.word[:COEFFICIENT_BITS]), entries.eq(self.word[COEFFICIENT_BITS:])]
            with m.If(self.source.valid):
                self._take(m)
                empty = self.word[COEFFICIENT_BITS:] == 0
                m.next = "ENTRIES"
                with m.If(empty):
                    m.next = "HISTORY"
                self._end_of_history(m, self.is_last & ~(ends & empty))
        with m.State("ENTRIES"):
            with m.If(self.source.valid):
                self._take(m)
                known = self.word[:ROW_BITS] < self.items
                m.d.comb += self.sparse_sums.add.eq(known)
                m.d.sync += entries.eq(entries - 1)
                with m.If(~known):
                    self._flag(m, Status.ROW_OUT_OF_RANGE)
                with m.If(entries == 1):
                    m.next = "HISTORY"
                self._end_of_history(m, self.is_last & ~(ends & (entries == 1)))

    def _end_of_history(self, m: Module, truncated: Any) -> None:
        with m.If(truncated):
            self._flag(m, Status.TRUNCATED)
            self._drop_rest(m)
            m.next = "HISTORY"

    def _drop_rest(self, m: Module) -> None:
        """No word of the history and no seen row remains."""
        m.d.sync += [self.has_history.eq(0), self.seen_left.eq(0), self.has_seen.eq(0)]

    def _history(self, m: Module) -> None:
        row = self.word[:ROW_BITS]
        m.d.comb += [self.weight.eq(self.word[ROW_BITS:]), self.known.eq(row < self.items)]
        with m.State("HISTORY"):
            m.d.comb += self.issued.row.eq(row)
            with m.If(~self.has_history):
                m.d.sync += self.left.eq(AGGREGATE_CYCLES - 2)  # two pass before that state starts
                m.next = "AGGREGATE"
            with m.Elif(self.source.valid):
                m.d.comb += self.issue.eq(1)
                with m.If(self.last_beat):
                    self._take(m)
                    m.d.sync += [self.left.eq(self.left - 1), self.has_history.eq(self.left != 1)]
                    with m.If(~self.known):
                        self._flag(m, Status.ROW_OUT_OF_RANGE)
                    complete = (self.left == 1) & ~self.has_seen
                    if self.parameters.item_to_item:
                        m.d.sync += self.row_weight.eq(Mux(self.known, self.weight, 0))
                        m.next = "ROW"
                        complete = Const(0)  # its row follows
                    self._end_of_history(m, self.is_last & ~complete)
        if self.parameters.item_to_item:
            self._item_to_item_row(m)

    def _user_vector(self, m: Module) -> None:
        steps = self.parameters.dimensions // self.parameters.requantisers
        with m.State("AGGREGATE"):
            m.d.sync += self.left.eq(self.left - 1)
            with m.If(self.left == 1):
                m.d.sync += self.left.eq(steps)
                m.next = "REQUANTISE"
        with m.State("REQUANTISE"):
            m.d.comb += self.aggregate.shift.eq(1)
            m.d.sync += self.left.eq(self.left - 1)
            with m.If(self.left == 1):
                m.d.sync += self.left.eq(USER_CYCLES)
                m.next = "USER"
        with m.State("USER"):
            m.d.sync += [self.left.eq(self.left - 1), self.scoring.eq(1)]
            m.d.sync += self.last_item.eq(self.items == 1)
            with m.If(self.left == 1):
                m.next = "CATALOGUE"

    def _catalogue(self, m: Module) -> None:
        waits, beyond, seen, advances = Signal(), Signal(), Signal(), Signal()
        is_item, is_past = self._compared_ahead(m, advances)
        m.d.comb += [
            waits.eq(self.has_seen & ~self.source.valid),
            beyond.eq(self.has_seen & self.source.valid & is_past),
            seen.eq(self.has_seen & is_item),
            self.issued.skipped.eq(seen),
        ]
        with m.State("CATALOGUE"):
            m.d.comb += self.issued.row.eq(self.item)
            with m.If(beyond):
                self._flag(m, Status.SEEN_NOT_ASCENDING)
                self._take_seen(m)
            with m.Elif(~waits):
                m.d.comb += self.issue.eq(1)
                with m.If(self.last_beat):
                    m.d.comb += advances.eq(1)
                    m.d.sync += [self.item.eq(self.next_item), self.next_item.eq(self.next_item + 1)]
                    m.d.sync += self.last_item.eq(self.next_item + 1 == self.items)
                    with m.If(seen):
                        self._take_seen(m)
                    with m.If(self.last_item):
                        m.d.sync += self.left.eq(cycles_to_place(self.parameters) - 3)  # two others follow
                        m.next = "RANK"

    def _compared_ahead(self, m: Module, advances: Any) -> tuple[Any, Any]:
        """Whether the offered word is the row of the current item, or of an earlier one.

        All combinations of possible next words and next items are compared one cycle ahead.
        """
        offered, coming = self.word[:ROW_BITS], self.ahead.i.payload["data"][:ROW_BITS]
        is_item, is_past = Signal(), Signal()
        for flag, compare in ((is_item, operator.eq), (is_past, operator.lt)):
            stays, moves = (
                Mux(advances, compare(row, self.next_item), compare(row, self.item)) for row in (offered, coming)
            )
            m.d.sync += flag.eq(Mux(self.ahead.moves, moves, stays))
        return is_item, is_past

    def _take_seen(self, m: Module) -> None:
        self._take(m)
        m.d.sync += [self.seen_left.eq(self.seen_left - 1), self.has_seen.eq(self.seen_left != 1)]
        with m.If(self.is_last & (self.seen_left != 1)):
            self._flag(m, Status.TRUNCATED)
            m.d.sync += [self.seen_left.eq(0), self.has_seen.eq(0)]

    def _list(self, m: Module) -> None:
        m.d.sync += self.lists.eq(0)
        with m.State("RANK"):
            m.d.sync += self.left.eq(self.left - 1)
            with m.If(self.left == 1):
                m.next = "REMAINDER"
        with m.State("REMAINDER"):  # seen rows that matched no item, and excess words
            with m.If(self.ended):
                m.d.sync += self.lists.eq(1)
                m.next = "LIST"
            with m.Elif(self.source.valid):
                self._take(m)
                with m.If(self.has_seen):
                    m.d.sync += [self.seen_left.eq(self.seen_left - 1), self.has_seen.eq(self.seen_left != 1)]
                self._flag_remainder(m)
        with m.State("LIST"):
            with m.If(self.answered):
                m.next = "IDLE"

    def _send_list(self, m: Module) -> None:
        """The list's own control: it can be placed beside the list, far from that of the request."""
        is_row = self.is_row
        m.d.sync += self.answered.eq(0)
        with m.FSM(name="listing"):
            with m.State("WAIT"):
                m.d.sync += [self.listed.eq(self.k), self.closes.eq(0)]
                with m.If(self.lists):
                    m.d.comb += self.loads.eq(1)
                    m.next = "PAIRS"
            with m.State("PAIRS"):
                m.d.comb += self.sink.valid.eq(1)
                m.d.sync += self.closes.eq(self.listed == 1)
                with m.If(self.sink.ready):
                    m.d.sync += is_row.eq(~is_row)
                    with m.If(~is_row):
                        m.d.comb += self.loads.eq(1)
                        m.d.sync += self.listed.eq(self.listed - 1)
                        with m.If(self.closes):
                            m.next = "VERDICT"
            with m.State("VERDICT"):
                m.d.comb += [self.sink.valid.eq(1), self.sink.payload["last"].eq(1)]
                with m.If(self.sink.ready):
                    m.d.sync += self.answered.eq(1)
                    m.next = "WAIT"

    def _flag_remainder(self, m: Module) -> None:
        with m.If(~self.has_seen):
            self._flag(m, Status.TOO_LONG)
        with m.Elif(self.is_last & (self.seen_left != 1)):
            self._flag(m, Status.TRUNCATED)
        with m.Else():
            self._flag(m, Status.ROW_OUT_OF_RANGE)
