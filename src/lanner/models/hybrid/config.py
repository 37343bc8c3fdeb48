"""Settings of the hybrid; read by everyone, torch or not."""

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
    """Parts that may take part: closed forms, and ``network`` for the trained views (see ``neural.views``)."""
    neighbours: int = 128
    """Items by co-occurrence that each item is regressed on."""
    text_neighbours: int = 50
    """Items by text that join them."""
    dense_items: int = 10_000
    """Largest catalogue for which the dense ridge is tried: it holds a few matrices items × items."""
    softmax_items: int = 500
    """Largest catalogue for which the softmax is tried: it scores all items for every event."""
    kept: int = 500
    """Largest weights kept in each row of the item-to-item matrix."""
    rank: int = 512
    """Rank of the low-pass filter."""
    tuning_users: int = 2_000
    """Validation users by whom the settings of a part are chosen; 0: they stay as they are by default."""
    weighing_users: int = 8_000
    """Validation users by whom the weights of the parts are chosen."""
    minimum_gain: float = 0.0005
    """A part is kept if it raises ndcg@10 on validation by this share."""
    growth: float = 0.1
    """An update solves the regressions of those items anew whose number of users has grown by this share."""
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
