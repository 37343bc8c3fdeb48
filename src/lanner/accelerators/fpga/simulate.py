"""An engine in Amaranth's own simulator: exact to the cycle, thousands of cycles a second."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from lanner.accelerators.fpga.engine import Engine
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import Packet, Register


class SimulationError(AssertionError):
    """The engine did not finish in time, or violated the stream protocol."""


class SimulatedEngine:
    """Runs an engine on scripts of packets and register accesses."""

    def __init__(self, parameters: Parameters) -> None:
        self._engine = Engine(parameters)

    def run(
        self,
        packets: Sequence[Packet],
        registers: Mapping[Register, int],
        answers: int,
        *,
        offered: float = 1.0,
        taken: float = 1.0,
        seed: int = 0,
        limit: int = 20_000,
    ) -> tuple[list[NDArray[np.uint32]], list[int]]:
        """The first ``answers`` answers, and the register CYCLES after each.

        registers: written first. offered, taken: share of cycles in which the host offers a word, or takes one.

        Raises:
            SimulationError: fewer answers within ``limit`` cycles, or an offered word that changed before it was taken.
        """
        host = _Host(self._engine, np.random.default_rng(seed), offered, taken)
        simulator = Simulator(self._engine)
        simulator.add_clock(1e-8)
        simulator.add_testbench(partial(host.send, packets=packets, registers=registers), background=True)
        simulator.add_testbench(partial(host.take, number=answers, limit=limit))
        simulator.run()
        return host.answers, host.cycles


class _Host:
    """Both ends of an engine's streams."""

    def __init__(self, engine: Engine, draw: np.random.Generator, offered: float, taken: float) -> None:
        self._engine, self._draw, self._offered, self._taken = engine, draw, offered, taken
        self.answers: list[NDArray[np.uint32]] = []
        self.cycles: list[int] = []

    async def send(self, context: Any, packets: Sequence[Packet], registers: Mapping[Register, int]) -> None:
        words = self._engine.words
        for register, value in registers.items():
            await _write(context, self._engine.bus, register, value)
        for packet in packets:
            for place, word in enumerate(packet):
                while self._draw.random() >= self._offered:
                    await context.tick()
                context.set(words.payload, {"data": int(word), "last": place == len(packet) - 1})
                context.set(words.valid, 1)
                await context.tick().until(words.ready)
                context.set(words.valid, 0)

    async def take(self, context: Any, number: int, limit: int) -> None:
        out, answer = self._engine.answers, list[int]()
        held: tuple[int, int] | None = None
        for _ in range(limit):
            ready = self._draw.random() < self._taken
            context.set(out.ready, ready)
            _, _, valid, *word = await context.tick().sample(out.valid, out.payload["data"], out.payload["last"])
            if held is not None and (not valid or held != tuple(word)):
                raise SimulationError(f"an offered word changed from {held} to {tuple(word)}")
            held = tuple(word) if valid and not ready else None
            if valid and ready:
                answer.append(word[0])
            if valid and ready and word[1]:
                self.answers.append(np.array(answer, np.uint32))
                answer = []
                self.cycles.append(context.get(self._engine.registers.cycles))
            if len(self.answers) == number:
                return
        raise SimulationError(f"{len(self.answers)} of {number} answers after {limit:,} cycles")


async def _write(context: Any, bus: Any, register: Register, value: int) -> None:
    for line, level in ((bus.adr, int(register)), (bus.dat_w, value), (bus.we, 1), (bus.cyc, 1), (bus.stb, 1)):
        context.set(line, level)
    await context.tick().until(bus.ack)
    for line in (bus.we, bus.cyc, bus.stb):
        context.set(line, 0)
