"""How an encoder is cut: what a runtime that knows no torch must be told of it."""

from dataclasses import dataclass

from lanner.errors import ConfigError


@dataclass(frozen=True)
class EncoderShape:
    """Everything about a ``CompactEncoder`` but its numbers; plain values, fit for JSON."""

    heads: tuple[int, ...]
    """Attention heads of each layer."""
    feed_forward: tuple[int, ...]
    """Inner width of each layer's feed-forward part."""
    head_size: int
    hidden: int
    """D, the length of a vector."""
    vocabulary: int
    positions: int
    """Tokens of the longest text."""
    norm_epsilon: float = 1e-12
    """Added to the variance in every layer norm."""

    def __post_init__(self) -> None:
        # JSON knows no tuples.
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
