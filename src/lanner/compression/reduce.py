"""Fewer dimensions and neurons: smaller matrices with nearly the same scores for real users."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.inference.heads import LAYER_NORM, Head, normalised
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Table, take

_FLOOR = 1e-6
"""Relative to the largest: user directions with less variance are float32 noise."""
_SAMPLED_ITEMS = 20_000
"""Sample of a large catalogue to measure the spread of neuron outputs to within a percent."""


def fewer_dimensions(model: ScoringModel, users_BD: NDArray[np.float32], rank: int) -> ScoringModel:
    """The model of ``rank`` dimensions nearest to ``model`` in squared error of the scores of ``users_BD``.

    In closed form (Eckart & Young, 1936): with P² = Uᵀ U and the leading left singular vectors A of P Tᵀ, users become
    u P⁻¹ A and items T P A. The mean item is subtracted first, since it changes no ranking. The head reads users only
    and is refitted on the short vectors by least squares on its hidden layer.

    Raises:
        ValueError: ``rank`` is not within 1 … ``model.dimensions``, or the model is already reduced.
    """
    if model.reduction.source_DR is not None:
        raise ValueError("this model is already reduced; reduce the full one")
    if not 1 <= rank <= model.dimensions:
        raise ValueError(f"rank must be within 1 … {model.dimensions}, received {rank}")
    target_ID = take(model.target_ID).astype(np.float64)
    mean_D = target_ID.mean(axis=0)
    target_ID -= mean_D
    values, vectors = np.linalg.eigh(users_BD.T.astype(np.float64) @ users_BD)
    values = np.maximum(values, _FLOOR * values[-1])
    spread_DD = (vectors * np.sqrt(values)) @ vectors.T
    gathered_DD = (vectors / np.sqrt(values)) @ vectors.T
    leading_DR = np.linalg.eigh(spread_DD @ (target_ID.T @ target_ID) @ spread_DD)[1][:, ::-1][:, :rank]
    shorten_DR = (gathered_DD @ leading_DR).astype(np.float32)
    target_DR = (spread_DD @ leading_DR).astype(np.float32)
    # As for views, sources and targets of a direction are scaled alike, because INT8 rows have one scale.
    gain_R = _sizes(target_ID @ target_DR) / _sizes(take(model.source_ID) @ shorten_DR)
    shorten_DR, target_DR = shorten_DR * np.sqrt(gain_R), target_DR / np.sqrt(gain_R)
    shorter = replace(
        model,
        source_ID=take(model.source_ID) @ shorten_DR,
        target_ID=target_ID.astype(np.float32) @ target_DR,
        view_sizes=(rank,),
        profile_FD=_shortened(model.profile_FD, shorten_DR),
        text_FD=_shortened(model.text_FD, shorten_DR),
        friends_UD=_shortened(model.friends_UD, shorten_DR),
        attribute_AD=_shortened(model.attribute_AD, shorten_DR),
        reduction=replace(model.reduction, source_DR=shorten_DR, target_DR=target_DR, mean_D=mean_D.astype(np.float32)),
    )
    if model.head is None:
        return shorter
    hidden_BH = model.head.hidden(users_BD, model.view_sizes)
    return replace(shorter, head=_refitted(model.head, users_BD @ shorten_DR, hidden_BH))


def can_shorten(model: ScoringModel) -> bool:
    """Whether the model has dimensions that can be reduced.

    A gated head needs the products of each view, and ``FoldIn`` solves for users in all dimensions.
    """
    gated = model.head is not None and model.head.kind == "gated"
    return model.dimensions > 1 and model.fold_in is None and not gated


def _shortened(table: Table | None, shorten_DR: NDArray[np.float32]) -> NDArray[np.float32] | None:
    return None if table is None else np.asarray(take(table) @ shorten_DR, np.float32)


def _sizes(table_IR: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Standard deviation of each column, float32 ``[R]``, never 0."""
    deviation = table_IR.std(axis=0)
    return np.asarray(np.maximum(deviation, max(1e-6 * float(deviation.max()), 1e-12)), np.float32)


def _refitted(head: Head, users_BR: NDArray[np.float32], hidden_BH: NDArray[np.float32]) -> Head:
    read_BR = normalised(users_BR, (users_BR.shape[1],), (LAYER_NORM,))
    known = np.hstack([read_BR, np.ones((len(read_BR), 1), np.float32)])
    # Layer norm outputs sum to 0, so a constant could be added to all weights of a neuron, and rounding would choose a
    # huge one. One more equation makes the weights sum to 0.
    balance = np.append(np.ones(read_BR.shape[1], np.float32), np.float32(0))
    known, wanted = np.vstack([known, balance]), np.vstack([hidden_BH, np.zeros_like(hidden_BH[:1])])
    solved = np.linalg.lstsq(known, wanted, rcond=None)[0].astype(np.float32)
    return replace(head, user_DH=np.ascontiguousarray(solved[:-1]), bias_H=solved[-1], epsilon_V=None)


def fewer_neurons(model: ScoringModel, users_BD: NDArray[np.float32], number: int) -> ScoringModel:
    """Keep the ``number`` hidden neurons of the head whose output varies most between items, for ``users_BD``.

    A constant contribution changes no ranking (in the sense of Molchanov et al., CVPR 2019: importance is the effect on
    the loss). A model without such a head is returned unchanged.

    Raises:
        ValueError: ``number`` is not within 1 … H.
    """
    if model.head is None or model.head.kind != "concat":
        return model
    head, item_IH = model.head, take(model.head.item_IH)
    if not 1 <= number <= len(head.out_H):
        raise ValueError(f"number must be within 1 … {len(head.out_H)}, received {number}")
    hidden_BH = head.hidden(users_BD, model.view_sizes)
    sample = item_IH[:: max(1, len(item_IH) // _SAMPLED_ITEMS)]
    spread_H = sum(np.maximum(hidden_H + sample, 0).std(axis=0) for hidden_H in hidden_BH) * np.abs(head.out_H)
    kept = np.sort(np.argsort(-spread_H, kind="stable")[:number])
    original = kept if model.reduction.neurons is None else model.reduction.neurons[kept]
    smaller = Head(
        np.ascontiguousarray(head.user_DH[:, kept]),
        head.bias_H[kept],
        np.ascontiguousarray(item_IH[:, kept]),
        head.out_H[kept],
        head.epsilon_V,
    )
    return replace(model, head=smaller, reduction=replace(model.reduction, neurons=original))
