"""What an index is asked for, and which structure that calls for."""

from dataclasses import dataclass
from typing import Literal, get_args

from lanner.errors import ConfigError

Kind = Literal["exact", "exact-int8", "ivf-pq", "hnsw"]
Precision = Literal["float32", "float16", "int8"]

LINKS = 14
"""Neighbours of an item on the upper levels of the graph; twice as many on the lowest, which holds every item."""
TRAINABLE_ITEMS = 1000
"""Fewer items are searched exactly whatever is asked for: nothing is gained, and centroids cannot be learnt."""
_EXACT_NUMBERS = 1 << 20
"""items × dimensions that one core scans in about a quarter of a millisecond; beyond, what is quicker is measured."""
_MIB = 1 << 20


@dataclass(frozen=True)
class RetrievalConfig:
    """How items are to be retrieved."""

    kind: Literal["auto", "exact", "exact-int8", "hnsw", "ivf-pq"] = "auto"
    """The structure; "auto" scans small catalogues exactly, and for others keeps what measures fastest."""
    recall_target: float = 0.99
    """Share of the true best that approximate kinds must find; 1 asks for an exact kind."""
    memory_mib: int = 0
    """MiB that the index may take, all that it needs to search and re-score included; 0: no limit."""

    def __post_init__(self) -> None:
        kinds = ("auto", *get_args(Kind))
        if self.kind not in kinds:
            raise ConfigError(f"retrieval.kind is '{self.kind}', it must be one of {', '.join(kinds)}")
        if not 0 < self.recall_target <= 1:
            raise ConfigError(f"retrieval.recall_target is {self.recall_target}, it must be above 0 and at most 1")
        if self.memory_mib < 0:
            raise ConfigError(f"retrieval.memory_mib is {self.memory_mib}, it must be at least 0")


@dataclass(frozen=True)
class Plan:
    """A structure and the form its vectors are kept in."""

    kind: Kind
    precision: Precision


@dataclass(frozen=True)
class Measured:
    """How an index did on a sample of queries, at the effort it spends."""

    kind: Kind
    recall: float
    """Share of the true best that it found."""
    microseconds: float
    """Median of a query asked alone."""

    def __str__(self) -> str:
        return f"{self.kind} finds {self.recall:.2%} of the best in {self.microseconds:.0f} µs a query"


_PLANS = (
    Plan("exact", "float32"),
    Plan("exact-int8", "int8"),
    Plan("ivf-pq", "float16"),
    Plan("ivf-pq", "int8"),
    Plan("hnsw", "float16"),
)
"""Quickest to build first; of one kind, the more precise first."""


def choose(num_items: int, dimensions: int, config: RetrievalConfig) -> tuple[Plan, ...]:
    """The structures that may serve a catalogue, quickest to build first; among several only a measurement decides.

    A kind that is named is taken, in the most precise form that fits the memory. "auto" takes the exact scan where it
    costs a quarter of a millisecond or recall must be 1; beyond that every kind that fits is named, each in its most
    precise form. How precise numbers are is the variant's affair, so "auto" scans INT8 only where float32 does not fit.

    Raises:
        ConfigError: nothing that may be chosen fits the memory.
    """
    kinds: tuple[Kind, ...]
    if num_items < TRAINABLE_ITEMS or config.recall_target == 1:
        kinds = ("exact-int8",) if config.kind == "exact-int8" else ("exact",)
    elif config.kind != "auto":
        kinds = (config.kind,)
    elif num_items * dimensions <= _EXACT_NUMBERS:
        kinds = ("exact", "exact-int8")
    else:
        kinds = get_args(Kind)
    plans = [plan for plan in _PLANS if plan.kind in kinds]
    limit = config.memory_mib * _MIB
    fitting = [plan for plan in plans if not limit or expected_bytes(plan, num_items, dimensions) <= limit]
    if not fitting:
        least = min(expected_bytes(plan, num_items, dimensions) for plan in plans) / _MIB
        raise ConfigError(
            f"retrieval.memory_mib is {config.memory_mib}, but {num_items} items of {dimensions} dimensions "
            f"need {least:.0f} as {' or '.join(kinds)}; allow more or ask for another kind"
        )
    if num_items * dimensions <= _EXACT_NUMBERS:
        return (fitting[0],)
    named = {plan.kind: plan for plan in reversed(fitting)}
    if "exact" in named and config.kind == "auto":
        named.pop("exact-int8", None)
    return tuple(plan for plan in fitting if named.get(plan.kind) is plan)


def expected_bytes(plan: Plan, num_items: int, dimensions: int) -> int:
    """Bytes that an index takes, to within a few percent."""
    per_item = {"float32": 4 * dimensions, "float16": 2 * dimensions, "int8": dimensions + 4}[plan.precision]
    if plan.kind == "hnsw":
        # 4 bytes a link, 2 × LINKS on the lowest level; a level and an offset; one item in LINKS is on upper levels.
        per_item += 8 * LINKS + 5 + 4 + 8
    elif plan.kind == "ivf-pq":
        per_item += (sub_quantisers(dimensions) + 1) // 2 + 8
        return num_items * per_item + 4 * dimensions * num_cells(num_items)
    return num_items * per_item


def sub_quantisers(dimensions: int) -> int:
    """Two dimensions share a code of 4 bits; where their number is odd the last one has its own."""
    return (dimensions + 1) // 2


def num_cells(num_items: int) -> int:
    """Coarse cells: the power of two nearest below 4 √items, each with enough items to learn its centre from."""
    return 1 << max(2, int(4 * num_items**0.5).bit_length() - 1) if num_items >= TRAINABLE_ITEMS else 1
