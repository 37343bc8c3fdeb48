"""Heads that combine the views of a user-item pair into one score.

All start as the weighted sum of the views' dot products (the retrieval head: one inner product, so that an index can
serve it) and add a learned correction that starts at zero (the ranking head). z = h_u ‖ e_u ‖ h_i ‖ e_i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class PairInputs:
    """Users and candidate items as V views see them.

    users: V tensors ``[B, D_v]``. items: V tensors ``[C, D_v]``. scores: V tensors ``[B, C]``. is_cold_C: ``[C]``
    where an item was unseen in training, so that its graph vectors are borrowed from its neighbours.
    """

    users: list[Tensor]
    items: list[Tensor]
    scores: list[Tensor]
    is_cold_C: Tensor


class Fusion(nn.Module):
    """The retrieval head alone (``sum``), on which each ranking head builds."""

    def __init__(self, dimensions: list[int]) -> None:
        super().__init__()
        self.dimensions = dimensions
        # Chosen by validation ranking quality, which is not differentiable; hence not a parameter.
        self.register_buffer("weights", torch.ones(2, len(dimensions)))

    def view_weights(self, is_cold_C: Tensor) -> Tensor:
        """Weight of each view, ``[C, V]``; unseen items have separate weights."""
        return self.get_buffer("weights")[is_cold_C.long()]

    def retrieval(self, pair: PairInputs) -> Tensor:
        """The weighted sum of dot products, ``[B, C]``."""
        weights_CV = self.view_weights(pair.is_cold_C)
        total: Tensor = pair.scores[0] * weights_CV[:, 0]
        for view, scores_BC in enumerate(pair.scores[1:], start=1):
            total = total + scores_BC * weights_CV[:, view]
        return total

    def correction(self, pair: PairInputs) -> Tensor:
        """What the ranking head adds, ``[B, C]``."""
        return torch.zeros_like(pair.scores[0])

    def forward(self, pair: PairInputs) -> Tensor:
        return self.retrieval(pair) + self.correction(pair)


class ConcatFusion(Fusion):
    """MLP over z, as in the papers. Its first layer splits into a user half and an item half:

    hidden = relu(W_u [h_u ‖ e_u] + W_i [h_i ‖ e_i] + b)
    """

    def __init__(self, dimensions: list[int], hidden: int = 64) -> None:
        super().__init__(dimensions)
        self.from_user = nn.Linear(sum(dimensions), hidden)
        self.from_item = nn.Linear(sum(dimensions), hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def correction(self, pair: PairInputs) -> Tensor:
        user_BH = self.from_user(torch.cat(normalised(pair.users), 1))
        item_CH = self.from_item(torch.cat(normalised(pair.items), 1))
        hidden_BCH = torch.relu(user_BH[:, None] + item_CH[None])
        result: Tensor = self.out(hidden_BCH)[:, :, 0]
        return result


class GatedFusion(Fusion):
    """Per view one gate from the user and one from the item: Σ_v (4 σ(a_v(z_u)) σ(b_v(z_i)) − 1) w_v h_v·t_v."""

    def __init__(self, dimensions: list[int]) -> None:
        super().__init__(dimensions)
        self.user_gate = nn.Linear(sum(dimensions), len(dimensions))
        self.item_gate = nn.Linear(sum(dimensions), len(dimensions))
        for gate in (self.user_gate, self.item_gate):
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)

    def correction(self, pair: PairInputs) -> Tensor:
        users = torch.cat(normalised(pair.users), 1)
        items = torch.cat(normalised(pair.items), 1)
        gates_BV, gates_CV = 2 * torch.sigmoid(self.user_gate(users)), 2 * torch.sigmoid(self.item_gate(items))
        weights_CV = self.view_weights(pair.is_cold_C)
        parts = [
            (gates_BV[:, view, None] * gates_CV[None, :, view] - 1) * weights_CV[:, view] * (user @ item.T)
            for view, (user, item) in enumerate(zip(pair.users, pair.items, strict=True))
        ]
        return torch.stack(parts).sum(0)


class CrossAttentionFusion(Fusion):
    """Each item view attends to the user views: Σ_v Σ_w softmax_w(q_v(i)·k_w(u)/√d) · (o_v(i)·m_w(u))."""

    def __init__(self, dimensions: list[int], width: int = 32) -> None:
        super().__init__(dimensions)
        self.query, self.key, self.message, self.out = (
            nn.ModuleList(nn.Linear(size, width, bias=False) for size in dimensions) for _ in range(4)
        )
        for layer in self.out:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def correction(self, pair: PairInputs) -> Tensor:
        users, items = normalised(pair.users), normalised(pair.items)
        keys = [layer(x) for layer, x in zip(self.key, users, strict=True)]
        messages = [layer(x) for layer, x in zip(self.message, users, strict=True)]
        total = torch.zeros_like(pair.scores[0])
        for query, out, item in zip(self.query, self.out, items, strict=True):
            item_query, item_output = query(item), out(item)
            attention = torch.stack([key @ item_query.T for key in keys]).div(item_query.shape[1] ** 0.5).softmax(0)
            total = total + (attention * torch.stack([message @ item_output.T for message in messages])).sum(0)
        return total


def normalised(views: list[Tensor]) -> list[Tensor]:
    """Each view's vectors after a layer norm: views differ in scale, which a head should not have to learn."""
    return [functional.layer_norm(vectors, vectors.shape[1:]) for vectors in views]


FUSIONS: dict[str, type[Fusion]] = {
    "sum": Fusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "cross-attention": CrossAttentionFusion,
}
