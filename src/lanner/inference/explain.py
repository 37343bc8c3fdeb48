"""Explanations: the components of a score, and their names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PartKind = Literal["history", "friend", "text", "query", "profile", "attributes", "popularity", "head"]
NAMED_PARTS = 8
"""Number of history items shown individually; the rest is one component."""
_NAMES: dict[PartKind, str] = {
    "text": "your taste in descriptions",
    "query": "your search",
    "profile": "your profile",
    "attributes": "your attributes",
    "popularity": "popularity",
    "head": "ranking head",
}


@dataclass(frozen=True)
class ScorePart:
    """One component of a score. row: of an item (history) or a user (friend); −1: none, or a sum of several.

    count: number of items or users summed.
    """

    kind: PartKind
    row: int
    value: float
    count: int = 1


@dataclass(frozen=True)
class Explanation:
    """The components of one item's score: they sum to ``score``, largest first."""

    item: int
    score: float
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True)
class Reason:
    """One component of a score, by name."""

    kind: PartKind
    name: str
    value: float


def reasons(
    explanation: Explanation, item_title: Callable[[int], str], user_name: Callable[[int], str]
) -> list[Reason]:
    """All components by name, largest first; they sum to the score."""

    def name(part: ScorePart) -> str:
        if part.kind == "history":
            return item_title(part.row) if part.row >= 0 else f"{part.count} other items of your history"
        if part.kind == "friend":
            return user_name(part.row) if part.row >= 0 else f"{part.count} other friends"
        return _NAMES[part.kind]

    parts = sorted(explanation.parts, key=lambda part: -part.value)
    return [Reason(part.kind, name(part), part.value) for part in parts]
