"""Settings of the hybrid; importable without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from lanner.errors import ConfigError
from lanner.models.bounds import check_numbers

PartName = Literal[
    "ridge", "dense-ridge", "filter", "low-pass", "order", "text", "softmax", "popularity", "rating", "network"
]


@dataclass(frozen=True)
class HybridConfig:
    """Which parts the hybrid may use; validation chooses their settings and weights."""

    parts: tuple[PartName, ...] = get_args(PartName)
    """Parts that may be used: closed-form models, and ``network`` for the trained views (see ``neural.views``)."""
    neighbours: int = 128
    """Number of most co-occurring items that each item is regressed on."""
    text_neighbours: int = 50
    """Number of items with the most similar texts that are added to them."""
    dense_items: int = 10_000
    """Largest catalogue for which the dense ridge is tried: it holds a few dense items × items matrices."""
    softmax_items: int = 500
    """Largest catalogue for which the softmax is tried: it scores all items for every event."""
    kept: int = 500
    """Number of largest weights kept in each row of the item-to-item matrix."""
    rank: int = 512
    """Rank of the low-pass filter."""
    tuning_users: int = 2_000
    """Validation users on whom the settings of each part are tuned; 0: keep the defaults."""
    weighing_users: int = 8_000
    """Validation users on whom the weights of the parts are tuned."""
    minimum_gain: float = 0.0005
    """A part is kept if it raises validation ndcg@10 by this share."""
    growth: float = 0.0
    """An update re-solves the regressions of items whose number of users has grown by more than this share."""
    seed: int = 0
    """Random seed of the low-pass filter and of the sample of users."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "hybrid",
            at_least_1=("neighbours", "text_neighbours", "kept", "rank", "weighing_users"),
            at_least_0=("dense_items", "softmax_items", "tuning_users", "seed", "minimum_gain", "growth"),
        )
        known = get_args(PartName)
        if not self.parts or len(set(self.parts)) != len(self.parts) or not set(self.parts) <= set(known):
            raise ConfigError(f"hybrid.parts must name at least one of {', '.join(known)}, received {self.parts}")
