"""Catalogues in external memory: bit-identical to the contract, in the reported cycles, for any memory timing."""

import numpy as np
import pytest
from small_models import extreme_contract, extreme_requests, histories, model_of

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")

from dataclasses import replace

from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.fpga.batch_cycles import Gather, batch_cycles, read_cycles
from lanner.accelerators.fpga.batches import batch_packet, memory_image, read_batch, within
from lanner.accelerators.fpga.ddr3 import MT41K128M16, Memory, Timing
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import Status
from lanner.accelerators.fpga.simulate_streamed import run_batches, run_reader
from lanner.accelerators.fpga.streamed import Batch
from lanner.accelerators.reference import answer
from lanner.errors import ConfigError

ITEMS, K = 40, 3
SIZES = Parameters(dimensions=16, lanes=8, rows=ITEMS, items=ITEMS, k=K, score_shift=18, requantisers=1)
BATCH = Batch(SIZES, users=2, seen=32)
CHIP = replace(MT41K128M16, rows=64, columns=64, pins=8)
"""Small pages: every few targets the next row must be opened."""
TIMING = Timing.of(CHIP, 75.0)
EVERYTHING = [(0, ITEMS)]
EXTREME = extreme_contract(ITEMS, 16, 18)
REQUESTS = [one for one in extreme_requests(EXTREME, K) if len(one.seen) <= BATCH.seen]


def run(contract, batches, **memory):
    host = memory.pop("host", 1.0)
    image = Memory(TIMING, memory_image(contract, BATCH), **memory)
    return run_batches(
        BATCH, image, [batch_packet(contract, requests, lists) for requests, lists in batches], host=host
    )


def assert_exact(contract, batches, found):
    for words, (requests, lists) in zip(found, batches, strict=True):
        answers, status = read_batch(words, K)
        assert status == 0
        assert len(answers) == len(requests)
        listed = within(np.arange(ITEMS), lists)
        for got, request in zip(answers, requests, strict=True):
            others = np.setdiff1d(np.arange(ITEMS), listed)
            wanted = answer(contract, replace(request, seen=np.union1d(request.seen, others), k=K))
            assert got.rows.tolist() == wanted.rows.tolist()
            assert got.scores.tolist() == wanted.scores.tolist()


def spans(batches):
    return [
        batch_cycles(BATCH, TIMING, [Gather(r.rows.tolist(), len(within(r.seen, lists))) for r in requests], lists)
        for requests, lists in batches
    ]


def test_answers_are_the_contracts_and_cycles_lie_where_the_model_says():
    model, users = model_of(ITEMS, 14), histories(4, ITEMS, 9)
    contract = replace(Contract.of(model, users), score_shift=18)
    requests = requests_of(contract, model, users, K)
    batches = [
        (requests[:2], EVERYTHING),
        (requests[2:4], [(3, 1), (4, 20), (30, 2)]),
        (requests[4:], EVERYTHING),
        (requests[:2], []),
    ]
    found, cycles = run(contract, batches)
    assert_exact(contract, batches, found)
    for spent, span in zip(cycles, spans(batches), strict=True):
        assert span.least <= spent <= span.most


def test_without_memory_the_model_is_exact():
    """Nobody has a history, and no list is asked."""
    nobody = [replace(one, rows=one.rows[:0], weights=one.weights[:0]) for one in REQUESTS[:2]]
    _, cycles = run(EXTREME, [(nobody, []), (nobody[:1], [])])
    assert [(cycle, cycle) for cycle in cycles] == spans([(nobody, []), (nobody[:1], [])])


@pytest.mark.parametrize(("stall", "host"), [(0.0, 1.0), (0.5, 0.4)])
def test_corners_are_exact_whatever_the_memory_and_the_host_do(stall, host):
    some = [request for request in REQUESTS if request.user.shift in (0, 1, 5, 13, 18, 33, 40, 47)]
    batches = [(some[first : first + 2], EVERYTHING) for first in range(0, len(some), 2)]
    found, _ = run(EXTREME, batches, stall=stall, host=host, seed=3)
    assert_exact(EXTREME, batches, found)


def test_a_bad_batch_is_told_and_the_next_is_answered():
    good, lists = REQUESTS[1:2], [(2, 3), (20, 2)]
    packet = batch_packet(EXTREME, good, lists)
    history = next(one for one in REQUESTS if len(one.rows) > 1 and not len(one.seen))
    long = batch_packet(EXTREME, [history], EVERYTHING)
    outside, shift, seen, listed = long.copy(), long.copy(), long.copy(), long.copy()
    outside[3] = ITEMS
    shift[1] = 48 << 16
    seen[2] |= 33 << 16
    listed[-2:] = 5, ITEMS - 4
    bad = [(packet[:length], Status.TRUNCATED) for length in (1, 2, 3, len(packet) - 1)]
    bad += [(long[:4], Status.TRUNCATED), (np.append(long, [7, 7]), Status.TOO_LONG)]
    bad += [(outside, Status.ROW_OUT_OF_RANGE), (listed, Status.ROW_OUT_OF_RANGE), (shift, Status.BAD_SHIFT)]
    bad += [(seen, Status.HISTORY_TOO_LONG), (np.array([3, 0]), Status.UNKNOWN_OPERATION)]
    bad += [(np.array([1, 0, 4097, *[0] * 4097]), Status.HISTORY_TOO_LONG)]
    packets = [one for words, _ in bad for one in (words.astype(np.uint32), packet)]
    found, _ = run_batches(BATCH, Memory(TIMING, memory_image(EXTREME, BATCH)), packets)
    assert [read_batch(words, K) for words in found[::2]] == [([], status) for _, status in bad]
    assert_exact(EXTREME, [(good, lists)] * len(bad), found[1::2])


def numbered(words: int, word_bits: int) -> np.ndarray:
    """A memory whose words are their addresses."""
    image = np.zeros((words, word_bits // 8), np.uint8)
    image[:, :4] = np.arange(words, dtype="<u4")[:, None].view(np.uint8)
    return image


def test_a_stream_has_most_of_the_memorys_bandwidth():
    timing, words = Timing.of(MT41K128M16, 75.0), 2000
    cycles, ends = run_reader(128, Memory(timing, numbered(words, 128)), [(0, words)])
    assert ends == [(0, words - 1)]
    assert words * timing.apart / cycles >= 0.9
    span = read_cycles(timing, [(0, words)])
    assert span.least <= cycles <= span.most <= 1.05 * cycles


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_runs_come_whole_and_in_order(stall):
    draw, words = np.random.default_rng(4), 4096
    runs = [(int(draw.integers(0, words - 9)), int(length)) for length in draw.choice([1, 2, 9], 40)]
    cycles, ends = run_reader(64, Memory(TIMING, numbered(words, 64), stall), runs)
    assert ends == [(address, address + length - 1) for address, length in runs]
    span = read_cycles(TIMING, runs)
    assert span.least <= cycles
    assert stall or cycles <= span.most


def test_no_run_is_lost_while_many_are_under_way():
    timing = replace(Timing.of(MT41K128M16, 75.0), latency=120, apart=1)
    runs = [(address, 1) for address in range(100)]
    _, ends = run_reader(128, Memory(timing, numbered(100, 128)), runs)
    assert ends == [(address, address) for address in range(100)]


def test_times_of_a_chip_are_rounded_up_to_the_controllers_cycles():
    fast = Timing.of(MT41K128M16, 100.0)
    assert (fast.precharge, fast.activate, fast.row_open, fast.refresh) == (2, 2, 4, 17)
    assert (fast.refresh_every, fast.apart) == (781, 2)
    assert MT41K128M16.word_bits == 128
    assert MT41K128M16.words * 16 == 2**28  # 256 MiB


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="streams 40 items of 16 dimensions with score shift 18; the model has 39"):
        memory_image(extreme_contract(39, 16, 18), BATCH)
    with pytest.raises(ConfigError, match="no item-to-item"):
        memory_image(extreme_contract(ITEMS, 16, 17), BATCH)
    with pytest.raises(ConfigError, match="words of 64 bits or more"):
        Batch(replace(SIZES, lanes=4))
    assert within(np.array([1, 4, 5, 9]), [(2, 3), (9, 1)]).tolist() == [4, 9]
    assert within(np.array([1, 4]), []).tolist() == []
