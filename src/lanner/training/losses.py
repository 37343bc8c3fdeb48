"""What a step minimises: the hidden items of a batch of users against candidates.

Both losses take ``scores_BC`` ``[B, C]``, −inf where a candidate must not count; ``rows_P`` and ``columns_P``, int64
``[P]``, where the hidden items stand; and ``log_probability_C`` ``[C]``, the log of the chance that a candidate was
drawn, None where all items are candidates. They give a scalar, 0 where nothing is hidden.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

_DRAWS = 16
"""Negatives drawn a pair: that all are hidden or seen is rare unless the user has seen nearly everything."""


def sampled_softmax(scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None) -> Tensor:
    """Mean negative log-likelihood −1/|P| Σ_(b, p) log softmax_c(s_bc − log q_c)[p].

    With every item a candidate it is the multinomial likelihood of Liang et al. (WWW 2018); with drawn candidates the
    popularity correction makes its gradient that of the full softmax in expectation (Bengio & Senécal 2008; Yi et al.,
    RecSys 2019).
    """
    if log_probability_C is not None:
        scores_BC = scores_BC - log_probability_C
    normaliser_B = torch.logsumexp(scores_BC, dim=1)
    return (normaliser_B[rows_P] - scores_BC[rows_P, columns_P]).sum() / max(len(rows_P), 1)


def bayesian_personalised_ranking(
    scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None
) -> Tensor:
    """Mean pairwise loss −1/|P| Σ_(b, p) log σ(s_bp − s_bn) (Rendle et al., UAI 2009).

    n is drawn uniformly among the candidates that the user neither hid nor has seen; ``log_probability_C`` is unused.
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
