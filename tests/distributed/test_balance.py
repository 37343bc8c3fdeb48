"""Partitions are optimal, and layers move only when it pays."""

from itertools import combinations

import numpy as np
import pytest

from lanner.distributed.balance import Balancer, measured_costs, partition, shares, slowest_stage
from lanner.errors import ConfigError

EQUAL = [1.0] * 12


@pytest.mark.parametrize("seed", range(5))
def test_no_other_partition_is_quicker(seed):
    random = np.random.default_rng(seed)
    costs, slowness = random.random(9), random.random(4) + 0.5
    others = [(0, *cuts, 9) for cuts in combinations(range(1, 9), 3)]
    best = min(slowest_stage(bounds, costs, slowness) for bounds in others)
    assert slowest_stage(partition(costs, slowness), costs, slowness) == pytest.approx(best)


def test_memory_is_a_limit():
    memory = [[1.0] * 6] * 2
    assert partition([1.0] * 6, [1.0, 1.0], memory, [2.0, 9.0]) == (0, 2, 6)
    assert partition([1.0] * 6, [1.0, 1.0], [[2.0] * 6, [1.0] * 6], [2.0, 9.0]) == (0, 1, 6)
    with pytest.raises(ConfigError, match="fits into the devices' memory"):
        partition([1.0] * 6, [1.0, 1.0], memory, [2.0, 3.0])


def test_more_stages_than_layers_are_refused():
    with pytest.raises(ConfigError, match="3 stages, but the model has 2 layers"):
        partition([1.0, 1.0], [1.0] * 3)


def test_slower_replicas_get_fewer_micro_batches():
    assert shares(8, [1.0, 3.0]) == (6, 2)
    assert shares(3, [1.0, 100.0, 1.0]) == (1, 1, 1)
    assert shares(16, [1.0, 9.0], least=4) == (12, 4)
    assert shares(18, [1.0, 2.0], least=2, step=2) == (12, 6)
    with pytest.raises(ConfigError, match="1 micro-batches cannot be shared by 2"):
        shares(1, [1.0, 1.0])


def test_layers_move_when_the_gain_pays_for_it():
    balancer = Balancer(every=4)
    even = (0, 3, 6, 9, 12)
    assert balancer.look(4, even, EQUAL, [1.0, 1.03, 1.0, 1.0], 1.0, 0.0) == even
    moved = balancer.look(8, even, EQUAL, [1.0, 3.0, 1.0, 1.0], 2.0, 0.0)
    assert np.diff(moved).tolist() in ([4, 1, 4, 3], [4, 1, 3, 4], [3, 1, 4, 4])
    assert Balancer().look(8, even, EQUAL, [1.0, 3.0, 1.0, 1.0], 2.0, 1000.0) == even


def test_a_move_that_does_not_help_is_taken_back():
    balancer = Balancer(every=4)
    even, slow = (0, 3, 6, 9, 12), [1.0, 3.0, 1.0, 1.0]
    moved = balancer.look(4, even, EQUAL, slow, 2.0, 0.0)
    assert balancer.look(8, moved, EQUAL, slow, 2.0, 0.0) == even
    assert balancer.look(12, even, EQUAL, slow, 2.0, 0.0) == even, "it waits before it tries again"
    kept = Balancer(every=4)
    moved = kept.look(4, even, EQUAL, slow, 2.0, 0.0)
    assert kept.look(8, moved, EQUAL, slow, 1.2, 0.0) == moved


def test_micro_batches_go_to_faster_replicas_and_come_back_if_that_does_not_help():
    balancer = Balancer(every=4)
    assert balancer.look_at_shares(4, (4, 4), [1.0, 1.2], 5.0) == (4, 4), "5 × 1.0 is no gain over 4 × 1.2"
    assert balancer.look_at_shares(8, (4, 4), [1.0, 3.0], 12.0) == (6, 2)
    assert balancer.is_trying
    assert balancer.look_at_shares(12, (6, 2), [1.0, 3.0], 12.0) == (4, 4)
    assert not balancer.is_trying
    assert balancer.look_at_shares(16, (4, 4), [1.0, 3.0], 12.0) == (4, 4), "it waits before it tries again"
    kept = Balancer(every=4)
    kept.look_at_shares(4, (4, 4), [1.0, 3.0], 12.0)
    assert kept.look_at_shares(8, (6, 2), [1.0, 3.0], 7.0) == (6, 2)
    assert kept.moves == [(4, (6, 2))]
    assert Balancer().look_at_shares(4, (8, 8), [1.0, 9.0], 9.0, least=4, each=4) == (12, 4)


def test_a_layer_that_costs_more_than_expected_is_not_a_slow_device():
    """Two frozen layers, four trained ones, and embeddings that count towards the first layer."""
    expected, bounds = [1 / 3, 1 / 3, 1.0, 1.0, 1.0, 1.0], (0, 3, 6)
    seconds = [0.5, 0.1, 0.3, 0.6, 0.6, 0.6]
    costs, slowness = measured_costs(seconds, expected, bounds)
    assert slowness == pytest.approx([0.3, 0.6])
    assert costs == pytest.approx([5 / 3, 1 / 3, 1, 1, 1, 1])
    assert partition(costs, slowness) == (0, 4, 6)
    assert partition(*measured_costs([0.1, 0.1, 0.3, 0.3, 0.3, 0.3], expected, bounds)) == (0, 4, 6)
    assert partition(*measured_costs([0.3] * 6, [1.0] * 6, bounds)) == bounds
