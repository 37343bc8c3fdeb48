"""Ranking heads: small networks that re-score candidates with the interaction of views.

The user side is affine in the normalised user vector; the item side is a precomputed row, linear in the normalised
target; each kind combines the two differently. Equations: ``models/fusion.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lanner.inference.tables import Table

LAYER_NORM = 1e-5
"""Epsilon of the layer norm."""
RERANK_ALL = 4096
"""Up to this many items, the head ranks all of them: cheaper than selecting candidates."""
CANDIDATES = 200
"""Number of candidates, the best without the head, that it re-ranks in a larger catalogue."""
HeadKind = Literal["concat", "gated", "cross-attention"]


@dataclass(frozen=True)
class Head:
    """kind: how users and items are combined. user_DH ``[D, H]``, bias_H ``[H]``: the affine map of the user side.

    item_IH: item side, one row per item. out_H: output weights of ``concat``, empty for other kinds.
    epsilon_V: epsilon of the layer norm of each view; None: ``LAYER_NORM``.
    num_views: number of views of the user vector.
    """

    user_DH: NDArray[np.float32]
    bias_H: NDArray[np.float32]
    item_IH: Table
    out_H: NDArray[np.float32]
    epsilon_V: NDArray[np.float32] | None = None
    kind: HeadKind = "concat"
    num_views: int = 1

    def hidden(self, users_BD: NDArray[np.float32], view_sizes: tuple[int, ...]) -> NDArray[np.float32]:
        """The user side, ``[B, H]``."""
        return normalised(users_BD, view_sizes, self.epsilons(len(view_sizes))) @ self.user_DH + self.bias_H

    def epsilons(self, num_views: int) -> Sequence[float]:
        """One epsilon per view."""
        return [LAYER_NORM] * num_views if self.epsilon_V is None else self.epsilon_V.tolist()

    def correction(
        self,
        hidden_H: NDArray[np.float32],
        item_CH: NDArray[np.float32],
        view_scores: Callable[[], NDArray[np.float32]] | None,
    ) -> NDArray[np.float32]:
        """The head's contribution to the scores of C items for one user, float32 ``[C]``.

        view_scores: inner products of the user with targets by view, ``[C, V]``; called by kinds that need them.
        """
        return _KINDS[self.kind](self, hidden_H, item_CH, view_scores)


_ViewScores = Callable[[], NDArray[np.float32]] | None


def _concat(
    head: Head, hidden_H: NDArray[np.float32], item_CH: NDArray[np.float32], _: _ViewScores
) -> NDArray[np.float32]:
    """out · relu(hidden + item)."""
    block = item_CH + hidden_H
    return np.asarray(np.maximum(block, 0, out=block) @ head.out_H)


def _gated(
    head: Head, hidden_V: NDArray[np.float32], item_CV: NDArray[np.float32], view_scores: _ViewScores
) -> NDArray[np.float32]:
    """Σ_v (4 σ(user gate) σ(item gate) − 1) · score of view v."""
    assert view_scores is not None
    gates_CV = 4 * _sigmoid(hidden_V) * _sigmoid(item_CV) - 1
    return np.asarray((gates_CV * view_scores()).sum(axis=1))


def _cross_attention(
    head: Head, hidden_H: NDArray[np.float32], item_CH: NDArray[np.float32], _: _ViewScores
) -> NDArray[np.float32]:
    """Σ_v Σ_w softmax_w(query_v · key_w / √W) (out_v · message_w); H holds V keys, then V messages, of W numbers."""
    views = head.num_views
    width = len(hidden_H) // (2 * views)
    key_VW, message_VW = hidden_H.reshape(2, views, width)
    item_C2VW = item_CH.reshape(len(item_CH), 2, views, width)
    asked_CVV = np.einsum("cvw,uw->cvu", item_C2VW[:, 0], key_VW) / np.float32(width**0.5)
    asked_CVV = np.exp(asked_CVV - asked_CVV.max(axis=2, keepdims=True))
    asked_CVV /= asked_CVV.sum(axis=2, keepdims=True)
    said_CVV = np.einsum("cvw,uw->cvu", item_C2VW[:, 1], message_VW)
    return np.asarray((asked_CVV * said_CVV).sum(axis=(1, 2)), np.float32)


_Combine = Callable[[Head, NDArray[np.float32], NDArray[np.float32], _ViewScores], NDArray[np.float32]]
_KINDS: dict[HeadKind, _Combine] = {
    "concat": _concat,
    "gated": _gated,
    "cross-attention": _cross_attention,
}


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)


def normalised(
    vectors_BD: NDArray[np.float32], view_sizes: tuple[int, ...], epsilons: Sequence[float]
) -> NDArray[np.float32]:
    """Each view's slice normalised to mean 0 and deviation 1, as a layer norm without parameters."""
    sizes, starts = np.array(view_sizes), np.cumsum((0, *view_sizes[:-1]))
    means_BV = np.add.reduceat(vectors_BD, starts, axis=1) / sizes
    centred_BD = vectors_BD - np.repeat(means_BV, sizes, axis=1)
    variances_BV = np.add.reduceat(np.square(centred_BD), starts, axis=1) / sizes
    scales_BV = 1 / np.sqrt(variances_BV + np.asarray(epsilons))
    return np.asarray(centred_BD * np.repeat(scales_BV, sizes, axis=1), np.float32)
