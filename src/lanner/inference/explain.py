"""What a score is the sum of, and how it is said: each part by its name, and the whole in one sentence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

PartKind = Literal["history", "friend", "text", "query", "profile", "popularity", "head"]
NAMED_PARTS = 8
"""Items of the history that are named; the others are one part."""
NAMED_IN_SENTENCE = 3

_CLAUSES: dict[PartKind, str] = {
    "history": "you chose {name}",
    "friend": "{name} chose it",
    "text": "its description matches your taste",
    "query": "it matches your search",
    "profile": "it matches your profile",
    "popularity": "it is popular",
}
"""How a part is said. ``head`` is how the signals combine, which is no reason that a person could act on."""
_NAMES: dict[PartKind, str] = {
    "text": "your taste in descriptions",
    "query": "your search",
    "profile": "your profile",
    "popularity": "popularity",
    "head": "ranking head",
}


@dataclass(frozen=True)
class ScorePart:
    """One summand of a score. row: of an item (history) or a known user (friend); −1: none, or all others together.

    count: of how many items or users it is the sum.
    """

    kind: PartKind
    row: int
    value: float
    count: int = 1


@dataclass(frozen=True)
class Explanation:
    """Why one item has its score: ``score`` equals the sum of the parts' values, largest first."""

    item: int
    score: float
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True)
class Reason:
    """One summand of a score, by name."""

    kind: PartKind
    name: str
    value: float


def reasons(
    explanation: Explanation, item_title: Callable[[int], str], user_name: Callable[[int], str]
) -> list[Reason]:
    """Every part by name, largest first; the values add up to the score."""

    def name(part: ScorePart) -> str:
        if part.kind == "history":
            return item_title(part.row) if part.row >= 0 else f"{part.count} other items of your history"
        if part.kind == "friend":
            return user_name(part.row) if part.row >= 0 else f"{part.count} other friends"
        return _NAMES[part.kind]

    parts = sorted(explanation.parts, key=lambda part: -part.value)
    return [Reason(part.kind, name(part), part.value) for part in parts]


def said(explanation: Explanation, item_title: Callable[[int], str], user_name: Callable[[int], str]) -> list[str]:
    """Clauses for the parts that speak for the item, the most convincing first.

    An item is no reason for itself, and the sum of what is too small to be named is none either. What holds for
    everyone is said only where nothing personal speaks.
    """
    speaking = [part for part in explanation.parts if part.value > 0 and part.kind in _CLAUSES]
    named = [part for part in speaking if part.kind not in ("history", "friend") or part.row >= 0]
    own = [part for part in named if not (part.kind == "history" and part.row == explanation.item)]
    personal = sorted((part for part in own if part.kind != "popularity"), key=lambda part: -part.value)
    found = personal or [part for part in own if part.kind == "popularity"]
    naming = {"history": item_title, "friend": user_name}
    return [
        _CLAUSES[part.kind].format(name=naming[part.kind](part.row) if part.kind in naming else "") for part in found
    ]


def short_reason(clauses: Sequence[str]) -> str:
    """The two strongest clauses, for one cell of a table; empty where nothing speaks for the item."""
    return joined(clauses[:2])


def sentence(title: str, clauses: Sequence[str]) -> str:
    """Why an item has its score, in one sentence that names the largest parts that speak for it."""
    if not clauses:
        return f"Nothing known of this user speaks for {title}."
    return f"{title} is suggested because {joined(clauses[:NAMED_IN_SENTENCE])}."


def joined(clauses: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; a beginning that all share is said once."""
    told = list(clauses)
    if len(told) > 1 and all(clause.startswith("you chose ") for clause in told):
        told = [told[0], *(clause.removeprefix("you chose ") for clause in told[1:])]
    if len(told) < 2:
        return told[0] if told else ""
    return f"{', '.join(told[:-1])} and {told[-1]}"
