"""The neighbour sampler: the oracle's draws at any pace, and the oracle's statistics."""

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.stats import chi2

from lanner.accelerators import sampling
from lanner.accelerators.sampling import MAX_FANOUT, next_state, sample

LARGEST_DEGREE = 2314
"""Of a user of ml-1m."""


def frequencies_p(degree: int, fanout: int, nodes: int) -> float:
    """p of the places' frequencies under equal chances; drawing without replacement spreads them less."""
    counts, state = np.zeros(degree), 2463534242
    for _ in range(nodes):
        places, state = sample(state, degree, fanout)
        assert len(set(places)) == fanout
        counts[places] += 1
    expected = nodes * fanout / degree
    statistic = ((counts - expected) ** 2).sum() / (expected * (1 - fanout / degree)) * (degree - 1) / degree
    return float(chi2.sf(statistic, degree - 1))


@pytest.mark.parametrize(("degree", "fanout"), [(17, 16), (50, 10), (LARGEST_DEGREE, 10)])
def test_every_neighbour_is_equally_likely(degree, fanout):
    assert 0.01 < frequencies_p(degree, fanout, 4000) < 0.999


def test_every_subset_is_equally_likely_given_ideal_draws(monkeypatch):
    """All draws of three from six, enumerated: each of the 20 subsets comes equally often."""
    found: dict[tuple[int, ...], int] = {}
    for draws in product(range(4), range(5), range(6)):
        words = iter(-(-draw * 2**32 // bound) for draw, bound in zip(draws, (4, 5, 6), strict=True))
        monkeypatch.setattr(sampling, "next_state", lambda _, words=words: next(words))
        subset = tuple(sorted(sample(1, 6, 3)[0]))
        found[subset] = found.get(subset, 0) + 1
    assert len(found) == comb(6, 3)
    assert set(found.values()) == {4 * 5 * 6 // comb(6, 3)}


@pytest.mark.parametrize("taken", [1.0, 0.3])
def test_the_hardware_draws_what_the_oracle_draws(taken):
    pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")
    from lanner.accelerators.fpga.simulate_sampler import run_sampler

    random = np.random.default_rng(2)
    nodes = [(0, 0, 3, 77), (10, 3, 5, 0), (5, 2**20 - 1, MAX_FANOUT, 123456789), (2**31, 17, 16, 0), (7, 1, 1, 0)]
    nodes += [(20, 9, 0, 0), (30, 9, 0, 31), (2**20, 40, 17, 0), (40, 31, 31, 8)]  # no fan-out, and more than there is
    nodes += [(int(random.integers(2**20)), int(random.integers(1, 40)), 8, int(seed)) for seed in (0, 9, 0, 0, 5) * 3]
    found, cycles = run_sampler(nodes, taken)
    wanted, state = [], 1
    for first, degree, fanout, seed in nodes:
        places, state = sample(seed or state, degree, fanout)
        assert len(set(places)) == len(places)
        wanted += [(first + place, place == places[-1]) for place in places]
    assert found == wanted
    if taken == 1.0:
        assert cycles <= 2 * len(found)


def test_a_neighbour_is_offered_before_anybody_is_ready():
    pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")
    from amaranth.sim import Simulator

    from lanner.accelerators.fpga.sampler import Sampler

    sampler, offered = Sampler(), []

    async def script(context):
        context.set(sampler.nodes.payload, {"first": 9, "degree": 3, "fanout": 3, "seed": 1})
        context.set(sampler.nodes.valid, 1)
        await context.tick().repeat(9)
        offered.append((context.get(sampler.neighbours.valid), context.get(sampler.neighbours.payload.address)))

    simulator = Simulator(sampler)
    simulator.add_clock(1e-8)
    simulator.add_testbench(script)
    simulator.run()
    assert offered == [(1, 9)]


def test_the_generator_has_its_full_period():
    """As a matrix over GF(2): M^(2^32 − 1) is the identity, and no smaller power of its prime factors is."""
    columns = [next_state(1 << bit) for bit in range(32)]

    def applied(matrix, vector):
        found = 0
        for bit in range(32):
            if vector >> bit & 1:
                found ^= matrix[bit]
        return found

    def power(exponent):
        result, base = [1 << bit for bit in range(32)], columns
        while exponent:
            if exponent & 1:
                result = [applied(base, column) for column in result]
            base = [applied(base, column) for column in base]
            exponent >>= 1
        return result

    identity, period = [1 << bit for bit in range(32)], 2**32 - 1
    assert power(period) == identity
    assert all(power(period // prime) != identity for prime in (3, 5, 17, 257, 65537))
