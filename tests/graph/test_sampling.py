"""Sampled rows: all edges if few, else a part of them whose mean is right."""

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.graph.adjacency import Adjacency
from lanner.graph.sampling import narrowed, sampled_rows, widened

WHOLE = Adjacency.from_pattern(sp.random_array((12, 30), density=0.3, rng=np.random.default_rng(0)).tocsr())
ROWS = np.array([7, 2, 2, 11])


@pytest.mark.parametrize("graph", [WHOLE, WHOLE.normalised("symmetric")])
def test_with_enough_neighbours_the_rows_are_the_whole_ones(graph):
    block, columns = sampled_rows(graph, ROWS, 30, np.random.default_rng(0))
    np.testing.assert_array_equal(block.dense(), graph.dense()[ROWS][:, columns])
    assert graph.dense()[ROWS].sum() == pytest.approx(block.dense().sum())


def test_a_row_keeps_few_different_edges():
    block, columns = sampled_rows(WHOLE, ROWS, 3, np.random.default_rng(0))
    assert (block.row_degrees == np.minimum(WHOLE.row_degrees[ROWS], 3)).all()
    assert len(columns) == len(set(columns.tolist())) == len(set(block.indices.tolist()))
    for row in range(len(ROWS)):
        reached = columns[block.indices[block.indptr[row] : block.indptr[row + 1]]]
        assert len(set(reached.tolist())) == len(reached)
        assert set(reached.tolist()) <= set(
            WHOLE.indices[WHOLE.indptr[ROWS[row]] : WHOLE.indptr[ROWS[row] + 1]].tolist()
        )


def test_the_mean_over_many_draws_is_the_whole():
    graph, random = WHOLE.normalised("mean"), np.random.default_rng(1)
    total = np.zeros((len(ROWS), 30))
    for _ in range(4000):
        block, columns = sampled_rows(graph, ROWS, 2, random)
        total[:, columns] += block.dense() / 4000
    np.testing.assert_allclose(total, graph.dense()[ROWS], atol=0.02)


def test_no_rows_and_rows_without_edges_reach_nothing():
    empty = Adjacency.from_pattern(sp.csr_matrix((3, 5)))
    for rows in (np.array([0, 2]), np.empty(0, np.int64)):
        block, columns = sampled_rows(empty, rows, 4, np.random.default_rng(0))
        assert block.shape == (len(rows), 0)
        assert not len(columns)


def test_columns_are_renumbered():
    used = np.unique(WHOLE.indices[: WHOLE.indptr[4]])
    first = Adjacency(WHOLE.indptr[:5], WHOLE.indices[: WHOLE.indptr[4]], None, (4, 30))
    np.testing.assert_array_equal(narrowed(first, used).dense(), first.dense()[:, used])
    block, columns = sampled_rows(WHOLE, ROWS, 2, np.random.default_rng(0))
    more = np.union1d(columns, [0, 29])
    wide = widened(block, columns, more).dense()
    np.testing.assert_array_equal(wide[:, np.searchsorted(more, columns)], block.dense())
    assert wide.sum() == block.dense().sum()
