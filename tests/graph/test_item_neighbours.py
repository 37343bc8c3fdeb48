import numpy as np
import pytest
from numpy.testing import assert_allclose

from lanner.graph import neighbours
from lanner.graph.adjacency import Adjacency, distinct_edges
from lanner.graph.neighbours import co_occurrence_neighbours, text_neighbours


def dense_top_k(cosine: np.ndarray, k: int) -> np.ndarray:
    """Per row the k largest positive entries outside the diagonal, the rest zero."""
    cosine = np.where(np.eye(len(cosine)) == 1, -np.inf, cosine)
    kept = np.zeros_like(cosine)
    for row, best in enumerate(np.argsort(-cosine, axis=1)[:, :k]):
        kept[row, best] = np.maximum(cosine[row, best], 0)
    return kept


def cosines(columns: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(columns, axis=0)
    return (columns.T @ columns) / np.maximum(np.outer(lengths, lengths), 1e-9)


def random_interactions() -> Adjacency:
    draw = np.random.default_rng(1)
    return distinct_edges(draw.integers(0, 60, 500), draw.integers(0, 25, 500), (60, 26))


def test_co_occurrence_is_the_cosine_of_the_columns():
    interactions = random_interactions()
    for k in (1, 4, 25):
        found = co_occurrence_neighbours(interactions, k).dense()
        expected = dense_top_k(cosines(interactions.dense()), k)
        # Which of several equal neighbours is kept is not promised; how near the kept ones are, is.
        assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), atol=1e-6)
        assert_allclose(found[found > 0], cosines(interactions.dense())[found > 0], rtol=1e-5)


@pytest.mark.parametrize("block_bytes", [1, 700, 1 << 20])
def test_text_neighbours_are_the_nearest_by_cosine_whatever_the_block(monkeypatch, block_bytes):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", block_bytes)
    embeddings = np.random.default_rng(2).normal(size=(40, 8)).astype(np.float32)
    embeddings[7] = 0
    found = text_neighbours(embeddings, 5)
    assert_allclose(found.dense(), dense_top_k(cosines(embeddings.T.astype(np.float64)), 5), atol=1e-6)
    assert found.row_degrees[7] == 0
    assert found.column_degrees[7] == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_items_than_neighbours(count):
    found = text_neighbours(np.ones((count, 3), np.float32), 5)
    assert found.shape == (count, count)
    assert found.num_edges == (2 if count == 2 else 0)
