"""Losses of the hidden items of a batch of users against candidates.

Both take ``scores_BC`` ``[B, C]``, −inf where a candidate is masked; ``rows_P`` and ``columns_P``, int64 ``[P]``, the
positions of the hidden items; and ``log_probability_C`` ``[C]``, the log of the probability that a candidate was drawn,
None if all items are candidates. They return a scalar, 0 if nothing is hidden.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

_DRAWS = 16
"""Negatives drawn per pair: all are rarely hidden or seen, unless the user has seen nearly everything."""


def sampled_softmax(scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None) -> Tensor:
    """Mean negative log-likelihood −1/|P| Σ_(b, p) log softmax_c(s_bc − log q_c)[p].

    With every item as a candidate it is the multinomial likelihood of Liang et al. (WWW 2018); with sampled candidates,
    the popularity correction makes its expected gradient that of the full softmax (Bengio & Senécal 2008; Yi et al.,
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

    n is drawn uniformly from the candidates that are neither hidden nor seen; ``log_probability_C`` is unused.
    """
    allowed_BC = torch.isfinite(scores_BC)
    allowed_BC[rows_P, columns_P] = False
    # The first allowed one of a few uniform draws is uniform over the allowed; a pair without one is skipped.
    drawn_PD = torch.randint(scores_BC.shape[1], (len(rows_P), _DRAWS), device=scores_BC.device)
    allowed_PD = allowed_BC[rows_P[:, None], drawn_PD]
    first_P = allowed_PD.int().argmax(dim=1, keepdim=True)
    kept_P = allowed_PD.any(dim=1)
    negatives_P = drawn_PD.gather(1, first_P)[:, 0]
    differences_P = scores_BC[rows_P, negatives_P] - scores_BC[rows_P, columns_P]
    return softplus(differences_P[kept_P]).sum() / kept_P.sum().clamp(min=1)
