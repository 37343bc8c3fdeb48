"""Bayesian personalised ranking (Rendle et al., UAI 2009).

For a hidden item p and a candidate n drawn uniformly among those that the user did not hide or show::

    loss = −1/|P| Σ_(b, p) log σ(s_bp − s_bn)
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

_DRAWS = 16
"""Draws a pair: that all hit what a user hid or saw is rare unless the user met nearly everything."""


def bayesian_personalised_ranking(
    scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None
) -> Tensor:
    """Mean pairwise loss, a scalar, 0 where nothing is hidden.

    Arguments as in ``sampled_softmax``, of which the last is not needed here.
    """
    allowed_BC = torch.isfinite(scores_BC)
    allowed_BC[rows_P, columns_P] = False
    # The first allowed of a few uniform draws is a uniform draw among the allowed; a pair without one is left out.
    drawn_PD = torch.randint(scores_BC.shape[1], (len(rows_P), _DRAWS), device=scores_BC.device)
    allowed_PD = allowed_BC[rows_P[:, None], drawn_PD]
    first_P = allowed_PD.int().argmax(dim=1, keepdim=True)
    kept_P = allowed_PD.any(dim=1)
    negatives_P = drawn_PD.gather(1, first_P)[:, 0]
    differences_P = scores_BC[rows_P, negatives_P] - scores_BC[rows_P, columns_P]
    return softplus(differences_P[kept_P]).sum() / kept_P.sum().clamp(min=1)
