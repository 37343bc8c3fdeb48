"""An accelerator with external memory in Amaranth's simulator, with a timing-accurate memory model."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from numpy.typing import NDArray

from lanner.accelerators.fpga.batch_cycles import Runs
from lanner.accelerators.fpga.burst_reader import BurstReader
from lanner.accelerators.fpga.ddr3 import Memory
from lanner.accelerators.fpga.protocol import Packet
from lanner.accelerators.fpga.simulate import SimulationError
from lanner.accelerators.fpga.streamed import Batch, Streamed


def run_batches(
    batch: Batch, memory: Memory, packets: Sequence[Packet], *, host: float = 1.0, limit: int = 50_000
) -> tuple[list[NDArray[np.uint32]], list[int]]:
    """The answer to each packet, and its cycles. host: share of cycles in which it offers or takes a word.

    Raises:
        SimulationError: fewer answers within ``limit`` cycles.
    """
    engine, draw = Streamed(batch), np.random.default_rng(1)
    answers, cycles = list[NDArray[np.uint32]](), list[int]()

    async def send(context: Any) -> None:
        for packet in packets:
            for place, word in enumerate(packet):
                while draw.random() >= host:
                    await context.tick()
                context.set(engine.words.payload, {"data": int(word), "last": place == len(packet) - 1})
                context.set(engine.words.valid, 1)
                await context.tick().until(engine.words.ready)
                context.set(engine.words.valid, 0)

    async def take(context: Any) -> None:
        out, answer = engine.answers, list[int]()
        for _ in range(limit):
            ready = draw.random() < host
            context.set(out.ready, ready)
            _, _, valid, word, last = await context.tick().sample(out.valid, out.payload["data"], out.payload["last"])
            if valid and ready:
                answer.append(word)
            if valid and ready and last:
                answers.append(np.array(answer, np.uint32))
                cycles.append(context.get(engine.cycles))
                answer = []
            if len(answers) == len(packets):
                return
        raise SimulationError(f"{len(answers)} of {len(packets)} answers after {limit:,} cycles")

    simulator = Simulator(engine)
    simulator.add_clock(1e-8)
    simulator.add_testbench(partial(memory.serve, port=engine.port), background=True)
    simulator.add_testbench(send, background=True)
    simulator.add_testbench(take)
    simulator.run()
    return answers, cycles


def run_reader(
    word_bits: int, memory: Memory, runs: Runs, *, limit: int = 5_000_000
) -> tuple[int, list[tuple[int, int]]]:
    """Cycles from the first command to the last word of the runs, and the first and last word of each.

    Raises:
        SimulationError: a run's words have the wrong tag, or not all arrive within ``limit`` cycles.
    """
    m, reader, cycle, ends, cycles = Module(), BurstReader(word_bits), Signal(32), list[tuple[int, int]](), 0
    m.submodules.reader = reader
    m.d.sync += cycle.eq(cycle + 1)
    cmd, word = reader.port.cmd, reader.word

    async def ask(context: Any) -> None:
        for number, (address, count) in enumerate(runs):
            context.set(reader.bursts.payload, {"address": address, "count": count, "tag": number})
            context.set(reader.bursts.valid, 1)
            await context.tick().until(reader.bursts.ready)
        context.set(reader.bursts.valid, 0)

    async def take(context: Any) -> None:
        nonlocal cycles
        (begun,) = await context.tick().sample(cycle).until(cmd.valid & cmd.ready)
        for number in range(len(runs)):
            begins = context.tick().sample(word.data, word.tag, word.last, cycle).until(word.valid & word.first)
            first, tag, is_last, now = await begins
            last = first
            if not is_last:
                last, tag, now = await context.tick().sample(word.data, word.tag, cycle).until(word.valid & word.last)
            if tag != number:
                raise SimulationError(f"the words of run {number} came as those of {tag}")
            ends.append((first, last))
            cycles = now - begun

    async def watch(context: Any) -> None:
        await context.delay(limit * 1e-8)
        raise SimulationError(f"{len(ends)} of {len(runs)} runs after {limit:,} cycles")

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(partial(memory.serve, port=reader.port), background=True)
    simulator.add_testbench(ask, background=True)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(take)
    simulator.run()
    return cycles, ends
