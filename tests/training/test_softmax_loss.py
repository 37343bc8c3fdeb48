"""The sampled softmax against a slow reference, and its correction against the full softmax."""

import numpy as np
import pytest
import torch

from lanner.training.losses import sampled_softmax


def test_it_is_the_mean_log_likelihood_of_the_hidden_items():
    scores = torch.tensor([[0.3, -1.0, 2.0], [1.0, -torch.inf, 0.5]], dtype=torch.float64)
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([2, 1, 0])
    chance = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    expected = 0.0
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        odds = [np.exp(scores[row, c].item()) / chance[c].item() for c in range(3)]
        expected -= np.log(odds[column] / sum(odds)) / 3
    assert sampled_softmax(scores, rows, columns, chance.log()).item() == pytest.approx(expected, rel=1e-12)
    everything = sampled_softmax(scores[:1], rows[:1], columns[:1], None).item()
    assert everything == pytest.approx(-torch.log_softmax(scores[0], 0)[2].item(), rel=1e-12)


def gradient(scores: torch.Tensor, log_probability: torch.Tensor | None) -> torch.Tensor:
    leaf = scores.clone().requires_grad_()
    rows = torch.arange(len(scores))
    sampled_softmax(leaf, rows, torch.zeros_like(rows), log_probability).backward()
    return leaf.grad.sum(0)


def test_the_corrected_gradient_is_that_of_the_full_softmax_in_expectation():
    rng = np.random.default_rng(0)
    num_items, draws = 300, 4000
    scores = torch.from_numpy(rng.normal(size=num_items))
    chance = torch.from_numpy(rng.uniform(0.1, 0.9, num_items))
    chance[0] = 1.0  # the hidden item is always among the candidates
    drawn = torch.from_numpy(rng.random((draws, num_items))) < chance
    sampled = torch.where(drawn, scores, -torch.inf)
    full = gradient(scores[None], None)
    corrected, plain = gradient(sampled, chance.log()), gradient(sampled, None)
    error = lambda found: ((found - full).norm() / full.norm()).item()
    assert error(corrected) < 0.03
    assert error(plain) > 5 * error(corrected)


def test_nothing_hidden_costs_nothing():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = sampled_softmax(scores, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), None)
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_a_user_who_has_seen_everything_spoils_nothing():
    scores = torch.randn(2, 3, requires_grad=True)
    masked = scores.masked_fill(torch.tensor([[True] * 3, [False] * 3]), -torch.inf)
    sampled_softmax(masked, torch.tensor([1]), torch.tensor([2]), None).backward()
    assert torch.isfinite(scores.grad).all()
