"""An engine in Amaranth's own simulator: exact to the cycle, thousands of cycles a second."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from lanner.accelerators.fpga.engine import Engine
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import Packet, Register


class SimulationError(AssertionError):
    """The engine did not finish in time, or broke the rules of its streams."""


class SimulatedEngine:
    """One engine that is sent packets and register accesses, a script at a time.

    offered, taken: share of cycles in which the host offers a word, or takes one.
    """

    def __init__(self, parameters: Parameters, *, engine: Any = None) -> None:
        self.parameters = parameters
        self._engine = Engine(parameters) if engine is None else engine

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
        last: Sequence[bool] | None = None,
    ) -> tuple[list[NDArray[np.uint32]], list[int]]:
        """The first so many answers, and after each the register CYCLES.

        registers: written first. last: whether each packet's last word is marked; default: all.

        Raises:
            SimulationError: fewer answers within ``limit`` cycles, or an offered word that changed before it was taken.
        """
        words = [
            (int(word), place == len(packet) - 1 and (last is None or last[number]))
            for number, packet in enumerate(packets)
            for place, word in enumerate(packet)
        ]
        engine, draw = self._engine, np.random.default_rng(seed)
        found: list[NDArray[np.uint32]] = []
        cycles: list[int] = []

        async def send(context: Any) -> None:
            for register, value in registers.items():
                await _write(context, engine.bus, register, value)
            for word, is_last in words:
                while draw.random() >= offered:
                    await context.tick()
                context.set(engine.words.payload, {"data": word, "last": is_last})
                context.set(engine.words.valid, 1)
                await context.tick().until(engine.words.ready)
                context.set(engine.words.valid, 0)

        async def take(context: Any) -> None:
            answer: list[int] = []
            held: tuple[int, int] | None = None
            for _ in range(limit):
                ready = draw.random() < taken
                context.set(engine.answers.ready, ready)
                out = engine.answers
                _, _, valid, word, is_last = await context.tick().sample(
                    out.valid, out.payload["data"], out.payload["last"]
                )
                if held is not None and (not valid or held != (word, is_last)):
                    raise SimulationError(f"an offered word changed from {held} to {(word, is_last)}")
                held = (word, is_last) if valid and not ready else None
                if valid and ready:
                    answer.append(word)
                if valid and ready and is_last:
                    found.append(np.array(answer, np.uint32))
                    answer = []
                    cycles.append(context.get(engine.registers.cycles))
                if len(found) == answers:
                    return
            raise SimulationError(f"{len(found)} of {answers} answers after {limit:,} cycles")

        simulator = Simulator(engine)
        simulator.add_clock(1e-8)
        simulator.add_testbench(send, background=True)
        simulator.add_testbench(take)
        simulator.run()
        return found, cycles


async def _write(context: Any, bus: Any, register: Register, value: int) -> None:
    for line, level in ((bus.adr, int(register)), (bus.dat_w, value), (bus.we, 1), (bus.cyc, 1), (bus.stb, 1)):
        context.set(line, level)
    await context.tick().until(bus.ack)
    for line in (bus.we, bus.cyc, bus.stb):
        context.set(line, 0)
