"""Sampled softmax with popularity correction.

For user b with hidden items P_b among the candidates C, each of which was drawn with probability q_c::

    loss = −1/|P| Σ_b Σ_{p ∈ P_b} log softmax_c(s_bc − log q_c)[p]

With every item a candidate (log q = 0) it is the multinomial likelihood of Liang et al. (WWW 2018); with drawn
candidates the correction makes its gradient that of the full softmax in expectation (Bengio & Senécal 2008;
Yi et al., RecSys 2019).
"""

import torch
from torch import Tensor


def sampled_softmax(scores_BC: Tensor, rows_P: Tensor, columns_P: Tensor, log_probability_C: Tensor | None) -> Tensor:
    """Mean negative log-likelihood of the hidden items, a scalar; 0 where none is hidden.

    scores_BC: ``[B, C]``, −inf where a candidate must not count. rows_P, columns_P: ``[P]`` where the hidden items
    stand. log_probability_C: ``[C]`` log of the chance that a candidate was drawn; None where all items are here.
    """
    if log_probability_C is not None:
        scores_BC = scores_BC - log_probability_C
    normaliser_B = torch.logsumexp(scores_BC, dim=1)
    return (normaliser_B[rows_P] - scores_BC[rows_P, columns_P]).sum() / max(len(rows_P), 1)
