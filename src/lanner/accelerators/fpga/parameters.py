"""Build-time sizes of an accelerator, and derived values."""

from dataclasses import dataclass
from typing import Literal

from lanner.accelerators.contract import MAX_SHIFT, ROW_BITS
from lanner.errors import ConfigError


def log2(number: int) -> int:
    """Bits needed for ``number`` values: ⌈log2 number⌉."""
    return (number - 1).bit_length()


@dataclass(frozen=True)
class Parameters:
    """Sizes of an accelerator."""

    dimensions: int = 64
    """Length of a vector."""
    lanes: int = 64
    """Multipliers of the array: codes multiplied per cycle."""
    rows: int = 4096
    """Vectors on chip: items where source and target share one table, else twice the items."""
    items: int = 4096
    """Items on chip: scales and biases."""
    k: int = 10
    """Longest list."""
    score_shift: int = 14
    """The contract's p."""
    requantisers: int = 4
    """Elements of the user vector requantised per cycle."""
    item_to_item: bool = False
    """Whether item-to-item rows, which come with each request, add to the scores."""
    multiplier: Literal["inferred", "ecp5"] = "inferred"
    """inferred: the synthesiser chooses. ecp5: MULT18X18D with all its registers."""

    def __post_init__(self) -> None:
        for name in ("dimensions", "lanes", "requantisers"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ConfigError(f"{name} is {value}; it must be a power of two (pad vectors with zeros)")
        if self.lanes < 4 or self.dimensions < self.lanes:
            raise ConfigError(f"lanes is {self.lanes}; it must be 4 … dimensions, here {self.dimensions}")
        if self.requantisers > self.lanes:
            raise ConfigError(f"requantisers is {self.requantisers}; it must be at most lanes, here {self.lanes}")
        if not 2 <= self.items <= self.rows <= 2 << ROW_BITS or self.items > 1 << ROW_BITS:
            raise ConfigError(f"items and rows are {self.items:,} and {self.rows:,}; items must be 2 … rows")
        if not 1 <= self.k <= 255:
            raise ConfigError(f"k is {self.k}; it must be 1 … 255")
        if not 0 <= self.score_shift <= MAX_SHIFT:
            raise ConfigError(f"score_shift is {self.score_shift}; it must be 0 … {MAX_SHIFT}")

    @property
    def beats(self) -> int:
        """Cycles that a vector takes to pass through the array."""
        return self.dimensions // self.lanes

    @property
    def dot_bits(self) -> int:
        """Signed bits of a dot product."""
        return 24 + log2(self.dimensions)

    @property
    def block_rams(self) -> int:
        """Memories of 18 kbit (ECP5's DP16KD) that tables, scales and biases take: an estimate before synthesis."""
        words = -(-self.rows * self.beats // 2048)
        item_words = -(-self.items // 2048)
        sums = item_words * 4 if self.item_to_item else 0
        return words * -(-self.lanes * 8 // 9) + item_words * -(-60 // 9) + sums
