"""The engine in simulation: bit-identical to the contract, in the cycles of the cycle model, for any input."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from small_models import extreme_contract, extreme_requests, histories, model_of

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import memory
from amaranth.sim import Simulator

from lanner.accelerators.contract import MAX_HISTORY, Contract, FixedPoint, Request, requests_of
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.fpga import netlist, protocol, tables
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.pipeline import PinBuffer, SkidBuffer
from lanner.accelerators.fpga.protocol import Operation, Register, Status
from lanner.accelerators.fpga.simulate import SimulatedEngine
from lanner.accelerators.reference import LARGEST_SCORE, answer, coefficients, sparse_sums, user_vector
from lanner.errors import ConfigError

ITEMS, K = 24, 4
SIZES = Parameters(dimensions=8, lanes=4, rows=2 * ITEMS, items=ITEMS, k=K, score_shift=18)
ONE_BEAT = Parameters(dimensions=8, lanes=8, rows=2 * ITEMS, items=ITEMS, k=K, score_shift=18)
EXTREME = extreme_contract(ITEMS, 8, 18)
EXTREME_REQUESTS = extreme_requests(EXTREME, K)


def asked(contract: Contract, requests: list[Request], sizes: Parameters, **host):
    asks = [protocol.request_packet(request, contract.sparse) for request in requests]
    packets = [*protocol.load(contract, sizes), *asks]
    return SimulatedEngine(sizes).run(packets, protocol.settings(contract), len(requests), **host)


def assert_exact(contract: Contract, requests: list[Request], found) -> None:
    for words, request in zip(found, requests, strict=True):
        got, status = protocol.read_answer(words)
        wanted = answer(contract, request)
        assert status == 0
        assert got.rows.tolist() == wanted.rows.tolist()
        assert got.scores.tolist() == wanted.scores.tolist()


@pytest.mark.parametrize("sizes", [SIZES, ONE_BEAT], ids=["two beats", "one beat"])
def test_answers_and_cycles_are_those_of_the_contract(sizes):
    model, users = model_of(ITEMS, 8), histories(5, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = replace(sizes, score_shift=contract.score_shift)
    requests = requests_of(contract, model, users, K)
    found, cycles = asked(contract, requests, sizes)
    assert_exact(contract, requests, found)
    assert cycles == [request_cycles(sizes, len(request.rows), ITEMS, K) for request in requests]


class Clobbered(Elaboratable):
    """A memory that returns the wrong bits for each read in a cycle in which it is written, at whatever address."""

    def __init__(self, shape, depth, init):
        self.memory = memory.Memory(shape=shape, depth=depth, init=init)
        self.writing, self.reading = self.memory.write_port(), self.memory.read_port()
        self.found = Signal(shape)

    def write_port(self):
        return self.writing

    def read_port(self):
        return SimpleNamespace(addr=self.reading.addr, data=self.found)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        written = Signal()
        m.d.sync += written.eq(self.writing.en)
        m.d.comb += self.found.eq(self.reading.data ^ written.replicate(len(self.found)))
        return m


@pytest.mark.parametrize("sizes", [SIZES, ONE_BEAT], ids=["two beats", "one beat"])
def test_nothing_depends_on_reads_while_tables_are_written(sizes):
    """Synthesis leaves open what they return. Tables are replaced right before a request and right after it."""
    other = replace(EXTREME, source=EXTREME.source[::-1], target=EXTREME.target[::-1], bias=EXTREME.bias[::-1])
    both = [EXTREME, other, EXTREME]
    packets = [packet for one in both for packet in (*protocol.load(one, sizes), protocol.request_packet(GOOD))]
    with patch.object(tables, "memory", SimpleNamespace(Memory=Clobbered)):
        found, _ = SimulatedEngine(sizes).run(packets, protocol.settings(EXTREME), len(both))
    for contract, words in zip(both, found, strict=True):
        assert_exact(contract, [GOOD], [words])


@pytest.mark.parametrize("sizes", [SIZES, ONE_BEAT], ids=["two beats", "one beat"])
def test_tables_of_several_banks_are_exact(sizes):
    some = [GOOD, *EXTREME_REQUESTS[1:30:7]]
    with patch.object(tables, "BANK_WORDS", 16):
        found, cycles = asked(EXTREME, some, sizes)
    assert_exact(EXTREME, some, found)
    assert cycles == [request_cycles(sizes, len(one.rows), ITEMS, one.k) for one in some]


@pytest.mark.parametrize("sizes", [SIZES, ONE_BEAT], ids=["two beats", "one beat"])
def test_every_shift_and_corner_is_exact(sizes):
    found, cycles = asked(EXTREME, EXTREME_REQUESTS, sizes)
    assert_exact(EXTREME, EXTREME_REQUESTS, found)
    assert cycles == [request_cycles(sizes, len(one.rows), ITEMS, one.k) for one in EXTREME_REQUESTS]


@pytest.mark.parametrize("host", [{}, {"offered": 0.5, "taken": 0.4}], ids=["quick host", "slow host"])
def test_item_to_item_rows_add_to_the_scores(host):
    model, users = model_of(ITEMS, 8, sparse=True), histories(6, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = replace(SIZES, dimensions=16, score_shift=contract.score_shift, item_to_item=True)  # four beats
    requests = requests_of(contract, model, users, K)
    found, cycles = asked(contract, requests, sizes, **host)
    assert_exact(contract, requests, found)
    assert any(sparse_sums(contract, request).any() for request in requests)
    if not host:
        assert cycles == [Emulator(contract, sizes).cycles(request) for request in requests]


def test_the_item_to_item_row_of_a_row_outside_counts_nothing():
    model, users = model_of(ITEMS, 8, sparse=True), histories(6, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = replace(SIZES, score_shift=contract.score_shift, item_to_item=True)
    request = next(one for one in requests_of(contract, model, users, K) if len(one.rows) > 1)
    others = replace(request, weights=np.where(np.arange(len(request.rows)) == 0, 0, request.weights))
    packet = protocol.request_packet(request, contract.sparse)
    packet[4] += _WRAPS - int(request.rows[0])  # the first word of the history
    packets = [*protocol.load(contract, sizes), packet]
    (words,), _ = SimulatedEngine(sizes).run(packets, protocol.settings(contract), 1)
    found, status = protocol.read_answer(words)
    assert status == Status.ROW_OUT_OF_RANGE
    assert sparse_sums(contract, request).tolist() != sparse_sums(contract, others).tolist()
    assert found.rows.tolist() == answer(contract, others).rows.tolist()
    assert found.scores.tolist() == answer(contract, others).scores.tolist()


def test_item_to_item_rows_that_end_early_are_told():
    """Every place where a packet of two rows can end; the next request is answered."""
    model, users = model_of(ITEMS, 8, sparse=True), histories(6, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = replace(SIZES, score_shift=contract.score_shift, item_to_item=True)
    good = contract.request(np.array([2, 5]), np.ones(2), np.array([3]), 2)
    packet = protocol.request_packet(good, contract.sparse)
    cut = [packet[:length] for length in range(4, len(packet))]
    packets = [*protocol.load(contract, sizes), *cut, packet]
    found, _ = SimulatedEngine(sizes).run(packets, protocol.settings(contract), len(cut) + 1)
    assert [protocol.read_answer(words)[1] for words in found[:-1]] == [Status.TRUNCATED] * len(cut)
    assert_exact(contract, [good], found[-1:])


@pytest.mark.parametrize(("offered", "taken"), [(0.1, 1.0), (1.0, 0.2), (0.5, 0.5)])
def test_a_slow_host_changes_no_answer(offered, taken):
    some = EXTREME_REQUESTS[1:30:7]  # each kind of seen rows
    found, _ = asked(EXTREME, some, SIZES, offered=offered, taken=taken, seed=3)
    assert_exact(EXTREME, some, found)


def test_rows_of_several_words_may_come_slowly():
    model, users = model_of(ITEMS, 16), histories(5, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = replace(ONE_BEAT, dimensions=16, lanes=16, score_shift=contract.score_shift)
    requests = requests_of(contract, model, users, K)
    found, _ = asked(contract, requests, sizes, offered=0.3, seed=3)
    assert_exact(contract, requests, found)


def test_a_buffered_word_is_offered_before_anybody_is_ready():
    buffer, offered = SkidBuffer(8), []

    async def script(context):
        context.set(buffer.i.payload, 9)
        context.set(buffer.i.valid, 1)
        await context.tick().repeat(2)
        offered.append((context.get(buffer.o.valid), context.get(buffer.o.payload)))

    simulator = Simulator(buffer)
    simulator.add_clock(1e-8)
    simulator.add_testbench(script)
    simulator.run()
    assert offered == [(1, 9)]


@pytest.mark.parametrize(("offered", "taken"), [(1.0, 1.0), (0.5, 0.5), (1.0, 0.3), (0.3, 1.0)])
def test_a_buffer_at_the_pins_keeps_all_bits_of_a_word_together(offered, taken):
    """Words are wider than the bits that share a state; each transfer at either end is of a whole word."""
    buffer, draw, sent, got = PinBuffer(33), np.random.default_rng(1), list[int](), list[int]()

    async def script(context):
        word = None
        for _ in range(200):
            if word is None and draw.random() < offered:
                word = int(draw.integers(2**33))
            context.set(buffer.i.payload, word or 0)
            context.set(buffer.i.valid, word is not None)
            context.set(buffer.o.ready, ready := draw.random() < taken)
            _, _, accepts, valid, found = await context.tick().sample(buffer.i.ready, buffer.o.valid, buffer.o.payload)
            if word is not None and accepts:
                sent.append(word)
                word = None
            if valid and ready:
                got.append(found)

    simulator = Simulator(buffer)
    simulator.add_clock(1e-8)
    simulator.add_testbench(script)
    simulator.run()
    assert got == sent[: len(got)]
    assert len(sent) - len(got) <= 2
    assert len(got) > 0.8 * 200 * offered * taken


@pytest.mark.parametrize("host", [{}, {"offered": 0.9, "taken": 0.3}], ids=["quick host", "slow host"])
def test_the_longest_history_is_exact(host):
    """4,096 entries: of the largest weight, scale and code, which reach the accumulators' end; of all rows."""
    contract = replace(EXTREME, source_scale=np.full(ITEMS, 4095, np.uint16))
    lowest = np.flatnonzero((contract.source == -127).all(axis=1))[0]
    # Rows repeat, which a host never sends: a catalogue of 4,096 items would take the simulator minutes.
    mixed = np.random.default_rng(4).integers(0, ITEMS, MAX_HISTORY)
    rows = mixed if host else np.full(MAX_HISTORY, lowest)
    by = FixedPoint(40_000, 32)
    request = Request(rows, np.full(MAX_HISTORY, 4095), by, by, np.arange(3), K)
    sums = coefficients(contract.source_scale, request) @ contract.source[rows].astype(np.int64)
    assert host or sums.min() < -0.99 * 2**31
    found, cycles = asked(contract, [request], ONE_BEAT, **host)
    assert_exact(contract, [request], found)
    assert host or cycles == [request_cycles(ONE_BEAT, MAX_HISTORY, ITEMS, K)]


def test_vectors_shorter_than_the_accelerators_are_padded():
    contract = extreme_contract(ITEMS, 5, 18)
    requests = extreme_requests(contract, K)[2:5]
    found, _ = asked(contract, requests, SIZES)
    assert_exact(contract, requests, found)


def is_telling(request: Request) -> bool:
    """Whether its list depends on tables, scales, history and seen rows, and has two entries."""
    large = np.abs(user_vector(EXTREME, request)).max() > 1000
    clamped = (np.abs(answer(EXTREME, request).scores) >= LARGEST_SCORE).any()
    return bool(request.k == 2 and len(request.rows) > 1 and len(request.seen) > 2 and large and not clamped)


GOOD = replace(
    next(one for one in EXTREME_REQUESTS if len(one.rows) > 2 and np.abs(user_vector(EXTREME, one)).max() > 1000),
    seen=np.sort(np.argsort(-np.abs(EXTREME.bias.astype(np.int64)), kind="stable")[:6]),
    k=2,
)
assert is_telling(GOOD)


def changed(**words: int) -> np.ndarray:
    """The good request with some words replaced, named by their place: ``w0=…``."""
    packet = protocol.request_packet(GOOD).copy()
    for place, word in words.items():
        packet[int(place[1:])] = word
    return packet


_PACKET = protocol.request_packet(GOOD)
_WRAPS = 64 + int(np.argmax(EXTREME.source_scale))
"""A row outside whose low bits are those of one that would count."""
_SEEN = 3 + len(GOOD.rows)
SHORT_ROWS = np.array([Operation.LOAD_ROWS << 28, 0], np.uint32)
BAD = {
    "an unknown operation": (np.array([9 << 28, 1, 2, 3], np.uint32), Status.UNKNOWN_OPERATION, False),
    "a head alone": (_PACKET[:1], Status.TRUNCATED, False),
    "half a head": (_PACKET[:2], Status.TRUNCATED, False),
    "no history": (_PACKET[:3], Status.TRUNCATED, True),
    "half a history": (_PACKET[: _SEEN - 1], Status.TRUNCATED, True),
    "no seen rows": (_PACKET[:_SEEN], Status.TRUNCATED, True),
    "half the seen rows": (_PACKET[:-1], Status.TRUNCATED, True),
    "words that nobody asked for": (np.append(_PACKET, [5, 6]).astype(np.uint32), Status.TOO_LONG, True),
    "no list": (changed(w0=int(_PACKET[0]) & ~(255 << 16)), Status.BAD_LIST_LENGTH, True),
    "a list too long": (changed(w0=int(_PACKET[0]) | (128 << 16)), Status.BAD_LIST_LENGTH, True),
    "a shift of 48": (changed(w1=48 << 16), Status.BAD_SHIFT, True),
    "a history row outside": (changed(w3=_WRAPS | 4095 << 20), Status.ROW_OUT_OF_RANGE, True),
    "a seen row outside": (np.append(_PACKET[:-1], [ITEMS]).astype(np.uint32), Status.ROW_OUT_OF_RANGE, True),
    "a seen row twice": (
        np.concatenate([_PACKET[: _SEEN + 1], _PACKET[_SEEN:-1]]),
        Status.SEEN_NOT_ASCENDING,
        True,
    ),
    "rows that end early": (SHORT_ROWS[:1], Status.TRUNCATED, False),
    "rows beyond the memory": (
        np.array([Operation.LOAD_ROWS << 28 | 128, *[0x7F80_017F] * 96], np.uint32),  # would wrap around to the first
        Status.ROW_OUT_OF_RANGE,
        False,
    ),
    "half an item": (np.array([Operation.LOAD_ITEMS << 28, 1], np.uint32), Status.TRUNCATED, False),
    "items beyond the memory": (
        np.array([Operation.LOAD_ITEMS << 28 | 32, *[7] * 2 * ITEMS], np.uint32),
        Status.ROW_OUT_OF_RANGE,
        False,
    ),
}


def test_a_bad_packet_is_told_and_the_next_is_answered():
    """One run: each bad packet is followed by a good request, whose answer must be whole."""
    packets, wanted = list(protocol.load(EXTREME, SIZES)), []
    for packet, status, answered in BAD.values():
        packets += [packet, protocol.request_packet(GOOD)]
        wanted += [status] * answered + [Status(0)]
    found, _ = SimulatedEngine(SIZES).run(packets, protocol.settings(EXTREME), len(wanted))
    statuses = [protocol.read_answer(words)[1] for words in found]
    assert statuses == wanted
    answers = {status: words for words, status in zip(found, statuses, strict=True)}
    assert len(answers[Status.BAD_LIST_LENGTH]) == protocol.answer_words(K)
    # A row outside counts nothing: the list is that of the others.
    named = [name for name, (_, _, answered) in BAD.items() if answered]
    bad = dict(zip(named, [words for words, status in zip(found, statuses, strict=True) if status], strict=True))
    others = replace(GOOD, weights=np.where(np.arange(len(GOOD.rows)) == 0, 0, GOOD.weights))
    got = protocol.read_answer(bad["a history row outside"])[0]
    assert got.rows.tolist() == answer(EXTREME, others).rows.tolist()
    assert got.scores.tolist() == answer(EXTREME, others).scores.tolist()
    good = [words for words, status in zip(found, statuses, strict=True) if status == 0]
    assert_exact(EXTREME, [GOOD] * len(good), good)


def test_a_history_longer_than_is_proven_is_told():
    sizes = Parameters(dimensions=4, lanes=4, rows=8, items=4, k=1, requantisers=4)
    head = np.array([Operation.REQUEST << 28 | 1 << 16 | 4097, 0, 0], np.uint32)
    packet = np.concatenate([head, np.zeros(4097, np.uint32)])
    found, _ = SimulatedEngine(sizes).run([packet], {}, 1)
    assert protocol.read_answer(found[0])[1] == Status.HISTORY_TOO_LONG


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"dimensions": 4, "lanes": 4}, "8 dimensions, the accelerator 4: 4 too many"),
        ({"items": 20}, "24 items, the accelerator 20: 4 too many"),
        ({"rows": 30, "items": 24}, "48 rows of vectors, the accelerator 30: 18 too many"),
        ({"score_shift": 17}, "score shift is 18"),
        ({"item_to_item": True}, "the model has no item-to-item part, the accelerator was built for one"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(sizes, complaint):
    model, users = model_of(ITEMS, 8), histories(5, ITEMS, 9)
    contract = Contract.of(model, users)
    contract = replace(contract, score_shift=18)
    with pytest.raises(ConfigError, match=complaint):
        protocol.load(contract, replace(SIZES, **sizes))


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"dimensions": 48}, "dimensions is 48; it must be a power of two"),
        ({"lanes": 16, "dimensions": 8}, "lanes is 16; it must be 4 … dimensions, here 8"),
        ({"requantisers": 8, "lanes": 4}, "requantisers is 8"),
        ({"items": 100, "rows": 50}, "items and rows are 100 and 50"),
        ({"k": 256}, "k is 256"),
        ({"score_shift": 48}, "score_shift is 48"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(sizes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        replace(SIZES, **sizes)


def test_registers_hold_what_was_written_and_refuse_the_rest():
    """Bus accesses while a request is under way, and after it."""
    from amaranth.sim import Simulator

    from lanner.accelerators.fpga.engine import Engine

    engine, read = Engine(SIZES), {}

    async def access(context, register, value=None):
        bus = engine.bus
        for line, level in ((bus.adr, int(register)), (bus.dat_w, value or 0), (bus.we, value is not None)):
            context.set(line, level)
        context.set(bus.cyc, 1)
        context.set(bus.stb, 1)
        acknowledged = [0]
        while not acknowledged[-1]:
            _, _, ack, found = await context.tick().sample(bus.ack, bus.dat_r)
            acknowledged.append(ack)
        assert acknowledged == [0, 0, 1]  # asked in one cycle, acknowledged in the next
        context.set(bus.cyc, 0)
        context.set(bus.stb, 0)
        await context.tick()
        assert not context.get(bus.ack)
        return found

    async def script(context):
        for register, value in ((Register.ITEMS, 7), (Register.ITEMS, 0), (Register.ITEMS, ITEMS + 1)):
            await access(context, register, value)
        read["refused"] = await access(context, Register.STATUS)
        await access(context, Register.STATUS, int(Status.ROW_OUT_OF_RANGE))
        read["cleared"] = await access(context, Register.STATUS)
        await access(context, Register.TARGET_BASE, 2 * ITEMS)
        await access(context, Register.CONTRACT, 0xDEADBEEF)
        context.set(engine.words.payload, {"data": Operation.REQUEST << 28, "last": 0})
        context.set(engine.words.valid, 1)
        await context.tick()
        context.set(engine.words.valid, 0)
        await context.tick().repeat(3)
        await access(context, Register.ITEMS, 5)
        for register in Register:
            read[register] = await access(context, register)

    simulator = Simulator(engine)
    simulator.add_clock(1e-8)
    simulator.add_testbench(script)
    simulator.run()
    assert read["refused"] == Status.ROW_OUT_OF_RANGE
    assert read["cleared"] == 0
    assert read[Register.VERSION] == protocol.VERSION
    assert read[Register.CONTRACT] == 0xDEADBEEF
    assert read[Register.STATUS] == Status.BUSY | Status.WRITE_WHILE_BUSY | Status.ROW_OUT_OF_RANGE
    assert read[Register.SIZES] == 8 | 4 << 12 | K << 24
    assert (read[Register.ITEMS], read[Register.TARGET_BASE]) == (7, 0)


def _modules_with(text: str, rtlil: str) -> list[str]:
    return [one.split()[0] for one in rtlil.split("\nmodule ")[1:] if text in one]


def test_on_an_ecp5_the_reset_pin_reaches_the_reset_network_alone():
    """As a net it would end in almost every tile of the device."""
    on_ecp5, plain = netlist.rtlil_on_ecp5(SIZES), netlist.rtlil_of(SIZES)
    top = f"\\{netlist.TOP}"
    assert _modules_with("  \\rst\n", on_ecp5) == _modules_with("cell \\SGSR ", on_ecp5) == [top]
    assert len(_modules_with("\\rst\n", plain)) > 10
    assert not _modules_with("cell \\SGSR ", plain)
