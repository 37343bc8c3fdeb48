"""The top-k list alone: many ties, candidates with and without gaps between them."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")

from amaranth.sim import Simulator

from lanner.accelerators.fpga.top_k import TopK, latency

K, CANDIDATES = 4, 7


@pytest.mark.parametrize("offered", [1.0, 0.5])
def test_ties_are_won_by_the_lower_row_however_close_candidates_come(offered):
    draw = np.random.default_rng(0)
    for _ in range(40):
        scores = draw.integers(-1, 3, CANDIDATES)
        wanted = sorted(range(CANDIDATES), key=lambda row: (-scores[row], row))[:K]
        assert listed(scores, draw.random(CANDIDATES) < offered) == [(int(scores[row]), row) for row in wanted]


def listed(scores, follows_at_once) -> list[tuple[int, int]]:
    top, found = TopK(K), []

    async def script(context):
        for row, (score, at_once) in enumerate(zip(scores, follows_at_once, strict=True)):
            if not at_once:
                await context.tick()
            context.set(top.candidate, {"score": int(score), "row": row})
            context.set(top.valid, 1)
            await context.tick()
            context.set(top.valid, 0)
        await context.tick().repeat(latency(K))
        context.set(top.pop, 1)
        await context.tick()
        for _ in range(K):
            found.append((context.get(top.best.score), context.get(top.best.row)))
            await context.tick()

    simulator = Simulator(top)
    simulator.add_clock(1e-8)
    simulator.add_testbench(script)
    simulator.run()
    return found
