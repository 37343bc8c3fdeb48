"""Fusion weights of the views: a search over a handful of numbers by ranking quality on validation."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanner.data.interactions import UserBatch
from lanner.data.split import HeldOut
from lanner.models.network import ItemSide, RecommenderNetwork
from lanner.training.tasks import quality_of, some

_FACTORS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)
_ROUNDS = 3
_MAX_EVALUATED = 8000
"""Users evaluated for each candidate weight: with 2,000 the search fitted noise (docs/log.md)."""
_COLD, _WARM = 1, 0


@torch.no_grad()
def choose_weights(network: RecommenderNetwork, validation: HeldOut) -> float:
    """Set the fusion's weights in place and return the best validation ndcg@10 of the weighted sum.

    Coordinate search, one view's weight at a time. Weights of cold items are tuned on such items if validation has any,
    else with every item ranked as if it were new.
    """
    # A fixed starting point, so that a resumed run finds the same weights as an uninterrupted one.
    network.fusion.get_buffer("weights").fill_(1)
    items, evaluated = network.item_side(), some(validation, _MAX_EVALUATED)
    if len(network.views) == 1:
        return _quality(network, items, evaluated)
    relevant = torch.from_numpy(np.unique(validation.positives.values).astype(np.int64))
    has_cold = bool(items.is_cold_I[relevant].any())
    has_warm = not bool(items.is_cold_I[relevant].all())
    best = -1.0
    if "language" in network.views:
        pretending = replace(items, own=items.borrowed, is_cold_I=torch.ones_like(items.is_cold_I))
        best = _search(network, items if has_cold else pretending, evaluated, _COLD)
    return _search(network, items, evaluated, _WARM) if has_warm else best


def _search(network: RecommenderNetwork, items: ItemSide, evaluated: HeldOut, row: int) -> float:
    weights = network.fusion.get_buffer("weights")

    def tried(view: int, weight: float) -> float:
        weights[row, view] = weight
        return _quality(network, items, evaluated)

    best = _quality(network, items, evaluated)
    for _ in range(_ROUNDS):
        before = best
        for view in range(weights.shape[1]):
            centre = float(weights[row, view])
            trials = [(tried(view, centre * factor), centre * factor) for factor in _FACTORS]
            found, weight = max(trials, key=lambda trial: trial[0])
            weights[row, view] = weight if found > best else centre
            best = max(best, found)
        if best == before:
            break
    return best


def _quality(network: RecommenderNetwork, items: ItemSide, evaluated: HeldOut) -> float:
    return quality_of(_WeightedSum(network, items), evaluated)


class _WeightedSum:
    """The retrieval head alone: one inner product of all views' vectors, weighted and concatenated."""

    def __init__(self, network: RecommenderNetwork, items: ItemSide) -> None:
        self._network, self._items = network, items
        weights_IV = network.fusion.view_weights(items.is_cold_I)
        columns = [table.target_ID * weights_IV[:, view, None] for view, table in enumerate(items.own)]
        self._target_ID = torch.cat(columns, 1)
        self._bias_I = torch.stack([table.bias_I * weights_IV[:, v] for v, table in enumerate(items.own)]).sum(0)

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        vectors: list[Tensor] = self._network.user_side(self._network.inputs(users), self._items)
        return (torch.cat(vectors, 1) @ self._target_ID.T + self._bias_I).float().cpu().numpy()
