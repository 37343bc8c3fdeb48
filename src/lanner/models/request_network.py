"""The scoring half of a request form as a torch module: the oracle of every other runtime, and what they export."""

import torch
from torch import Tensor, nn

from lanner.models.request_form import RequestForm, take


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

    def forward(self, users_BD: Tensor) -> Tensor:
        """Scores ``[B, I]``."""
        scores: Tensor = users_BD @ self.get_buffer("target_DI") + self.get_buffer("bias_I")
        if not self.has_head:
            return scores
        parts = torch.split(users_BD, list(self.view_sizes), dim=1)
        read_BD = torch.cat([nn.functional.layer_norm(part, part.shape[1:]) for part in parts], dim=1)
        hidden_BH = read_BD @ self.get_buffer("user_DH") + self.get_buffer("bias_H")
        pairs_BIH = torch.relu(hidden_BH[:, None] + self.get_buffer("item_IH")[None])
        return scores + pairs_BIH @ self.get_buffer("out_H")
