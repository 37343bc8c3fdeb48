"""Export of a fitted network: its scoring model, and its reader of new items."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor, nn

from lanner.inference.cold_start import TRUSTED, ItemReader
from lanner.inference.heads import LAYER_NORM, Head
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows
from lanner.inference.text_neighbours import TextNeighbours
from lanner.models.fusion import ConcatFusion, CrossAttentionFusion, Fusion, GatedFusion, normalised
from lanner.models.network import ItemSide, RecommenderNetwork
from lanner.models.recommender import item_popularity
from lanner.models.relational import RelationalView
from lanner.models.views import BIAS_GAIN, TARGET_GAIN, GraphView, LanguageView

if TYPE_CHECKING:
    from lanner.models.neural import NeuralRecommender


def scoring_model_of(recommender: "NeuralRecommender") -> ScoringModel:
    """The scoring model of a fitted recommender: the views concatenated, their weights folded into the targets."""
    network = recommender.network
    items = network.item_side()
    weights_IV = network.fusion.view_weights(items.is_cold_I).clamp(min=TRUSTED)
    gains = _gains(items, weights_IV)
    with torch.no_grad():
        added = _additive_terms(network, items, gains)
        if recommender.dataset.ties is None:
            added.pop("friends_UD", None)
        targets = [t.target_ID * weights_IV[:, v, None] / gains[v] for v, t in enumerate(items.own)]
        return ScoringModel(
            _numpy(torch.cat([gain * tables.source_ID for gain, tables in zip(gains, items.own, strict=True)], 1)),
            _numpy(torch.cat(targets, 1)),
            _numpy(torch.stack([t.bias_I * weights_IV[:, v] for v, t in enumerate(items.own)]).sum(0)),
            item_popularity(recommender.dataset),
            tuple(network.fusion.dimensions),
            tuple(network.views),
            head=_head(network, items, gains),
            kind_A=recommender.dataset.user_catalogue.kinds if "attribute_AD" in added else None,
            **added,
        )


def item_reader_of(recommender: "NeuralRecommender") -> ItemReader | None:
    """Computes rows of ``scoring_model_of(recommender)`` for new items; None for a network that reads no texts."""
    network = recommender.network
    if "language" not in network.views:
        return None
    place = list(network.views).index("language")
    view = network.views["language"]
    assert isinstance(view, LanguageView)
    fusion, items = network.fusion, network.item_side()
    weights_2V = fusion.get_buffer("weights").clamp(min=TRUSTED)
    gain = _gains(items, fusion.view_weights(items.is_cold_I).clamp(min=TRUSTED))[place]
    lent = [weights_2V[1, v] * tables.bias_I for v, tables in enumerate(items.own) if v != place]
    has_head = _head(network, items, [1.0] * len(items.own)) is not None
    item_DH, bias_H = _item_map(fusion) if has_head else (None, None)
    with torch.no_grad():
        return ItemReader(
            TextNeighbours.of(Int8Rows.of(_numpy(view.get_buffer("features")))),
            ~network.get_buffer("is_cold").cpu().numpy(),
            place,
            tuple(fusion.dimensions),
            _numpy(weights_2V),
            _numpy(view.to_source.weight.T) * gain,
            _numpy(view.to_target.weight.T) * TARGET_GAIN / gain,
            _numpy(view.to_bias.weight[0]) * BIAS_GAIN,
            float(view.to_bias.bias) * BIAS_GAIN,
            _numpy(torch.stack([torch.zeros(network.num_items), *lent]).sum(0)),
            item_DH,
            recommender.config.cold_neighbours,
            bias_H,
        )


def _gains(items: ItemSide, weights_IV: Tensor) -> list[float]:
    """Factors by which each view's sources are multiplied and its targets divided, so that both have the same scale.

    Neither scores change nor the head, which normalises each view. But a row stored as INT8 has one scale for all
    views: with ml-1m's own scales, 0.3 and 7, the small one was lost and scores were off by 7 % instead of 0.3 %.
    """
    gains = []
    for view, tables in enumerate(items.own):
        targets_ID = tables.target_ID * weights_IV[:, view, None]
        source, target = tables.source_ID.std(correction=0), targets_ID.std(correction=0)
        gains.append(float((target / source).sqrt()) if source > 0 and target > 0 else 1.0)
    return gains


def _head(network: RecommenderNetwork, items: ItemSide, gains: list[float]) -> Head | None:
    """The fusion's correction; None if it adds nothing."""
    fusion = network.fusion
    epsilon_V = np.float32(LAYER_NORM) * np.square(np.array(gains, np.float32))
    with torch.no_grad():
        if isinstance(fusion, ConcatFusion) and bool(fusion.out.weight.any()):
            user_DH, bias_H = _numpy(fusion.from_user.weight.T), _numpy(fusion.from_user.bias)
            item_IH, out_H = _item_rows(fusion, items), _numpy(fusion.out.weight[0])
            return Head(user_DH, bias_H, item_IH, out_H, epsilon_V)
        if isinstance(fusion, GatedFusion) and any(bool(one.any()) for one in fusion.parameters()):
            user_DV, bias_V = _numpy(fusion.user_gate.weight.T), _numpy(fusion.user_gate.bias)
            item_IV, views = _item_rows(fusion, items), len(fusion.dimensions)
            return Head(user_DV, bias_V, item_IV, np.empty(0, np.float32), epsilon_V, "gated", views)
        if isinstance(fusion, CrossAttentionFusion) and any(bool(one.weight.any()) for one in _linears(fusion.out)):
            user_DH = np.hstack([_block_diagonal(fusion.key), _block_diagonal(fusion.message)])
            item_IH, views = _item_rows(fusion, items), len(fusion.dimensions)
            nothing = np.zeros(user_DH.shape[1], np.float32)
            return Head(user_DH, nothing, item_IH, nothing[:0], epsilon_V, "cross-attention", views)
    return None


def _item_rows(fusion: ConcatFusion | GatedFusion | CrossAttentionFusion, items: ItemSide) -> NDArray[np.float32]:
    targets = normalised([table.target_ID for table in items.own])
    item_DH, bias_H = _item_map(fusion)
    return _numpy(torch.cat(targets, 1)) @ item_DH + bias_H


def _item_map(fusion: Fusion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From a normalised target to the head's row of an item."""
    with torch.no_grad():
        if isinstance(fusion, ConcatFusion):
            item_DH = _numpy(fusion.from_item.weight.T)
            return item_DH, np.zeros(item_DH.shape[1], np.float32)
        if isinstance(fusion, GatedFusion):
            return _numpy(fusion.item_gate.weight.T), _numpy(fusion.item_gate.bias)
        assert isinstance(fusion, CrossAttentionFusion)
        item_DH = np.hstack([_block_diagonal(fusion.query), _block_diagonal(fusion.out)])
        return item_DH, np.zeros(item_DH.shape[1], np.float32)


def _block_diagonal(layers: nn.ModuleList) -> NDArray[np.float32]:
    """The maps of all views as one block-diagonal matrix, float32 ``[D, V · W]``."""
    return np.asarray(block_diag(*[_numpy(layer.weight.T) for layer in _linears(layers)]), np.float32)


def _linears(layers: nn.ModuleList) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _additive_terms(network: RecommenderNetwork, items: ItemSide, gains: list[float]) -> dict[str, Any]:
    """Contributions of friends, attributes, profiles and query texts to a user, as fields of ``ScoringModel``."""
    found: dict[str, tuple[int, Tensor]] = {}
    for place, view in enumerate(network.views.values()):
        if isinstance(view, GraphView):
            found["friends_UD"] = place, view.friend_vectors(items.own[place])
        if isinstance(view, RelationalView) and len(view.values):
            found["attribute_AD"] = place, view.attribute_vectors()
        if isinstance(view, LanguageView):
            found["text_FD"] = place, view.to_source.weight.T  # a query is embedded like an item with that text
        if isinstance(view, LanguageView) and view.from_profile is not None and network.read_profiles is not None:
            found["profile_FD"] = place, view.from_profile.weight.T
    sizes = network.fusion.dimensions
    # Zeros for the other views.
    around = [((0, 0), (sum(sizes[:place]), sum(sizes[place + 1 :]))) for place in range(len(sizes))]
    return {name: np.pad(_numpy(one) * np.float32(gains[at]), around[at]) for name, (at, one) in found.items()}


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
