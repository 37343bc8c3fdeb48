"""``benchmarks.time_to_quality`` on a handful of users: both sides learn, and the peer's graph is LightGCN's."""

import numpy as np
import pytest
from stand_ins import NUM_ITEMS, NUM_USERS, small_world

pytest.importorskip("torch_geometric")

import torch

from benchmarks import time_to_quality
from lanner.data.splitting import random_ratio
from lanner.models.linear import training_matrix


def test_the_peer_propagates_as_published():
    train = small_world()
    peer, matrix = time_to_quality.Peer(train), training_matrix(train).toarray()
    whole = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    whole[:NUM_USERS, NUM_USERS:], whole[NUM_USERS:, :NUM_USERS] = matrix, matrix.T
    scale = 1 / np.sqrt(np.maximum(whole.sum(axis=1), 1))
    step = scale[:, None] * whole * scale
    current = total = peer.model.embedding.weight.detach().numpy().astype(np.float64)
    for _ in range(3):
        current = step @ current
        total = total + current
    assert np.allclose(peer.vectors(), total / 4, atol=1e-5)


def test_its_loss_is_that_of_the_pairs_it_draws_and_of_the_vectors_involved():
    peer = time_to_quality.Peer(small_world())
    edges = torch.arange(5)
    torch.manual_seed(1)
    found = float(peer.loss(edges).detach())
    torch.manual_seed(1)
    items = torch.stack([peer.items[edges], torch.randint(NUM_ITEMS, (5,))])
    smooth, raw = torch.from_numpy(peer.vectors()), peer.model.embedding.weight.detach()
    users, targets = peer.users[edges], NUM_USERS + items
    positive, negative = ((smooth[users] * smooth[one]).sum(1) for one in targets)
    squares = sum(raw[one].square().sum() for one in (users, *targets))
    wanted = -torch.nn.functional.logsigmoid(positive - negative).mean() + 0.5e-4 * squares / 5
    assert found == pytest.approx(float(wanted), abs=1e-6)


def test_the_peer_learns_and_is_asked_for_the_right_users():
    split = random_ratio(small_world(), 0.2, 0.0)
    first, *_, last = time_to_quality.lightgcn(split, 30)
    assert last["loss"] < first["loss"]
    peer = time_to_quality.Peer(split.refit)
    asked = time_to_quality._Trained(peer, split.test.rows)
    one, two = asked.score(split.test.users.take(np.arange(3))), asked.score(split.test.users.take(np.arange(3, 5)))
    smooth = peer.vectors()
    wanted = smooth[split.test.rows[:5]] @ smooth[NUM_USERS:].T
    assert np.allclose(np.vstack([one, two]), wanted, atol=1e-6)
