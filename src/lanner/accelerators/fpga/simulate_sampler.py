"""The neighbour sampler in Amaranth's simulator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from lanner.accelerators.fpga.sampler import Sampler
from lanner.accelerators.fpga.simulate import SimulationError
from lanner.accelerators.sampling import MAX_FANOUT


def run_sampler(nodes: Sequence[tuple[int, int, int, int]], taken: float = 1.0) -> tuple[list[tuple[int, bool]], int]:
    """Addresses of the neighbours, each with whether it is its node's last, and the cycles that passed.

    nodes: first address, degree, fanout and seed of each. taken: share of cycles in which a neighbour is taken.

    Raises:
        SimulationError: not all neighbours come.
    """
    sampler, draw = Sampler(), np.random.default_rng(0)
    found, cycles = list[tuple[int, bool]](), 0
    wanted = sum(min(degree, fanout, MAX_FANOUT) for _, degree, fanout, _ in nodes)

    async def send(context: Any) -> None:
        for first, degree, fanout, seed in nodes:
            context.set(sampler.nodes.payload, {"first": first, "degree": degree, "fanout": fanout, "seed": seed})
            context.set(sampler.nodes.valid, 1)
            await context.tick().until(sampler.nodes.ready)
            context.set(sampler.nodes.valid, 0)

    async def take(context: Any) -> None:
        nonlocal cycles
        out = sampler.neighbours
        while len(found) < wanted:
            ready = draw.random() < taken
            context.set(out.ready, ready)
            _, _, valid, address, last = await context.tick().sample(out.valid, out.payload.address, out.payload.last)
            cycles += 1
            if cycles > 50 * wanted + 50:
                raise SimulationError(f"{len(found)} of {wanted} neighbours after {cycles:,} cycles")
            if valid and ready:
                found.append((address, bool(last)))

    simulator = Simulator(sampler)
    simulator.add_clock(1e-8)
    simulator.add_testbench(send, background=True)
    simulator.add_testbench(take)
    simulator.run()
    return found, cycles
