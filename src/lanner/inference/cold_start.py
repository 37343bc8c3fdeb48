"""Cold start: the scoring model's rows of an item that was added after training, from its text features.

The language view is a linear map of the features, and so is the view that matches query texts. The other views are
predicted from the items seen in training with the nearest texts, as the network does for unseen items
(``models/network.py``). A known item keeps what was learned from its interactions; only its text is re-encoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lanner.inference.heads import LAYER_NORM, normalised
from lanner.inference.scoring_model import ItemRows, ScoringModel
from lanner.inference.tables import take
from lanner.inference.text_neighbours import TextNeighbours

_ItemRow = tuple[NDArray[np.float32], NDArray[np.float32], float, NDArray[np.int32], NDArray[np.float32]]
"""An item's source, target, bias, lenders and shares."""
_TEXTS = ("codes", "scale", "directions", "short")
_RIDGE = 3.0
"""Ridge penalty of the prediction from neighbours, where a text's similarity with itself is 1 (docs/log.md)."""


def shares_of(features_NKF: NDArray[np.float32], similarities_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each of K seen items contributes to each of N unseen ones, ``[N, K]``: kernel ridge regression on texts.

    features_NKF: of the seen items' texts, zero where there are fewer than K. similarities_NK: inner products with the
    unseen text. With their Gram matrix G and similarities s, the shares are (G + λ)⁻¹ s: similar neighbours share what
    they say, and an item like no other receives little (kriging: Rasmussen and Williams, 2006, equation 2.25).
    """
    gram_NKK = features_NKF @ features_NKF.transpose(0, 2, 1)
    gram_NKK += np.float32(_RIDGE) * np.eye(gram_NKK.shape[1], dtype=np.float32)
    return np.asarray(np.linalg.solve(gram_NKK, similarities_NK[:, :, None])[:, :, 0], np.float32)


@dataclass(frozen=True)
class ItemReader:
    """Fitted maps and the catalogue's text features.

    texts: of every item. is_seen_I: bool, items seen in training, which serve as neighbours. place: index of the
    language view. view_sizes: dimensions of each view. weights_2V: view weights for seen and unseen items. source_FD,
    target_FD, bias_F, bias: linear maps of the language view, gains included. lent_bias_I: biases of the other views
    with the weights of unseen items. head_DH: item side of the ranking head, with head_bias_H; None without a head.
    num_neighbours: number of neighbours used. lent: scale of the item-to-item weights that a new item takes from
    its neighbours; 0: none. meaning_FD: from features to the target of the last view, which matches query texts;
    None without such a view.
    """

    texts: TextNeighbours
    is_seen_I: NDArray[np.bool_]
    place: int
    view_sizes: tuple[int, ...]
    weights_2V: NDArray[np.float32]
    source_FD: NDArray[np.float32]
    target_FD: NDArray[np.float32]
    bias_F: NDArray[np.float32]
    bias: float
    lent_bias_I: NDArray[np.float32]
    head_DH: NDArray[np.float32] | None
    num_neighbours: int
    head_bias_H: NDArray[np.float32] | None = None
    lent: float = 0.0
    meaning_FD: NDArray[np.float32] | None = None

    def read(self, model: ScoringModel, features_NF: NDArray[np.float32], rows: Sequence[int | None]) -> ItemRows:
        """Rows of ``model``, the full one, for N items by their texts. rows: of known items, None for new ones.

        Known items that were seen in training keep the views that were learned from their interactions.
        """
        built = [
            self._kept(model, row, features_F)
            if row is not None and self.is_seen_I[row]
            else self._new(model, features_F)
            for row, features_F in zip(rows, features_NF, strict=True)
        ]
        source, target, bias, lenders, shares = zip(*built, strict=True)
        source_ND, target_ND = np.stack(source), np.stack(target)
        if self.meaning_FD is not None:
            target_ND[:, -self.meaning_FD.shape[1] :] = features_NF @ self.meaning_FD
        half_NH = None if self.head_DH is None else self._normalised(target_ND) @ self.head_DH
        if half_NH is not None and self.head_bias_H is not None:
            half_NH = half_NH + self.head_bias_H
        bias_N = np.array(bias, np.float32)
        return ItemRows(source_ND, target_ND, bias_N, half_NH, np.stack(lenders), np.stack(shares))

    def _normalised(self, target_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        return normalised(target_ND, self.view_sizes, [LAYER_NORM] * len(self.view_sizes))

    def _language(self, features_F: NDArray[np.float32], weight: np.float32) -> tuple[Any, Any, float]:
        bias = float(features_F @ self.bias_F) + self.bias
        return features_F @ self.source_FD, weight * (features_F @ self.target_FD), float(weight) * bias

    @property
    def _own(self) -> slice:
        """Dimensions of the language view."""
        first = sum(self.view_sizes[: self.place])
        return slice(first, first + self.view_sizes[self.place])

    def _kept(self, model: ScoringModel, row: int, features_F: NDArray[np.float32]) -> _ItemRow:
        weight = self.weights_2V[0, self.place]
        before = self._language(self.texts.features(np.array([row]))[0], weight)[2]
        source_D, target_D = (take(table, np.array([row]))[0].copy() for table in (model.source_ID, model.target_ID))
        source_D[self._own], target_D[self._own], bias = self._language(features_F, weight)
        lenders_K, shares_K = np.full(self.num_neighbours, row, np.int32), np.zeros(self.num_neighbours, np.float32)
        shares_K[0] = 1
        return source_D, target_D, float(model.bias_I[row]) - before + bias, lenders_K, shares_K

    def _new(self, model: ScoringModel, features_F: NDArray[np.float32]) -> _ItemRow:
        rows, cosines = self.texts.nearest(features_F, self.num_neighbours, self.is_seen_I)
        shares = shares_of(self.texts.features(rows)[None], cosines[None])[0]
        seen, unseen = self.weights_2V
        # Targets include the view weights, which differ for seen and unseen items.
        gains = np.repeat(unseen / np.maximum(seen, TRUSTED), self.view_sizes)
        source_D = shares @ take(model.source_ID, rows)
        target_D = shares @ take(model.target_ID, rows) * gains
        source_D[self._own], target_D[self._own], bias = self._language(features_F, unseen[self.place])
        bias += float(shares @ self.lent_bias_I[rows])
        lenders_K, shares_K = np.zeros(self.num_neighbours, np.int32), np.zeros(self.num_neighbours, np.float32)
        lenders_K[: len(rows)], shares_K[: len(rows)] = rows, shares * np.float32(self.lent)
        return source_D.astype(np.float32), target_D.astype(np.float32), bias, lenders_K, shares_K

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored, by name; scalars are in ``facts``."""
        named = {f"texts.{name}": array for name, array in self.texts.arrays().items()}
        named |= {"is_seen": self.is_seen_I, "weights": self.weights_2V, "source": self.source_FD}
        named |= {"target": self.target_FD, "bias": self.bias_F, "lent_bias": self.lent_bias_I}
        optional = {"head": self.head_DH, "head_bias": self.head_bias_H, "meaning": self.meaning_FD}
        return named | {name: array for name, array in optional.items() if array is not None}

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-compatible scalars."""
        numbers = {"place": self.place, "bias": self.bias, "num_neighbours": self.num_neighbours, "lent": self.lent}
        return {**numbers, "view_sizes": list(self.view_sizes)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Self:
        """The inverse of ``arrays`` and ``facts``."""
        return cls(
            TextNeighbours.from_arrays({name: arrays[f"texts.{name}"] for name in _TEXTS}),
            arrays["is_seen"],
            int(facts["place"]),
            tuple(facts["view_sizes"]),
            arrays["weights"],
            arrays["source"],
            arrays["target"],
            arrays["bias"],
            float(facts["bias"]),
            arrays["lent_bias"],
            arrays.get("head"),
            int(facts["num_neighbours"]),
            arrays.get("head_bias"),
            float(facts["lent"]),
            arrays.get("meaning"),
        )


TRUSTED = 1e-6
"""Minimum view weight: a weight of 0 would lose vectors that are averaged for other items."""
