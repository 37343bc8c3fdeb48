"""Right singular vectors against NumPy, including shapes that iterative solvers reject."""

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.models.svd import right_singular


@pytest.mark.parametrize(
    ("shape", "rank"), [((9, 6), 3), ((6, 9), 4), ((9, 6), 6), ((6, 9), 50), ((1, 1), 1), ((1, 5), 2), ((5, 1), 2)]
)
def test_it_is_numpys(shape, rank):
    matrix = np.random.default_rng(0).random(shape).astype(np.float32)
    values, vectors = right_singular(sp.csr_matrix(matrix), rank)
    _, expected, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    kept = min(rank, *shape)
    assert vectors.shape == (shape[1], kept)
    np.testing.assert_allclose(values, expected[:kept], rtol=1e-4)
    np.testing.assert_allclose(np.abs((vectors * right[:kept].T).sum(axis=0)), 1, rtol=1e-4)


def test_repeated_values_do_not_make_it_random():
    """The iterative solver gets stuck on them, and goes on from vectors that it draws."""
    blocks = sp.csr_matrix(np.kron(np.eye(4), np.ones((3, 4))).astype(np.float32))
    first = right_singular(blocks, 7)[1]
    assert all(np.array_equal(right_singular(blocks, 7)[1], first) for _ in range(3))


def test_directions_without_weight_are_finite():
    matrix = sp.csr_matrix(np.ones((3, 5), np.float32))
    values, vectors = right_singular(matrix, 3)
    assert values[0] == pytest.approx(np.sqrt(15))
    np.testing.assert_allclose(values[1:], 0, atol=1e-6)
    assert np.isfinite(vectors).all()
