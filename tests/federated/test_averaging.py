"""Federated averaging learns, its gradient is right, and what compression loses arrives later."""

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.federated.averaging import AveragingConfig, Change, Client, Sender, Server, _step, in_8_bits, scoring_model


def blocks(users=80, items=20):
    random = np.random.default_rng(0)
    likes = np.kron(np.eye(2), np.ones((users // 2, items // 2))) * 0.6 + 0.02
    return sp.csr_matrix((random.random((users, items)) < likes).astype(np.float32))


def learned(compressed, rounds=15, clients=4):
    config = AveragingConfig(
        dimensions=8, rounds=rounds, users_per_step=8, client_rate=0.5, server_rate=0.1, compressed=compressed
    )
    matrix = blocks()
    members = [Client(matrix[part::clients], config, part) for part in range(clients)]
    server, size = Server(matrix.shape[1], config), 0
    for _ in range(rounds):
        changes = [one.train(server.vectors_ID) for one in members]
        size += sum(one.bytes for one in changes)
        server.take(changes)
    return server.vectors_ID, size


def separation(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    half = len(cosine) // 2
    return cosine[:half, :half].mean() - cosine[:half, half:].mean()


def test_items_that_are_met_together_come_together():
    config = AveragingConfig(dimensions=8)
    assert separation(learned(compressed=False)[0]) > separation(Server(20, config).vectors_ID) + 0.5


def test_compressed_changes_learn_the_same_with_fewer_bytes():
    dense, dense_bytes = learned(compressed=False)
    small, small_bytes = learned(compressed=True)
    assert small_bytes == dense_bytes * (8 + 4) / (8 * 4)
    assert separation(small) == pytest.approx(separation(dense), rel=0.02)


def test_the_gradient_is_that_of_the_loss():
    matrix, random = blocks(8, 6), np.random.default_rng(3)
    matrix = matrix[np.diff(matrix.indptr) > 1]
    config = AveragingConfig(dimensions=3, temperature=0.5, client_rate=1.0)
    vectors = random.standard_normal((6, 3)).astype(np.float32)

    def loss(table):
        fixed, total = np.random.default_rng(1), 0.0
        lengths = np.diff(matrix.indptr)
        places = matrix.indptr[:-1] + (fixed.random(len(lengths)) * lengths).astype(np.int64)
        for row, place in enumerate(places):
            items = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
            target = matrix.indices[place]
            user = table[items[items != target]].mean(axis=0)
            logits = table @ user / 0.5
            total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]
        return total / len(places)

    moved = vectors.copy()
    _step(moved, matrix, config, np.random.default_rng(1))
    ours = vectors - moved
    for entry in ((0, 0), (2, 1), (5, 2)):
        step = np.zeros(vectors.shape)
        step[entry] = 1e-4
        numeric = (loss(vectors + step) - loss(vectors - step)) / 2e-4
        np.testing.assert_allclose(ours[entry], numeric, rtol=2e-2, atol=1e-3)


def test_the_server_steps_as_adam_does():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    random, config = np.random.default_rng(0), AveragingConfig(dimensions=3, server_rate=0.05)
    server = Server(4, config)
    weights = torch.nn.Parameter(torch.from_numpy(server.vectors_ID.copy()))
    adam = torch.optim.Adam([weights], lr=0.05, betas=(0.9, 0.99), eps=1e-5)
    for _ in range(5):
        changes = [Change(random.standard_normal((4, 3)).astype(np.float32), 0) for _ in range(2)]
        server.take(changes)
        weights.grad = -torch.from_numpy((changes[0].delta_ID + changes[1].delta_ID) / 2)
        adam.step()
    np.testing.assert_allclose(server.vectors_ID, weights.detach().numpy(), atol=1e-5)


def test_each_row_has_its_own_scale():
    delta = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32) * np.logspace(-6, 3, 10)[:, None]
    delta[3] = 0
    sent, size = in_8_bits(delta.astype(np.float32))
    assert size == 10 * 4 + 10 * 4
    largest = np.abs(delta).max(axis=1, keepdims=True)
    assert (np.abs(sent - delta) <= largest / 253).all()
    assert all(len(np.unique(row)) <= 255 for row in sent)
    assert not sent[3].any()


def test_what_compression_lost_is_sent_later():
    random, sender = np.random.default_rng(0), Sender(compressed=True)
    total, arrived = np.zeros((20, 8), np.float32), np.zeros((20, 8), np.float32)
    for _ in range(40):
        delta = random.standard_normal((20, 8)).astype(np.float32)
        total += delta
        arrived += sender.change(delta).delta_ID
    assert np.abs(arrived - total).max() < 4 / 127  # half a step of the last one, not of all forty


def test_the_server_sends_what_the_clients_then_have():
    config, random = AveragingConfig(dimensions=8, compressed=True), np.random.default_rng(0)
    server = Server(20, config)
    at_clients = server.vectors_ID.copy()
    for _ in range(40):
        change = server.take([Change(random.standard_normal((20, 8)).astype(np.float32), 0)])
        assert change.bytes == 20 * (8 + 4)
        at_clients += change.delta_ID
    np.testing.assert_array_equal(server.vectors_ID, at_clients)


def test_the_vectors_are_served_like_any_model():
    vectors, _ = learned(compressed=False)
    model = scoring_model(vectors, np.ones(20))
    assert model.num_items == 20
    assert model.dimensions == 8
