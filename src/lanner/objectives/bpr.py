"""Bayesian personalised ranking (Rendle et al., UAI 2009).

For a hidden item p and a candidate n drawn uniformly among those that the user did not hide or show::

    loss = −1/|P| Σ_(b, p) log σ(s_bp − s_bn)
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bayesian_personalised_ranking(
    scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None
) -> Tensor:
    """Mean pairwise loss, a scalar, 0 where nothing is hidden; arguments as in ``sampled_softmax``, of which the last is not needed here."""
    allowed_BC = torch.isfinite(scores_BC)
    allowed_BC[rows_P, columns_P] = False
    # A uniform draw per pair: the largest of independent uniform numbers over the allowed candidates.
    draws_PC = torch.rand(len(rows_P), scores_BC.shape[1], device=scores_BC.device)
    negatives_P = draws_PC.masked_fill(~allowed_BC[rows_P], -1.0).argmax(dim=1)
    return softplus(scores_BC[rows_P, negatives_P] - scores_BC[rows_P, columns_P]).sum() / max(len(rows_P), 1)
