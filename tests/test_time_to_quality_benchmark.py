"""``benchmarks.time_to_quality`` on a handful of users: both sides learn, and the peer's graph is LightGCN's."""

import numpy as np
import pytest
from stand_ins import NUM_ITEMS, NUM_USERS, small_world

pytest.importorskip("torch")

import torch

from benchmarks import time_to_quality
from lanner.data.splitting import random_ratio
from lanner.models.linear import training_matrix


def test_the_peer_propagates_as_published():
    train = small_world()
    model, matrix = time_to_quality.LightGCN(train), training_matrix(train).toarray()
    whole = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    whole[:NUM_USERS, NUM_USERS:], whole[NUM_USERS:, :NUM_USERS] = matrix, matrix.T
    scale = 1 / np.sqrt(np.maximum(whole.sum(axis=1), 1))
    step = scale[:, None] * whole * scale
    current = total = model.vectors.detach().numpy().astype(np.float64)
    for _ in range(3):
        current = step @ current
        total = total + current
    assert np.allclose(model.smooth().detach().numpy(), total / 4, atol=1e-5)


def test_its_gradient_is_that_of_the_dense_product():
    model = time_to_quality.LightGCN(small_world())
    edges = torch.arange(5)
    torch.manual_seed(1)
    model.loss(edges).backward()
    found = model.vectors.grad.clone()
    model.vectors.grad, dense = None, model.adjacency.to_dense()
    model.smooth = lambda: sum(torch.linalg.matrix_power(dense, n) @ model.vectors for n in range(4)) / 4
    torch.manual_seed(1)
    model.loss(edges).backward()
    assert torch.allclose(found, model.vectors.grad, atol=1e-6)


def test_the_peer_learns_and_is_asked_for_the_right_users():
    split = random_ratio(small_world(), 0.2, 0.0)
    first, *_, last = time_to_quality.lightgcn(split, 30)
    assert last["loss"] < first["loss"]
    model = time_to_quality.LightGCN(split.refit)
    asked = time_to_quality._Trained(model, split.test.rows)
    one, two = asked.score(split.test.users.take(np.arange(3))), asked.score(split.test.users.take(np.arange(3, 5)))
    smooth = model.smooth().detach().numpy()
    wanted = smooth[split.test.rows[:5]] @ smooth[NUM_USERS:].T
    assert np.allclose(np.vstack([one, two]), wanted, atol=1e-6)
