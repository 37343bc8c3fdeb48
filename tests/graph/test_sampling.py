import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from lanner.graph.adjacency import Adjacency, distinct_edges
from lanner.graph.propagation import propagate
from lanner.graph.sampling import Block, sample_neighbours


@pytest.fixture
def users_items() -> Adjacency:
    draw = np.random.default_rng(3)
    return distinct_edges((50 * draw.random(900) ** 2).astype(int), draw.integers(0, 40, 900), (52, 40))


def edges_of(block: Block) -> set[tuple[int, int]]:
    rows, columns = block.rows[block.adjacency.row_of_edge], block.columns[block.adjacency.indices]
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def test_a_wide_enough_sample_is_the_whole_neighbourhood(users_items):
    seeds = np.array([3, 51, 0, 17])
    first, second = sample_neighbours([users_items, users_items.transposed], seeds, [100, 100], seed=0)
    features = torch.randn(52, 8)
    through_blocks = propagate(first.adjacency, propagate(second.adjacency, features[second.columns]))
    whole = propagate(users_items, propagate(users_items.transposed, features))[seeds]
    torch.testing.assert_close(through_blocks, whole)
    assert_array_equal(first.columns, second.rows)


def test_each_row_keeps_distinct_edges_of_its_own_up_to_the_fanout(users_items):
    seeds = np.arange(52)
    (block,) = sample_neighbours([users_items], seeds, [5], seed=1)
    assert_array_equal(block.adjacency.row_degrees, np.minimum(users_items.row_degrees, 5))
    assert len(edges_of(block)) == block.adjacency.num_edges
    everything = set(zip(users_items.row_of_edge.tolist(), users_items.indices.tolist(), strict=True))
    assert edges_of(block) <= everything


def test_the_draw_is_decided_by_seed_step_and_node_alone(users_items):
    draw = lambda rows, **state: edges_of(sample_neighbours([users_items], np.array(rows), [4], **state)[0])
    together = draw([0, 1, 2, 3], seed=5, step=7)
    assert together == draw([3, 2, 1, 0], seed=5, step=7)
    assert draw([2], seed=5, step=7) == {edge for edge in together if edge[0] == 2}
    assert together != draw([0, 1, 2, 3], seed=5, step=8)
    assert together != draw([0, 1, 2, 3], seed=6, step=7)


def test_every_neighbour_is_drawn_equally_often_and_the_weighted_sum_is_right_on_average():
    star = distinct_edges(np.zeros(10, int), np.arange(10), (1, 10)).normalised("mean")
    total = np.zeros(10)
    for step in range(4000):
        (block,) = sample_neighbours([star], np.array([0]), [3], seed=0, step=step)
        assert_allclose(block.adjacency.values, 1 / 3, rtol=1e-6)
        total[block.columns] += block.adjacency.values
    # Each is drawn with probability 0.3 and weight 1/3: mean 0.1, deviation of the mean 0.0024.
    assert_allclose(total / 4000, 0.1, atol=0.01)


def test_seeds_without_neighbours_give_empty_blocks(users_items):
    first, second = sample_neighbours([users_items, users_items.transposed], np.array([51]), [3, 3], seed=0)
    assert first.adjacency.shape == (1, 0)
    assert second.adjacency.shape == (0, 0)


def test_fanouts_and_seeds_that_do_not_fit_are_refused(users_items):
    for fanouts in ([], [0], [2, 2]):
        with pytest.raises(ValueError, match="fanouts"):
            sample_neighbours([users_items], np.array([0]), fanouts, seed=0)
    with pytest.raises(ValueError, match="do not fit an adjacency of 52 rows"):
        sample_neighbours([users_items], np.array([52]), [2], seed=0)
