import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lanner.data.ragged import Ragged
from lanner.graph.adjacency import Adjacency, distinct_edges


@pytest.fixture
def small() -> Adjacency:
    return Adjacency.from_ragged(Ragged.from_lists([[0, 2], [], [2, 2, 1], [3]]), 5)


def test_transposed_swaps_rows_and_columns_and_is_built_once(small):
    weighted = small.normalised("symmetric")
    assert_array_equal(weighted.transposed.dense(), weighted.dense().T)
    assert weighted.transposed is weighted.transposed
    assert weighted.transposed.transposed is weighted


def test_symmetric_is_one_over_the_root_of_both_degrees(small):
    # rows have degrees 2 0 3 1; columns 1 1 3 1 0; row 2 holds column 2 twice
    expected = np.zeros((4, 5))
    expected[0, 0], expected[0, 2] = 1 / np.sqrt(2 * 1), 1 / np.sqrt(2 * 3)
    expected[2, 2], expected[2, 1], expected[3, 3] = 2 / np.sqrt(3 * 3), 1 / np.sqrt(3 * 1), 1
    assert_allclose(small.normalised("symmetric").dense(), expected, rtol=1e-6)


def test_mean_rows_sum_to_one_where_there_are_neighbours(small):
    assert_allclose(small.normalised("mean").dense().sum(axis=1), [1, 0, 1, 1], rtol=1e-6)
    assert_allclose(small.normalised("mean").dense()[2], [0, 1 / 3, 2 / 3, 0, 0], rtol=1e-6)


def test_row_chunks_cover_every_row_once_and_share_the_work(small):
    wide = Adjacency.from_ragged(Ragged.from_lists([[0] * length for length in range(100)]), 1)
    chunks = wide.row_chunks(4)
    assert chunks[0] == 0
    assert chunks[-1] == 100
    work = np.diff(wide.indptr[chunks] + chunks)
    assert work.max() < 1.1 * work.mean()
    assert small.row_chunks(50)[[0, -1]].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("indptr", "indices", "values"),
    [
        ([0, 1], [0], None),
        ([0, 2, 1], [0], None),
        ([0, 1, 1], [2], None),
        ([0, 1, 1], [-1], None),
        ([0, 1, 1], [0], [1.0, 2.0]),
    ],
)
def test_arrays_that_would_read_past_their_end_are_refused(indptr, indices, values):
    weights = None if values is None else np.array(values, np.float32)
    with pytest.raises(ValueError, match=r"match|decreases|outside"):
        Adjacency(np.array(indptr, np.int64), np.array(indices, np.int32), weights, (2, 2))


def test_distinct_edges_are_those_of_a_set():
    draw = np.random.default_rng(0)
    rows, columns = draw.integers(0, 30, 2000), draw.integers(0, 20, 2000)
    adjacency = distinct_edges(rows, columns, (30, 20))
    found = list(zip(adjacency.row_of_edge.tolist(), adjacency.indices.tolist(), strict=True))
    assert found == sorted(set(zip(rows.tolist(), columns.tolist(), strict=True)))
    assert_array_equal(adjacency.transposed.dense(), adjacency.dense().T)
    assert distinct_edges(rows[:0], columns[:0], (30, 20)).num_edges == 0
