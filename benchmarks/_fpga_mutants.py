"""Faults put into the accelerator one at a time: the share that its tests notice.

Each mutant is a replacement in one module, run in a process of its own against the tests of ``tests/accelerators`` in
ascending order of cost, until one fails. A mutant that hangs is seen by its cycles, never by a clock.
"""

import os
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "lanner.accelerators.fpga"
_DESIGN = (
    "lanner.accelerators",
    "benchmarks._fpga_proofs",
    "small_models",
    "test_accelerator_engine",
    "test_sampler",
    "test_top_k",
    "test_streamed",
)
"""Modules that hold the design, or what was made of it."""
LIMIT = 9_000
"""Cycles after which a simulation is taken to hang: twice those of the longest test."""

MUTANTS: list[tuple[str, str, str]] = [
    ("multiplier", "product.eq(a * b)", "product.eq(a * b + 1)"),
    ("multiplier", "self.p.eq(output)]", "self.p.eq(product)]"),
    ("pipeline", "m.d.sync += has_spare.eq(1)", "m.d.sync += has_spare.eq(0)"),
    ("pipeline", "Mux(has_spare, self.spare, word)", "word"),
    ("pipeline", "with m.If(~has_spare):", "with m.If(1):"),
    ("pipeline", "self.i.ready.eq(~has_spare)", "self.i.ready.eq(1)"),
    ("pipeline", "self.o.ready | ~has_head", "self.o.ready"),
    ("pipeline", "self.o.ready | ~self.o.valid), self.i", "self.o.ready), self.i"),
    ("pipeline", "self.o.valid.eq(self.i.valid)", "self.o.valid.eq(1)"),
    ("tables", "writing.en.eq(write & ((place >> log2(BANK_WORDS)) == bank))", "writing.en.eq(1)"),
    ("tables", "with m.If(pushes[number]):", "with m.If(1):"),
    ("tables", "delayed(m, self.write_row, 1,", "delayed(m, self.write_row + 1, 1,"),
    ("tables", 'delayed(m, self.row, 1, "row")', 'delayed(m, self.row, 0, "row")'),
    ("tables", "log2(BANK_WORDS), cycles, name)]", "log2(BANK_WORDS), cycles - 1, name)]"),
    ("tables", 'delayed(m, self.write_item.as_value(), 1, "written")', "self.write_item.as_value()"),
    ("tables", 'delayed(m, self.write_row, 1, "place")\n        write, item = delayed(m, self.write, 1, "write"), '
     'delayed(m, self.write_item.as_value(), 1, "written")',
     'delayed(m, self.write_row, 7, "place")\n        write, item = delayed(m, self.write, 7, "write"), '
     'delayed(m, self.write_item.as_value(), 7, "written")'),
    ("tables", "m.d.sync += self.data[part].eq(", "m.d.comb += self.data[part].eq("),
    ("coefficient", "product.p + (1 << _BITS - 1)", "product.p"),
    ("coefficient", "(1 << _BITS - 1)", "(1 << _BITS - 2)"),
    ("coefficient", ">> _BITS)", ">> _BITS - 1)"),
    ("array", "Mux(of_history[lane], c[lane], user[lane])", "user[lane]"),
    ("array", "Mux(of_history[lane], c[lane], user[lane])", "Mux(of_history[lane], c[lane], user[lane].as_unsigned())"),
    ("array", "one.a.eq(codes[lane])", "one.a.eq(codes[lane - 1])"),
    ("aggregate", "[sums[element].eq(0) for element in column]",
     "[sums[element].eq(0) for element in column if element]"),
    ("aggregate", "sums[lane] + self.products[lane]", "sums[column[-1]] + self.products[lane]"),
    ("aggregate", "following = [*sums[step:], *sums[-step:]]", "following = [*sums[1:], sums[-1]]"),
    ("aggregate", "with m.If(clear[lane]):", "with m.If(0):"),
    ("aggregate", "self.add | self.shift", "self.add"),
    ("aggregate", "self.add | self.shift", "self.shift"),
    ("aggregate", "Mux(add[lane], after, following[element])", "after"),
    ("requantise", "(Const(1, len(half)) << self.shift) >> 1", "Const(1, len(half)) << self.shift"),
    ("requantise", "m.d.sync += half.eq((Const(1, len(half)) << self.shift) >> 1)", "m.d.sync += half.eq(0)"),
    ("requantise", "total >> (self.shift[3:] << 3)", "total >> (self.shift[3:5] << 3)"),
    ("requantise", "by_bytes >> self.shift[:3]", "by_bytes >> self.shift[:2]"),
    ("requantise", "Mux(above, largest,", "Mux(above, largest - 1,"),
    ("requantise", "shifted < -largest", "shifted < -largest - 1"),
    ("requantise", "Mux(below, -largest, within)", "within"),
    ("requantise", "self.value[_HALF:].as_signed()", "self.value[_HALF:]"),
    ("requantise", "self.high_product << _HALF", "self.high_product << _HALF - 1"),
    ("dot_product", "Mux(first, 0, self.dot)", "self.dot"),
    ("dot_product", "Mux(first, 0, self.dot)", "0"),
    ("dot_product", "first.eq(last)", "first.eq(0)"),
    ("dot_product", "signed(PRODUCT_BITS + depth)", "signed(PRODUCT_BITS + depth - 2)"),
    ("score", "+ (1 << shift >> 1)", ""),
    ("score", "product >> shift", "product >> shift + 1"),
    ("score", "(product >> shift) + bias", "(product >> shift)"),
    ("score", "Mux(above, LARGEST,", "Mux(above, LARGEST - 1,"),
    ("score", "Mux(below, -LARGEST,", "Mux(below, -LARGEST - 1,"),
    ("score", "multiplier.LATENCY + 1, \"bias\"", "multiplier.LATENCY, \"bias\""),
    ("score", "self.dot[_LOW:].as_signed()", "self.dot[_LOW:]"),
    ("top_k", "_unsigned(entry.score) > _unsigned(other.score)", "_unsigned(entry.score) >= _unsigned(other.score)"),
    ("top_k", "score.as_unsigned() ^ (1 << SCORE_BITS - 1)", "score.as_unsigned()"),
    ("top_k", "valid & (displaced | beats)", "valid & beats"),
    ("top_k", "valid & (displaced | beats)", "displaced | beats"),
    ("top_k", "Mux(takes, _beats(entry, passing.entry), _beats(entry, place))", "_beats(entry, place)"),
    ("top_k", "Mux(takes, _beats(entry, passing.entry), _beats(entry, place))", "_beats(entry, passing.entry)"),
    ("top_k", "Mux(displaced, self.places[number - 1], entry)", "entry"),
    ("top_k", "Mux(displaced, self.places[number - 1], entry)", "self.places[number - 1]"),
    ("top_k", "with m.If(self.clearing[number]):", "with m.If(0):"),
    ("top_k", "len(self.places) else Const(_EMPTY, PLACE)", "len(self.places) else place"),
    ("top_k", "self.popping[number].eq(self.pop)", "self.popping[number].eq(0)"),
    ("top_k", "self.places[number + 1] if", "place if"),
    ("registers", "(bus.dat_w != 0) & (bus.dat_w <= sizes.items)", "Const(1)"),
    ("registers", "with m.If(self.busy):", "with m.If(0):"),
    ("registers", "(status & ~cleared) | self.raised | refused", "status | self.raised | refused"),
    ("registers", "(status & ~cleared) | self.raised | refused", "(status & ~cleared) | self.raised"),
    ("registers", "bus.cyc & bus.stb & ~bus.ack)", "bus.cyc & bus.stb)"),
    ("engine", "Mux(known, weight, 0)", "weight"),
    ("engine", 'delayed(m, self.known, 1, "known")', "self.known"),
    ("engine", "Mux(self.known, self.weight, 0)", "self.weight"),
    ("engine", "Choice(user[lane :: sizes.lanes])[chosen]", "user[lane]"),
    ("engine", 'delayed(m, beat, ROW_LATENCY - 1, "array_beat")', 'delayed(m, beat, ROW_LATENCY, "array_beat")'),
    ("engine", "late.row + Mux(self.scoring, base, 0)", "late.row + base"),
    ("engine", "late.row + Mux(self.scoring, base, 0)", "late.row"),
    ("engine", "AGGREGATE_CYCLES - 2)", "AGGREGATE_CYCLES - 3)"),
    ("engine", "self.left.eq(USER_CYCLES)", "self.left.eq(USER_CYCLES + 1)"),
    ("engine", "cycles_to_place(self.parameters) - 3)", "cycles_to_place(self.parameters) - 5)"),
    ("engine", "of_item & scored.last_beat & ~scored.skipped", "of_item & scored.last_beat"),
    ("engine", "of_item & scored.last_beat & ~scored.skipped", "of_item & ~scored.skipped"),
    ("engine", "waits.eq(self.has_seen & ~self.source.valid)", "waits.eq(0)"),
    ("engine", "self.has_seen & self.source.valid & is_past", "Const(0)"),
    ("engine", "seen.eq(self.has_seen & is_item)", "seen.eq(is_item)"),
    ("engine", "Mux(advances, compare(row, self.next_item), compare(row, self.item))", "compare(row, self.item)"),
    ("engine", "Mux(self.ahead.moves, moves, stays)", "stays"),
    ("engine", "Mux(self.ahead.moves, moves, stays)", "moves"),
    ("engine", "self.next_item + 1 == self.items", "self.next_item == self.items"),
    ("engine", "self.closes.eq(self.listed == 1)", "self.closes.eq(self.listed == 2)"),
    ("engine", "Mux(best.score == -(2**31), Const(2**32 - 1, 32), best.row)", "best.row"),
    ("engine", "m.d.sync += [self.verdict.eq(0), ", "m.d.sync += ["),
    ("engine", "m.d.sync += self.k.eq(too_many)", "pass"),
    ("engine", "self.top_k.pop.eq(self.loads)", "self.top_k.pop.eq(0)"),
    ("engine", "self.best_score.eq(best.score)", "self.best_score.eq(self.best_score)"),
    ("engine", "Mux(self.is_row, self.best_row, self.best_score)", "self.best_row"),
    ("engine", "Mux(self.closes, self.verdict, row)", "Mux(self.closes, 0, row)"),
    ("engine", "is_row.eq(~is_row)", "is_row.eq(1)"),
    ("engine", "cycles.eq(Mux(busy, cycles + 1, 1))", "cycles.eq(Mux(busy, cycles + 1, 0))"),
    ("engine", "before_products & ~self.scoring", "before_products"),
    ("engine", "full & in_range)", "full)"),
    ("engine", "self.is_second & in_range)", "self.is_second)"),
    ("engine", "self.item_table.row.eq(Mux(self.scoring, read.row, self.issued.row))",
     "self.item_table.row.eq(self.issued.row)"),
    ("sparse_sums", "Mux(added, reading.data + product.p, 0)", "reading.data + product.p"),
    ("sparse_sums", "write.eq(added | takes)", "write.eq(added)"),
    ("sparse_sums", "coefficient.LATENCY, \"code\"", "coefficient.LATENCY - 1, \"code\""),
    ("sparse_sums", "multiplier.LATENCY - 1", "multiplier.LATENCY"),
    ("engine", "score.EXTRA_AFTER - requantise.LATENCY", "score.EXTRA_AFTER - 1 - requantise.LATENCY"),
    ("engine", "& self.scoring & taken.last_beat", "& self.scoring"),
    ("sampler", "draw.listed | again", "draw.listed"),
    ("sampler", "~draw.begins & (alike & held).any()", "(alike & held).any()"),
    ("sampler", "Mux(draw.begins, 0, held[:-1])", "held[:-1]"),
    ("sampler", "bound.eq(highest + 1)", "bound.eq(highest)"),
    ("sampler", "(13, -17, 5)", "(13, -17, 6)"),
    ("sampler", "with m.If(~draw.listed):", "with m.If(1):"),
    ("sampler", "self.neighbours.ready | ~self.neighbours.valid", "self.neighbours.ready"),
    ("sampler", "active.eq(count != 0)", "active.eq(1)"),
    ("burst_reader", "left.eq(left - 1)]", "left.eq(left - 2)]"),
    ("burst_reader", "((left == 1) & cmd.ready)", "(left == 1)"),
    ("burst_reader", "due.w_rdy & (", "("),
    ("burst_reader", "self.word.first.eq(arrived == 0)", "self.word.first.eq(1)"),
    ("burst_reader", "Mux(last, 0, arrived + 1)", "arrived + 1"),
    ("burst_reader", "rdata.valid & last)", "rdata.valid)"),
    ("burst_reader", "(left == 0) & ~due.r_rdy", "left == 0"),
    ("burst_reader", "cmd.payload.eq(cmd.payload + 1)", "cmd.payload.eq(cmd.payload)"),
    ("streamed", "place - self.scoring", "place"),
    ("streamed", "Mux(word.first, word.tag, row)", "word.tag"),
    ("streamed", "row.eq(here + 1)", "row.eq(here)"),
    ("streamed", "word.data[16:48]", "word.data[16:40]"),
    ("streamed", "met.eq(met + here)", "met.eq(met + 1)"),
    ("streamed", "(met != count) & ", ""),
    ("streamed", "best.valid.eq(ends & ~skipped)", "best.valid.eq(ends)"),
    ("streamed", "self.begins | self.emptied", "self.begins"),
    ("streamed", "self.begins | self.emptied", "self.emptied"),
    ("streamed", "best.clear.eq(self.begins)", "best.clear.eq(0)"),
    ("streamed", "writing.en.eq(1 << element[:lane_bits])", "writing.en.eq(-1)"),
    ("streamed", "first * record", "first * (record + 1)"),
    ("streamed", "self.word > sizes.items - first", "self.word > sizes.items"),
    ("streamed", "with m.If(self.reader.idle):", "with m.If(1):"),
    ("streamed", "self.left.eq(array.LATENCY + 1 - aggregate.LATENCY)", "self.left.eq(0)"),
    ("streamed", "self.left.eq(to_place(sizes))", "self.left.eq(0)"),
    ("streamed", "self.left.eq(aggregate.LATENCY + requantise.LATENCY)", "self.left.eq(0)"),
    ("streamed", "(self.word[:16] > MAX_HISTORY) | ", ""),
    ("streamed", "listed == self.batch.sizes.k - 1", "listed == self.batch.sizes.k"),
    ("streamed", "self.is_last_code & self.scoring", "self.is_last_code"),
    ("streamed", "products.scoring.eq(self.scoring if user == 0 else 1)", "products.scoring.eq(1)"),
    ("streamed", "(row >= sizes.items)", "(row > sizes.items)"),
]  # fmt: skip


EQUIVALENT = {
    (
        "array",
        "Mux(of_history[lane], c[lane], user[lane].as_unsigned())",
    ): "the multiplier takes the same 16 bits as signed",
    ("array", "one.a.eq(codes[lane - 1])"): "history and catalogue are permuted alike",
    ("engine", "before_products"): "the sums were read, and are cleared before the next",
    ("top_k", "len(self.places) else place"): "a list is never longer than the places",
    ("score", "self.dot[_LOW:]"): "the multiplier takes the same bits as signed",
}
"""Mutants that change no answer and no cycle, and why."""
PROVEN = {
    "requantise": "requantiser rounds and clamps, every shift",
    "score": "score rounds, adds the bias and clamps",
}
"""What else is held against mutants of a module, where all tests pass: a proof."""


def source_of(module: str) -> str:
    """The module as it is."""
    return (ROOT / "src" / "lanner" / "accelerators" / "fpga" / f"{module}.py").read_text()


def _tests(module: str) -> list[Callable[[], Any]]:
    """Those that concern a module, cheapest first."""
    import test_accelerator_engine as test_engine
    import test_sampler
    import test_streamed
    import test_top_k

    if module in ("burst_reader", "streamed"):
        return [
            partial(test_streamed.test_runs_come_whole_and_in_order, 0.3),
            test_streamed.test_no_run_is_lost_while_many_are_under_way,
            partial(test_streamed.test_corners_are_exact_whatever_the_memory_and_the_host_do, 0.0, 1.0),
            test_streamed.test_answers_are_the_contracts_and_cycles_lie_where_the_model_says,
            test_streamed.test_a_bad_batch_is_told_and_the_next_is_answered,
            partial(test_streamed.test_corners_are_exact_whatever_the_memory_and_the_host_do, 0.5, 0.4),
            test_streamed.test_without_memory_the_model_is_exact,
        ]
    if module == "sampler":
        return [partial(test_sampler.test_the_hardware_draws_what_the_oracle_draws, taken) for taken in (1.0, 0.3)] + [
            test_sampler.test_a_neighbour_is_offered_before_anybody_is_ready
        ]
    return [
        *([lambda: test_engine.test_item_to_item_rows_add_to_the_scores({})] if module == "sparse_sums" else []),
        *(
            [partial(test_top_k.test_ties_are_won_by_the_lower_row_however_close_candidates_come, 1.0)]
            if module == "top_k"
            else []
        ),
        test_engine.test_vectors_shorter_than_the_accelerators_are_padded,
        test_engine.test_registers_hold_what_was_written_and_refuse_the_rest,
        lambda: test_engine.test_answers_and_cycles_are_those_of_the_contract(test_engine.SIZES),
        lambda: test_engine.test_answers_and_cycles_are_those_of_the_contract(test_engine.ONE_BEAT),
        lambda: test_engine.test_a_slow_host_changes_no_answer(0.5, 0.5),
        lambda: test_engine.test_a_slow_host_changes_no_answer(0.1, 1.0),
        test_engine.test_rows_of_several_words_may_come_slowly,
        test_engine.test_a_buffered_word_is_offered_before_anybody_is_ready,
        lambda: test_engine.test_tables_of_several_banks_are_exact(test_engine.SIZES),
        lambda: test_engine.test_nothing_depends_on_reads_while_tables_are_written(test_engine.SIZES),
        test_engine.test_a_bad_packet_is_told_and_the_next_is_answered,
        lambda: test_engine.test_every_shift_and_corner_is_exact(test_engine.SIZES),
        lambda: test_engine.test_every_shift_and_corner_is_exact(test_engine.ONE_BEAT),
        test_engine.test_a_history_longer_than_is_proven_is_told,
        lambda: test_engine.test_item_to_item_rows_add_to_the_scores({}),
        test_engine.test_item_to_item_rows_that_end_early_are_told,
        test_engine.test_the_item_to_item_row_of_a_row_outside_counts_nothing,
    ]


def is_killed(module: str, old: str, new: str) -> bool:
    """Whether a test notices; in a process of its own, which imports the design anew."""
    source = source_of(module)
    if old not in source:
        raise ValueError(f"{module}: no such text to mutate: {old}")
    child = os.fork()
    if not child:
        os._exit(_survives(module, source.replace(old, new)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _survives(module: str, source: str) -> int:
    """0: all tests pass."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)
    try:
        for name in [one for one in sys.modules if one.startswith(_DESIGN)]:
            del sys.modules[name]  # else the mutant would not be used by what was imported before it
        mutated = types.ModuleType(f"{PACKAGE}.{module}")
        sys.modules[mutated.__name__] = mutated
        exec(compile(source, module, "exec"), mutated.__dict__)
        from lanner.accelerators.fpga import simulate_streamed
        from lanner.accelerators.fpga.simulate import SimulatedEngine

        for simulated in (SimulatedEngine.run, simulate_streamed.run_batches, simulate_streamed.run_reader):
            simulated.__kwdefaults__["limit"] = LIMIT
        for test in _tests(module):
            test()
        if module in PROVEN:
            from benchmarks._fpga_proofs import prove

            with tempfile.TemporaryDirectory() as folder:
                assert prove(PROVEN[module], Path(folder))["holds"]
    except BaseException:  # whatever a mutant does: it was noticed
        return 1
    return 0


def run_mutants(mutants: list[tuple[str, str, str]] = MUTANTS) -> dict[str, Any]:
    """Counts, and the survivors; raises ``RuntimeError`` where the design itself does not pass."""
    import amaranth.sim  # noqa: F401 - imported once, for all children
    import scipy.stats  # noqa: F401

    sys.path.insert(0, str(ROOT / "tests" / "accelerators"))
    import small_models  # noqa: F401

    for module in ("engine", "sampler", "streamed"):
        if is_killed(module, source_of(module), source_of(module)):
            raise RuntimeError(f"the tests fail without a mutation: {module}")
    begun, survivors = time.perf_counter(), []
    for module, old, new in mutants:
        killed = is_killed(module, old, new)
        print(f"  {'killed  ' if killed else 'SURVIVED'} {module}: {old} → {new}", flush=True)
        survivors += [] if killed else [(module, old, new)]
    count = len(mutants)
    explained = [EQUIVALENT.get((module, new), "") for module, _, new in survivors]
    return {
        "mutants": count,
        "killed": count - len(survivors),
        "killed_share": 1 - len(survivors) / count,
        "survivors": [
            {"module": module, "fault": f"{old} → {new}", "explained": why or None}
            for (module, old, new), why in zip(survivors, explained, strict=True)
        ],
        "seconds": time.perf_counter() - begun,
    }


if __name__ == "__main__":
    print(run_mutants([one for one in MUTANTS if not sys.argv[1:] or one[0] in sys.argv[1:]]))
