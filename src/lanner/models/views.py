"""Views: different representations of the same items, each with its own vectors, all scored by one rule.

A view gives three tables, and a user is the mean of the items seen::

    h_u = 1/|N(u)| Σ_{i ∈ N(u)} source_i  (+ friends, + profile)        score(u, i) = h_u · target_i + bias_i

So every view is linear in the history, every user is computed from a history, and a score decomposes into the
contributions of items. ``graph`` is trained by message passing, ``filter`` is closed-form, ``language`` uses texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.data.interactions import UserBatch
from lanner.graph.adjacency import Adjacency
from lanner.graph.propagation import propagate
from lanner.graph.sampling import narrowed, sampled_rows, widened
from lanner.inference.sparse import attribute_matrix, batch_matrix, history_matrix
from lanner.models.relations import Layer, Relation, sampled_layers
from lanner.models.svd import right_singular

_SAMPLED_USERS = 512
"""Number of users on whom the spread of a closed form's scores is measured."""

_BLOCK_BYTES = 64 << 20
"""Memory of one intermediate table when all items are computed without gradients."""

TARGET_GAIN, BIAS_GAIN = 10, 5
"""Unit-length features give tiny products; with this factor, one learning rate suits them and the vectors."""


class Tables(NamedTuple):
    """A view's tables of the items: source_ID and target_ID ``[I, D]``, bias_I ``[I]``."""

    source_ID: Tensor
    target_ID: Tensor
    bias_I: Tensor


@dataclass(frozen=True)
class UserInputs:
    """A batch of users as input of the views.

    history: mean-normalised ``[B, I]``. friends: mean-normalised ``[B, U]`` or None. profiles_BF: ``[B, F]`` or None.
    attributes: mean over the values of each attribute, ``[B, A]``, or None. chosen: the mean of what each of these U
    users chose, ``[U, I]``; None: as in training.
    """

    history: Adjacency
    friends: Adjacency | None = None
    profiles_BF: Tensor | None = None
    attributes: Adjacency | None = None
    chosen: Adjacency | None = None

    @classmethod
    def of(
        cls,
        users: UserBatch,
        num_items: int,
        num_users: int,
        profiles_BF: Tensor | None = None,
        kind_A: NDArray[np.int32] | None = None,
    ) -> "UserInputs":
        """Distinct items of each history, by their weights. kind_A: the attribute of each value of attributes."""
        history = mean_adjacency(users, num_items)
        friends = None if users.friends is None else Adjacency.from_ragged(users.friends, num_users).normalised("mean")
        attributes = None
        if users.attributes is not None and kind_A is not None:
            shares = attribute_matrix(users.attributes, kind_A)
            attributes = replace(Adjacency.from_pattern(shares), values=shares.data)
        return cls(history, friends, profiles_BF, attributes)


def mean_adjacency(users: UserBatch, num_items: int) -> Adjacency:
    """Distinct items of each history, ``[B, I]``, by their share of its weight: 1 / |N(u)| if all weights are equal."""
    if users.weights is None:
        return Adjacency.from_pattern(history_matrix(users.history, num_items)).normalised("mean")
    weighted = batch_matrix(users, num_items)
    totals = np.asarray(weighted.sum(axis=1)).ravel()
    shares = weighted.data / np.repeat(totals, np.diff(weighted.indptr))
    return replace(Adjacency.from_pattern(weighted), values=shares.astype(np.float32))


@dataclass(frozen=True)
class Part:
    """What a batch needs of a view. items: sorted rows ``[R]``. tables: of these. inputs: with these as its items."""

    items: NDArray[np.integer]
    tables: Tables
    inputs: UserInputs


class View(nn.Module):
    """One representation of the items. ``is_trained``: whether it has parameters to train by gradient steps.

    starts_trained: whether these were trained before, so that their initial state counts as a candidate for the best.
    """

    is_trained = True
    starts_trained = False
    _item_tables: tuple[str, ...] = ()
    """Trained parameters with one row per item."""

    @torch.no_grad()
    def take_over(self, before: "View", is_trained_I: Tensor) -> None:
        """Copy the parameters of the same view of fewer items. is_trained_I: which of them it was trained on."""
        own = self.state_dict()
        for name, value in before.state_dict().items():
            if name in self._item_tables:
                own[name][: len(value)][is_trained_I] = value[is_trained_I]
            elif self.is_trained and value.shape == own[name].shape:
                own[name].copy_(value)

    def tables(self) -> Tables:
        """The current three tables; differentiable if the view is trained."""
        raise NotImplementedError

    def part(
        self, inputs: UserInputs, candidates: NDArray[np.integer], fanout: int, random: np.random.Generator
    ) -> Part:
        """The rows of the histories and the candidates, from at most ``fanout`` sampled neighbours per node.

        With ``fanout`` at or above every degree they equal those of ``tables``, apart from dropout.
        """
        raise NotImplementedError

    def user_vectors(self, inputs: UserInputs, tables: Tables) -> Tensor:
        """h_u of each user, ``[B, D]``; zero for an empty history."""
        return propagate(inputs.history, tables.source_ID)


class GraphView(View):
    """Learned item vectors, smoothed over the user-item graph: ê = 1/(L+1) Σ_l (R̃ᵀ R̃)^l e (He et al., SIGIR 2020).

    R̃ is the symmetrically normalised user-item adjacency. Users carry no parameters, which makes the view inductive;
    source and target are one table, so that two items are as close as their neighbourhoods.
    Friends add ``friend_weight`` times the mean of their own vectors.
    """

    _item_tables = ("vectors", "bias")

    def __init__(self, interactions: Adjacency, dimensions: int, layers: int, has_friends: bool) -> None:
        super().__init__()
        by_user = interactions.normalised("symmetric")
        self._message_layers = [Layer((Relation((by_user, by_user.transposed)),))] * layers
        self._means = interactions.normalised("mean")
        self._layers = layers
        degrees = torch.from_numpy(interactions.column_degrees.astype(np.float32))
        # Scores start near the log popularity that a softmax without vectors would learn.
        self.bias = nn.Parameter(torch.log((degrees + 1) / (degrees + 1).mean()))
        # An unseen item is never a candidate in training: it keeps the zero vector.
        start = torch.randn(interactions.shape[1], dimensions) * 0.2 * (128 / dimensions) ** 0.25
        self.vectors = nn.Parameter(start * (degrees > 0)[:, None])
        self.friend_weight = nn.Parameter(torch.tensor(0.5 if has_friends else 0.0), requires_grad=has_friends)

    @torch.no_grad()
    def take_over(self, before: View, is_trained_I: Tensor) -> None:
        self.vectors.zero_()
        super().take_over(before, is_trained_I)

    def extra_repr(self) -> str:
        return f"layers={self._layers}"

    def tables(self) -> Tables:
        if torch.is_grad_enabled():
            smooth = self._smooth(self._message_layers)
        else:
            smooth = torch.empty_like(self.vectors)
            # No dimension depends on another one: a large catalogue's intermediate tables need not all fit in memory.
            width = max(1, _BLOCK_BYTES // (4 * len(smooth)))
            for first in range(0, smooth.shape[1], width):
                columns = slice(first, first + width)
                smooth[:, columns] = self._smooth(self._message_layers, columns=columns)
        return Tables(smooth, smooth, self.bias)

    def part(
        self, inputs: UserInputs, candidates: NDArray[np.integer], fanout: int, random: np.random.Generator
    ) -> Part:
        items = np.union1d(inputs.history.indices, candidates)
        if inputs.friends is not None:
            friends, users = sampled_rows(inputs.friends, np.arange(inputs.friends.shape[0]), fanout, random)
            chosen, reached = sampled_rows(self._means, users, fanout, random)
            items = np.union1d(items, reached)
            inputs = replace(inputs, friends=friends, chosen=widened(chosen, reached, items))
        layers, start = sampled_layers(self._message_layers, items, fanout, random)
        smooth = self._smooth(layers, torch.from_numpy(start).to(self.bias.device))
        tables = Tables(smooth, smooth, self.bias[torch.from_numpy(items).to(self.bias.device)])
        return Part(items, tables, replace(inputs, history=narrowed(inputs.history, items)))

    def _smooth(self, layers: Sequence[Layer], items_R: Tensor | None = None, columns: slice = slice(None)) -> Tensor:
        """The mean of all layers' vectors, starting from some items (None: all), in some dimensions."""
        current = total = self._start(items_R, columns)
        pass_on = self._passing(columns)
        for layer in layers:
            current = pass_on(layer, current)
            total = (total if layer.kept is None else total[torch.from_numpy(layer.kept).to(total.device)]) + current
        return total / (len(layers) + 1)

    def _start(self, items_R: Tensor | None, columns: slice) -> Tensor:
        """Vectors before any message, of some items (None: all), in some dimensions."""
        return self.vectors[:, columns] if items_R is None else self.vectors[items_R][:, columns]

    def _passing(self, columns: slice) -> Callable[[Layer, Tensor], Tensor]:
        """What a layer makes of the vectors of the layer before, in some dimensions."""
        return lambda layer, current: layer.relations[0].messages(current)

    def user_vectors(self, inputs: UserInputs, tables: Tables) -> Tensor:
        own = propagate(inputs.history, tables.source_ID)
        if inputs.friends is None:
            return own
        return own + propagate(inputs.friends, self.friend_vectors(tables, inputs.chosen))

    def friend_vectors(self, tables: Tables, chosen: Adjacency | None = None) -> Tensor:
        """What each user of the graph contributes as the only friend of another, ``[U, D]``. chosen: see the inputs."""
        means = self._means if chosen is None else chosen
        vectors: Tensor = self.friend_weight * propagate(means, tables.source_ID)
        return vectors


class FilterView(View):
    """Ridge regression of every item on all others, kept at low rank: a low-pass filter with a learned cutoff.

    With M = U S Vᵀ truncated and f = s²/(s² + λ)::  score = history · V f Vᵀ / (1 − Σ_k v_ik² f_k)

    the low-rank form of EASE (Steck, WWW 2019) for items outside the history, where its zero diagonal has no effect.
    """

    is_trained = False

    def __init__(self, source_ID: Tensor, target_ID: Tensor) -> None:
        super().__init__()
        self.register_buffer("source", source_ID)
        self.register_buffer("target", target_ID)

    @classmethod
    def fit(cls, interactions: Adjacency, rank: int, ridge: float) -> "FilterView":
        """Solve for the factors; ``interactions`` ``[U, I]`` without repeats."""
        source, target = _low_rank_ridge(interactions, rank, ridge)
        return cls(torch.from_numpy(source), torch.from_numpy(target))

    @torch.no_grad()
    def refit(self, interactions: Adjacency, ridge: float) -> "FilterView":
        """The filter of more ``interactions``, and perhaps items, its factors rotated as close to these as possible.

        A rotation of both factors changes no score (Schönemann, 1966), and a ranking head trained on these factors
        also fits the new ones.
        """
        old = self.get_buffer("source")
        source, target = _low_rank_ridge(interactions, old.shape[1], ridge)
        left, _, right = np.linalg.svd(source[: len(old)].T @ old.cpu().numpy())
        return FilterView(torch.from_numpy(source @ (left @ right)), torch.from_numpy(target @ (left @ right)))

    def tables(self) -> Tables:
        source, target = self.get_buffer("source"), self.get_buffer("target")
        return Tables(source, target, torch.zeros(len(source), device=source.device))


def _low_rank_ridge(
    interactions: Adjacency, rank: int, ridge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both factors, float32 ``[I, rank]``."""
    import scipy.sparse as sp

    ones = np.ones(interactions.num_edges, np.float32)
    matrix = sp.csr_matrix((ones, interactions.indices, interactions.indptr), shape=interactions.shape)
    singular, right = right_singular(matrix, rank)
    response = singular**2 / (singular**2 + ridge)
    factors = right * np.sqrt(response)
    leverage = np.minimum((factors**2).sum(axis=1, keepdims=True), 0.99)
    target = factors / (1 - leverage)
    # A fixed spread, near that of trained logits, so that the fusion's weights start at a useful scale.
    means = sp.csr_matrix(matrix[:_SAMPLED_USERS])
    sample = (means @ factors) @ target.T / np.maximum(means.sum(axis=1), 1).reshape(-1, 1)
    spread = float(np.std(sample))
    # With one item or one taste there is no spread except rounding errors.
    scale = 1 / spread if spread > 1e-4 * np.abs(sample).max() else 1.0
    return (factors * scale).astype(np.float32), target.astype(np.float32)


class LanguageView(View):
    """Linear maps of the text features: source = W₁ f_i, target = W₂ f_i, bias = w·f_i, profile: W₃ f_u.

    An item is represented by its text alone, so a new item has vectors as soon as its text is read.
    features_IF: ``[I, F]``, rows of unit length or zero.
    """

    def __init__(self, features_IF: Tensor, dimensions: int, feature_dropout: float, has_profiles: bool) -> None:
        super().__init__()
        width = features_IF.shape[1]
        self.register_buffer("features", features_IF)
        self.to_source = nn.Linear(width, dimensions, bias=False)
        self.to_target = nn.Linear(width, dimensions, bias=False)
        self.to_bias = nn.Linear(width, 1)
        self.from_profile = nn.Linear(width, dimensions, bias=False) if has_profiles else None
        if self.from_profile is not None:
            nn.init.zeros_(self.from_profile.weight)
        self.dropout = nn.Dropout(feature_dropout)

    def tables(self) -> Tables:
        return self.read(self.get_buffer("features"))

    def part(
        self, inputs: UserInputs, candidates: NDArray[np.integer], fanout: int, random: np.random.Generator
    ) -> Part:
        items = np.union1d(inputs.history.indices, candidates)
        features = self.get_buffer("features")
        tables = self.read(features[torch.from_numpy(items).to(features.device)])
        return Part(items, tables, replace(inputs, history=narrowed(inputs.history, items)))

    def read(self, features_IF: Tensor) -> Tables:
        """The three tables of any texts' features, ``[n, F]``."""
        features = self.dropout(features_IF)
        target_ID, bias_I = self.to_target(features) * TARGET_GAIN, self.to_bias(features)[:, 0] * BIAS_GAIN
        return Tables(self.to_source(features), target_ID, bias_I)

    def user_vectors(self, inputs: UserInputs, tables: Tables) -> Tensor:
        own = propagate(inputs.history, tables.source_ID)
        if self.from_profile is None or inputs.profiles_BF is None:
            return own
        profile: Tensor = self.from_profile(inputs.profiles_BF)
        return own + profile
