"""Between torch and the request form: the form of a fitted network, and its scoring half as a module, the oracle."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.errors import ConfigError
from lanner.models.fusion import ConcatFusion, Fusion
from lanner.models.network import ItemSide, RecommenderNetwork
from lanner.models.neural import NeuralRecommender
from lanner.models.request_form import LAYER_NORM, Int8Rows, RequestForm, RequestHead, take
from lanner.models.request_items import TRUSTED, ItemReader
from lanner.models.text_neighbours import TextNeighbours
from lanner.models.views import BIAS_GAIN, TARGET_GAIN, LanguageView


def request_form(recommender: NeuralRecommender) -> RequestForm:
    """The form of a fitted recommender.

    Raises:
        ConfigError: its head is neither ``sum`` nor ``concat``, or it reads social ties.
    """
    network = recommender.network
    if recommender.dataset.ties is not None:
        raise ConfigError("a recommender that reads social ties has no request form yet; serve it as it is")
    if type(network.fusion) not in (Fusion, ConcatFusion):
        name = recommender.config.fusion
        raise ConfigError(f"the head '{name}' does not split into a user and an item half; use 'concat' or 'sum'")
    items = network.item_side()
    weights_IV = network.fusion.view_weights(items.is_cold_I).clamp(min=TRUSTED)
    gains = _gains(items, weights_IV)
    with torch.no_grad():
        targets = [t.target_ID * weights_IV[:, v, None] / gains[v] for v, t in enumerate(items.own)]
        return RequestForm(
            _numpy(torch.cat([gain * tables.source_ID for gain, tables in zip(gains, items.own, strict=True)], 1)),
            _numpy(torch.cat(targets, 1)),
            _numpy(torch.stack([t.bias_I * weights_IV[:, v] for v, t in enumerate(items.own)]).sum(0)),
            tuple(network.fusion.dimensions),
            _head(network, items, gains),
            _profile(network, gains),
        )


def _gains(items: ItemSide, weights_IV: Tensor) -> list[float]:
    """By what each view's sources grow and its targets shrink, so that both are of one size.

    No score changes, nor does the head, which normalises each view. But a row that is kept as INT8 has one scale for
    all views: with ml-1m's own sizes, 0.3 and 7, the small one was lost and scores were off by 7 % instead of 0.3 %.
    """
    gains = []
    for view, tables in enumerate(items.own):
        source, target = tables.source_ID.std(), (tables.target_ID * weights_IV[:, view, None]).std()
        gains.append(float((target / source).sqrt()) if source > 0 and target > 0 else 1.0)
    return gains


def item_reader(recommender: NeuralRecommender) -> ItemReader | None:
    """How new items get their rows of ``request_form(recommender)``; None for a network that reads no texts."""
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
            _numpy(fusion.from_item.weight.T) if isinstance(fusion, ConcatFusion) and has_head else None,
            recommender.config.cold_neighbours,
        )


class RequestNetwork(nn.Module):
    """Vectors of users to scores of the whole catalogue; the tables are constants."""

    def __init__(self, form: RequestForm) -> None:
        super().__init__()
        self.view_sizes = form.view_sizes
        self.register_buffer("target_DI", torch.from_numpy(take(form.target_ID)).T.contiguous())
        self.register_buffer("bias_I", torch.from_numpy(form.bias_I))
        self.has_head = form.head is not None
        if form.head is not None:
            self.register_buffer("user_DH", torch.from_numpy(form.head.user_DH))
            self.register_buffer("bias_H", torch.from_numpy(form.head.bias_H))
            self.register_buffer("item_IH", torch.from_numpy(take(form.head.item_IH)))
            self.register_buffer("out_H", torch.from_numpy(form.head.out_H))
            self.epsilons = form.head.epsilons(len(form.view_sizes))

    def forward(self, users_BD: Tensor) -> Tensor:
        """Scores ``[B, I]``."""
        scores: Tensor = users_BD @ self.get_buffer("target_DI") + self.get_buffer("bias_I")
        if not self.has_head:
            return scores
        parts = torch.split(users_BD, list(self.view_sizes), dim=1)
        normal = [
            nn.functional.layer_norm(part, part.shape[1:], eps=epsilon)
            for part, epsilon in zip(parts, self.epsilons, strict=True)
        ]
        read_BD = torch.cat(normal, dim=1)
        hidden_BH = read_BD @ self.get_buffer("user_DH") + self.get_buffer("bias_H")
        pairs_BIH = torch.relu(hidden_BH[:, None] + self.get_buffer("item_IH")[None])
        return scores + pairs_BIH @ self.get_buffer("out_H")


def _head(network: RecommenderNetwork, items: ItemSide, gains: Sequence[float]) -> RequestHead | None:
    fusion = network.fusion
    if not isinstance(fusion, ConcatFusion) or not bool(fusion.out.weight.any()):
        return None
    targets = [n(t.target_ID) for n, t in zip(fusion.normalise_item, items.own, strict=True)]
    return RequestHead(
        _numpy(fusion.from_user.weight.T),
        _numpy(fusion.from_user.bias),
        _numpy(fusion.from_item(torch.cat(targets, 1))),
        _numpy(fusion.out.weight[0]),
        np.float32(LAYER_NORM) * np.square(np.array(gains, np.float32)),
    )


def _profile(network: RecommenderNetwork, gains: Sequence[float]) -> NDArray[np.float32] | None:
    """The language view's reading of a profile, zeros in the other views' places."""
    sizes = network.fusion.dimensions
    for place, view in enumerate(network.views.values()):
        if isinstance(view, LanguageView) and view.from_profile is not None and network.read_profiles is not None:
            read_FD = _numpy(view.from_profile.weight.T) * np.float32(gains[place])
            before, after = sum(sizes[:place]), sum(sizes[place + 1 :])
            return np.pad(read_FD, ((0, 0), (before, after)))
    return None


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
