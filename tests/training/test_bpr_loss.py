"""The pairwise loss against a slow reference."""

import numpy as np
import pytest
import torch

from lanner.training.losses import bayesian_personalised_ranking

SCORES = torch.tensor([[0.3, -1.0, 2.0, 0.1], [1.0, -torch.inf, 0.5, -0.2]], dtype=torch.float64)
ROWS, COLUMNS = torch.tensor([0, 0, 1]), torch.tensor([2, 1, 0])


def negative_log_sigmoid(margin: float) -> float:
    return float(np.log1p(np.exp(-margin)))


def test_in_the_mean_it_is_the_loss_over_every_pair():
    """A candidate that is hidden or shown (−inf) is no negative."""
    torch.manual_seed(0)
    negatives = {0: [0, 3], 1: [2, 3]}
    pairs = [
        np.mean([negative_log_sigmoid((SCORES[row, p] - SCORES[row, n]).item()) for n in negatives[row]])
        for row, p in zip(ROWS.tolist(), COLUMNS.tolist(), strict=True)
    ]
    drawn = [bayesian_personalised_ranking(SCORES, ROWS, COLUMNS, None).item() for _ in range(3000)]
    assert np.mean(drawn) == pytest.approx(np.mean(pairs), rel=0.01)


def test_with_one_candidate_left_it_is_exact():
    scores = SCORES[:, :3]
    expected = (
        negative_log_sigmoid(2.0 - 0.3) + negative_log_sigmoid(-1.0 - 0.3) + negative_log_sigmoid(1.0 - 0.5)
    ) / 3
    assert bayesian_personalised_ranking(scores, ROWS, COLUMNS, None).item() == pytest.approx(expected, rel=1e-12)


def test_a_better_order_costs_less_and_the_gradient_says_so():
    scores = torch.zeros(1, 2, requires_grad=True)
    bayesian_personalised_ranking(scores, torch.tensor([0]), torch.tensor([1]), None).backward()
    assert scores.grad[0, 1] == pytest.approx(-0.5)
    assert scores.grad[0, 0] == pytest.approx(0.5)


def test_nothing_hidden_costs_nothing():
    nothing = torch.empty(0, dtype=torch.long)
    assert bayesian_personalised_ranking(SCORES, nothing, nothing, None).item() == 0
