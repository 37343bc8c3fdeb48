"""The compiled kernel against a dense product as the reference."""

import numpy as np
import pytest
import torch

from lanner.data.ragged import Ragged
from lanner.graph.adjacency import Adjacency
from lanner.graph.propagation import _multiply_sparse, propagate, to_torch_sparse


def random_adjacency(rows: int, columns: int, edges: int, seed: int = 0) -> Adjacency:
    """Degrees as uneven as in real data; some rows and columns have no edges, some edges are parallel."""
    draw = np.random.default_rng(seed)
    of_row = (rows * draw.random(edges) ** 3).astype(np.int32)
    of_column = (columns * draw.random(edges) ** 2).astype(np.int32)
    return Adjacency.from_ragged(Ragged.from_pairs(of_row, of_column, rows), columns)


@pytest.mark.parametrize("normalisation", ["symmetric", "mean"])
@pytest.mark.parametrize("width", [1, 7, 16, 37, 64, 128, 129, 241, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_and_backward_equal_the_dense_product(normalisation, width, dtype):
    adjacency = random_adjacency(211, 97, 3000).normalised(normalisation)
    features = torch.randn(97, width, dtype=dtype, requires_grad=True)
    twin = features.detach().double().requires_grad_()
    upstream = torch.randn(211, width, dtype=dtype)
    found, expected = propagate(adjacency, features), torch.from_numpy(adjacency.dense()) @ twin
    # Rounding grows with what is summed: at most some 2,000 numbers in a row here.
    tolerance = 30 * torch.finfo(dtype).eps * float(adjacency.dense().sum(axis=1).max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    found.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(features.grad.double(), twin.grad, rtol=0, atol=10 * tolerance)


def test_gradients_of_both_orders_agree_with_finite_differences():
    adjacency = random_adjacency(9, 6, 25).normalised("symmetric")
    features = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(adjacency, x), (features,))
    assert torch.autograd.gradgradcheck(lambda x: propagate(adjacency, x) ** 2, (features,))


def test_the_result_does_not_depend_on_threads():
    adjacency, features = random_adjacency(400, 300, 9000).normalised("symmetric"), torch.randn(300, 64)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 1, 2):
        torch.set_num_threads(count)
        results.append(propagate(adjacency, features))
    torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 2)])
def test_no_edges_give_zeros(shape):
    adjacency = Adjacency.from_ragged(Ragged.empty(shape[0]), shape[1])
    assert torch.equal(propagate(adjacency, torch.randn(shape[1], 20)), torch.zeros(shape[0], 20))


def test_features_in_any_memory_order_are_read_right():
    adjacency = random_adjacency(30, 20, 200)
    features = torch.randn(64, 20).T
    torch.testing.assert_close(propagate(adjacency, features), propagate(adjacency, features.contiguous()))
    propagate(adjacency, features.clone().requires_grad_()).sum().backward()  # an expanded gradient, stride 0


def test_the_path_of_other_devices_gives_the_same():
    adjacency, features = random_adjacency(60, 50, 700).normalised("symmetric"), torch.randn(50, 24)
    torch.testing.assert_close(_multiply_sparse(adjacency, features), propagate(adjacency, features))
    torch.testing.assert_close(to_torch_sparse(adjacency).to_dense().double(), torch.from_numpy(adjacency.dense()))


@pytest.mark.parametrize("features", [torch.ones(4, 2), torch.ones(5), torch.ones(5, 2, dtype=torch.int64)])
def test_features_that_do_not_fit_are_refused(features):
    with pytest.raises(ValueError, match=r"features must be floating \[5, D\]"):
        propagate(random_adjacency(3, 5, 6), features)
