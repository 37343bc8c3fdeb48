"""A prunable sentence encoder of the BERT family: each layer has its own number of heads and width.

The arithmetic is that of BERT (Devlin et al., NAACL 2019) with mean pooling as in Sentence-BERT (Reimers & Gurevych,
EMNLP 2019). Three things are folded on import, none of which changes a vector: the embedding of the
only token type is added to the positions, 1/√head_size is folded into the query weights, and the three projections of
a layer are fused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lanner.errors import ConfigError
from lanner.models.batches_of_texts import batches_of_tokens, pad_right

MASKED = -1e9
"""Added to the score of a padded token; finite, because the softmax of a row of −inf is undefined."""
_TOKENS_AT_ONCE = 2048
SHORTEST = 1e-12
"""A vector shorter than this is not scaled to length 1."""


@dataclass(frozen=True)
class EncoderShape:
    """Everything about a ``CompactEncoder`` except its weights; plain values that JSON can hold."""

    heads: tuple[int, ...]
    """Attention heads of each layer."""
    feed_forward: tuple[int, ...]
    """Inner width of each layer's feed-forward block."""
    head_size: int
    hidden: int
    """D, the length of a vector."""
    vocabulary: int
    positions: int
    """Maximum number of tokens of a text."""
    norm_epsilon: float = 1e-12
    """Epsilon added to the variance in every layer norm."""

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "heads", tuple(self.heads))
        object.__setattr__(self, "feed_forward", tuple(self.feed_forward))
        if len(self.heads) != len(self.feed_forward):
            raise ConfigError(f"heads of {len(self.heads)} layers, but feed_forward of {len(self.feed_forward)}")
        numbers = (*self.heads, *self.feed_forward, self.head_size, self.hidden, self.vocabulary, self.positions)
        if min(numbers) < 1:
            raise ConfigError(f"every size of an encoder must be at least 1, received {self}")

    @property
    def num_layers(self) -> int:
        return len(self.heads)


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward block; each is added to its input and normalised (post-norm)."""

    def __init__(self, shape: EncoderShape, number: int) -> None:
        super().__init__()
        self.heads, self.head_size = shape.heads[number], shape.head_size
        width = self.heads * self.head_size
        self.attend = nn.Linear(shape.hidden, 3 * width)
        """Rows: queries, keys, values; within each, head after head."""
        self.join = nn.Linear(width, shape.hidden)
        self.attention_norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)
        self.widen = nn.Linear(shape.hidden, shape.feed_forward[number])
        self.narrow = nn.Linear(shape.feed_forward[number], shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)

    def forward(self, hidden_BLD: Tensor, bias_B11L: Tensor) -> Tensor:
        """``[B, L, D]``; ``bias_B11L`` is added to the scores of every head and query."""
        batch, length, _ = hidden_BLD.shape
        projected = self.attend(hidden_BLD).view(batch, length, 3, self.heads, self.head_size)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        # The scale is already folded into the query weights.
        mixed = functional.scaled_dot_product_attention(query, key, value, bias_B11L, scale=1.0)
        joined = self.join(mixed.transpose(1, 2).reshape(batch, length, -1))
        hidden_BLD = self.attention_norm(hidden_BLD + joined)
        return self.norm(hidden_BLD + self.narrow(functional.gelu(self.widen(hidden_BLD))))  # type: ignore[no-any-return]


class CompactEncoder(nn.Module):
    """Token ids to sentence vectors of length 1.

    Built by ``from_bert`` from a model of transformers, or by ``from_state`` from saved state: ``shape`` (as JSON)
    and ``state_dict()`` (as safetensors) describe it completely.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)
        self.layers = nn.ModuleList(EncoderLayer(shape, number) for number in range(shape.num_layers))

    @classmethod
    def from_bert(cls, model: Any) -> Self:
        """The same encoder as ``model`` (a ``BertModel`` of transformers) with mean pooling, in float32.

        Raises:
            ConfigError: ``model`` is of another family, or a variant of BERT that computes something else.
        """
        config = model.config
        _require_plain_bert(config)
        shape = EncoderShape(
            heads=(config.num_attention_heads,) * config.num_hidden_layers,
            feed_forward=(config.intermediate_size,) * config.num_hidden_layers,
            head_size=config.hidden_size // config.num_attention_heads,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            positions=config.max_position_embeddings,
            norm_epsilon=config.layer_norm_eps,
        )
        return cls.from_state(shape, _state_of_bert(model.state_dict(), shape))

    @classmethod
    def from_state(cls, shape: EncoderShape, state: Mapping[str, Tensor]) -> Self:
        """An encoder of ``shape`` with a copy of the weights in ``state``, ready for inference.

        Raises:
            ConfigError: names or sizes in ``state`` are not those of ``shape``.
        """
        # On the meta device nothing is initialised or allocated for weights that are replaced at once.
        with torch.device("meta"):
            encoder = cls(shape)
        copies = {name: value.detach().clone().contiguous() for name, value in state.items()}
        try:
            encoder.load_state_dict(copies, assign=True)
        except RuntimeError as mismatch:
            reason = " ".join(str(mismatch).split())
            raise ConfigError(f"the weights do not match their stated shape ({reason})") from mismatch
        return encoder.requires_grad_().eval()

    @property
    def num_parameters(self) -> int:
        """All parameters of the encoder, including embeddings."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of the layers alone: what a request multiplies by, whatever the vocabulary."""
        return sum(parameter.numel() for parameter in self.layers.parameters())

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Sentence vectors ``[B, D]`` of length 1; zeros for a row that is all padding.

        ids_BL: int64 ``[B, L]``, L ≤ ``shape.positions``. mask_BL: int64 ``[B, L]``, 1 for a token, 0 for padding.
        """
        mask_BL = mask_BL.to(self.words.weight.dtype)
        bias_B11L = ((1 - mask_BL) * MASKED)[:, None, None, :]
        hidden_BLD = self.norm(self.words(ids_BL) + self.positions.weight[: ids_BL.shape[1]])
        for layer in self.layers:
            hidden_BLD = layer(hidden_BLD, bias_B11L)
        # The sum is normalised: it has the same direction as the mean.
        return functional.normalize((hidden_BLD * mask_BL[:, :, None]).sum(1), dim=1, eps=SHORTEST)

    def copy(self) -> Self:
        """An independent copy of the encoder."""
        return self.from_state(self.shape, self.state_dict())


@torch.inference_mode()
def vectors_of(encoder: CompactEncoder, token_ids: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Sentence vectors ``[T, D]`` of texts given as token ids, special tokens included; zeros for texts without any."""
    return read_in_batches(lambda *batch: encoder(*batch).float().numpy(), token_ids, encoder.shape.hidden)


def read_in_batches(
    encode: Callable[[Tensor, Tensor], NDArray[np.float32]], token_ids: Sequence[NDArray[np.int32]], hidden: int
) -> NDArray[np.float32]:
    """Like ``vectors_of``, with any function from ids and mask ``[B, L]`` to vectors ``[B, hidden]``."""
    vectors = np.zeros((len(token_ids), hidden), np.float32)
    for rows in batches_of_tokens(np.array([len(ids) for ids in token_ids], np.int64), _TOKENS_AT_ONCE):
        vectors[rows] = encode(*pad_right([token_ids[row] for row in rows], 0))
    return vectors


def _require_plain_bert(config: Any) -> None:
    family = getattr(config, "model_type", type(config).__name__)
    if family != "bert":
        raise ConfigError(f"only encoders of the BERT family can be made compact, received '{family}'")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if config.hidden_act != "gelu" or positions != "absolute" or config.is_decoder:
        raise ConfigError(
            "only a BERT with gelu, absolute positions and no decoder can be made compact, received "
            f"{config.hidden_act}, {positions} positions{', a decoder' if config.is_decoder else ''}"
        )


def _state_of_bert(theirs: Mapping[str, Tensor], shape: EncoderShape) -> dict[str, Tensor]:
    theirs = {name: value.float() for name, value in theirs.items()}
    types = theirs["embeddings.token_type_embeddings.weight"]
    state = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"] + types[0],
        "norm.weight": theirs["embeddings.LayerNorm.weight"],
        "norm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    for number in range(shape.num_layers):
        for kind in ("weight", "bias"):
            source, target = f"encoder.layer.{number}", f"layers.{number}"
            query, key, value = (theirs[f"{source}.attention.self.{one}.{kind}"] for one in ("query", "key", "value"))
            state[f"{target}.attend.{kind}"] = torch.cat([query / math.sqrt(shape.head_size), key, value])
            state |= {f"{target}.{ours}.{kind}": theirs[f"{source}.{name}.{kind}"] for ours, name in _LAYER.items()}
    return state


_LAYER = {
    "join": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
"""Parts of a layer, and their names in transformers."""
