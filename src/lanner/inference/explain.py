"""Explanations: the components of a score by name, and a sentence in plain words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

PartKind = Literal["history", "friend", "text", "query", "profile", "attributes", "popularity", "head"]
NAMED_PARTS = 8
"""Number of history items shown individually; the rest is one component."""
NAMED_IN_SENTENCE = 3

_CLAUSES: dict[PartKind, str] = {
    "history": "you chose {name}",
    "friend": "{name} chose it",
    "text": "its description matches your taste",
    "query": "it matches your search",
    "profile": "it matches your profile",
    "attributes": "people with your attributes choose it",
    "popularity": "it is popular",
}
"""Phrases by kind. ``head`` has none: an interaction of signals is not a reason a user can act on."""
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


def said(explanation: Explanation, item_title: Callable[[int], str], user_name: Callable[[int], str]) -> list[str]:
    """Phrases for the positive components, most important first.

    The item itself and the sum of small components are omitted. Popularity is mentioned only without personal reasons.
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
    """The two strongest reasons, for a table cell; empty if there are none."""
    return joined(clauses[:2])


def sentence(title: str, clauses: Sequence[str]) -> str:
    """One sentence with the strongest positive reasons."""
    if not clauses:
        return f"No known reason to recommend {title} to this user."
    return f"{title} is recommended because {joined(clauses[:NAMED_IN_SENTENCE])}."


def joined(clauses: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; a common prefix is written once."""
    told = list(clauses)
    if len(told) > 1 and all(clause.startswith("you chose ") for clause in told):
        told = [told[0], *(clause.removeprefix("you chose ") for clause in told[1:])]
    if len(told) < 2:
        return told[0] if told else ""
    return f"{', '.join(told[:-1])} and {told[-1]}"
