"""A language model as a chain of layers that can be split into stages: embeddings, layers, norm, pooling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lanner.errors import ConfigError

Family = Literal["bert", "llama"]
Pool = Callable[[Tensor, Tensor], Tensor]
"""From hidden states ``[B, L, D]`` and mask ``[B, L]`` to vectors ``[B, D]``."""


@dataclass(frozen=True)
class Chain:
    """The parts of a ``transformers`` model.

    family: ``bert`` (encoders such as MiniLM) or ``llama`` (decoders such as Qwen). rotary: position embedding of a
    decoder.
    """

    family: Family
    embeddings: nn.Module
    layers: nn.ModuleList
    norm: nn.Module | None
    rotary: nn.Module | None
    heads: int
    key_value_heads: int
    pool: Pool
    in_bfloat16: bool = False
    """Whether layers run under bfloat16 autocast; tensors exchanged between stages and ranks are always float32."""


def chain_of(model: nn.Module, pool: Pool, in_bfloat16: bool = False) -> Chain:
    """The parts of ``model``, which may carry peft adapters. pool, in_bfloat16: see ``Chain``.

    Raises:
        ConfigError: its layers are neither BERT's nor Llama's.
    """
    base = cast(Any, model)
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    config: Any = getattr(base, "config", None)
    if hasattr(base, "encoder") and hasattr(base.encoder, "layer") and hasattr(base.encoder.layer[0], "intermediate"):
        heads = int(config.num_attention_heads)
        if hasattr(base.encoder, "relative_attention_bias"):
            raise ConfigError(f"{type(base).__name__} shares an attention bias between layers and cannot be divided")
        return Chain("bert", base.embeddings, base.encoder.layer, None, None, heads, heads, pool, in_bfloat16)
    if all(hasattr(base, name) for name in ("embed_tokens", "layers", "norm", "rotary_emb")):
        heads = int(config.num_attention_heads)
        pairs = int(getattr(config, "num_key_value_heads", heads))
        return Chain(
            "llama", base.embed_tokens, base.layers, base.norm, base.rotary_emb, heads, pairs, pool, in_bfloat16
        )
    raise ConfigError(
        f"{type(base).__name__} cannot be divided over devices: its layers are neither those of BERT nor of Llama"
    )


def recompute_activations(layer: nn.Module) -> None:
    """From now on keep only the layer's input for the backward pass, and run its forward again there.

    Only ``forward`` is replaced: parameter names stay, and the layer's own hooks (FSDP's, clocks) run once.
    """
    plain = layer.forward

    def forward(*given: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **options)
        return checkpoint(plain, *given, use_reentrant=False, **options)

    layer.forward = forward


class Stage(nn.Module):
    """Layers ``first`` to ``last`` of a chain; the first stage has the embeddings, the last the norm and pooling."""

    def __init__(self, chain: Chain, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self._family, self._pool = chain.family, chain.pool
        self.begins, self.ends = first == 0, last == len(chain.layers)
        self.embeddings = chain.embeddings if self.begins else None
        self.layers = nn.ModuleDict({str(number): chain.layers[number] for number in range(first, last)})
        self.norm = chain.norm if self.ends else None
        self.rotary, self._in_bfloat16 = chain.rotary, chain.in_bfloat16

    def forward(self, inputs: Tensor, mask_BL: Tensor) -> Tensor:
        """Hidden states ``[B, L, D]``; for the last stage, vectors ``[B, D]``.

        inputs: token ids, int64 ``[B, L]``, for the first stage; otherwise the hidden states of the previous stage.
        """
        with torch.autocast(mask_BL.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            hidden_BLD = self._hidden(inputs, mask_BL).float()
        return self._pool(hidden_BLD, mask_BL) if self.ends else hidden_BLD

    def _hidden(self, inputs: Tensor, mask_BL: Tensor) -> Tensor:
        hidden_BLD: Tensor = inputs if self.embeddings is None else self.embeddings(inputs)
        options = self._options(hidden_BLD, mask_BL)
        for layer in self.layers.values():
            out = layer(hidden_BLD, **options)
            hidden_BLD = out[0] if isinstance(out, tuple) else out
        normed: Tensor = hidden_BLD if self.norm is None else self.norm(hidden_BLD)
        return normed

    def _options(self, hidden_BLD: Tensor, mask_BL: Tensor) -> dict[str, Any]:
        length = hidden_BLD.shape[1]
        visible = mask_BL[:, None, None, :].bool()
        if self._family == "llama":
            visible = visible & torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
        else:
            visible = visible.expand(-1, 1, length, -1)
        bias = torch.zeros(visible.shape, dtype=hidden_BLD.dtype, device=hidden_BLD.device)
        bias = bias.masked_fill(~visible, torch.finfo(hidden_BLD.dtype).min)
        if self.rotary is None:
            return {"attention_mask": bias}
        positions = torch.arange(length, device=hidden_BLD.device)[None]
        return {
            "attention_mask": bias,
            "position_ids": positions,
            "position_embeddings": self.rotary(hidden_BLD, positions),
        }
