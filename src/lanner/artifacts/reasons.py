"""Explanations for people: each part by its name, and the whole in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.interactions import Dataset
from lanner.models.recommender import Explanation, PartKind, ScorePart

NAMED = 3
"""So many parts are named in the sentence."""
PASSAGE_CHARACTERS = 60

_PHRASES: dict[PartKind, str] = {
    "history": "you chose {name}",
    "friend": "friends such as {name} chose it",
    "text": "{name} suits you",
    "profile": "it fits what you say about yourself",
    "popularity": "many others chose it",
    "head": "of how the signals combine",
}


@dataclass(frozen=True)
class Reason:
    """One summand of a score, by name. name: a title, a person, an attribute's value, or empty."""

    kind: PartKind
    name: str
    value: float


def reasons(explanation: Explanation, dataset: Dataset) -> list[Reason]:
    """Every part by name, largest first; the values add up to the score."""
    parts = sorted(explanation.parts, key=lambda part: -part.value)
    return [Reason(part.kind, _name(part, explanation.item, dataset), part.value) for part in parts]


def sentence(explanation: Explanation, dataset: Dataset) -> str:
    """Why the item has its score, in one sentence that names the largest parts that speak for it."""
    title = dataset.item_catalogue.titles[explanation.item]
    speaking = [reason for reason in reasons(explanation, dataset) if reason.value > 0][:NAMED]
    if not speaking:
        return f"Nothing known of this user speaks for {title}."
    return f"{title} is suggested because {_joined([_clause(reason) for reason in speaking])}."


def short_reason(explanation: Explanation, dataset: Dataset) -> str:
    """Two parts that speak for the item, for one cell of a table: what this user did, then what the item's text says.

    Where one of the two is missing, the next largest part stands in; what holds for everyone comes last.
    """
    return brief(reasons(explanation, dataset))


def brief(parts: Sequence[Reason]) -> str:
    """``short_reason`` of parts that have their names, largest first."""
    speaking = [reason for reason in parts if reason.value > 0]
    texts = [reason for reason in speaking if reason.kind == "text"]
    general = [reason for reason in speaking if reason.kind in ("popularity", "head")]
    personal = [reason for reason in speaking if reason not in texts and reason not in general]
    ordered = [*personal[:1], *texts[:1], *personal[1:], *texts[1:], *general]
    return _joined([_clause(reason) for reason in ordered[:2]])


def explanation_table(explanation: Explanation, dataset: Dataset) -> dict[str, Any]:
    """The explanation as JSON can hold it."""
    return {
        "item": dataset.items.external[explanation.item],
        "title": dataset.item_catalogue.titles[explanation.item],
        "score": explanation.score,
        "parts": [vars(reason) for reason in reasons(explanation, dataset)],
        "sentence": sentence(explanation, dataset),
    }


def _clause(reason: Reason) -> str:
    if reason.kind == "friend" and not reason.name:
        return "your friends chose it"
    return _PHRASES[reason.kind].format(name=reason.name)


def _joined(clauses: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; a beginning that all share is said once."""
    alike = [clause.removeprefix("you chose ") for clause in clauses]
    if all(clause.startswith("you chose ") for clause in clauses) and len(clauses) > 1:
        clauses = [clauses[0], *alike[1:]]
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}" if clauses else ""


def _name(part: ScorePart, item: int, dataset: Dataset) -> str:
    if part.kind == "history":
        return dataset.item_catalogue.titles[part.row]
    if part.kind == "friend" and part.row >= 0:
        return dataset.user_catalogue.titles[part.row]
    if part.kind == "text":
        return _passage(part.row, dataset.item_catalogue.texts[item])
    return ""


def _passage(place: int, text: str) -> str:
    """Field ``place`` of a text, cut short; beyond the last one stand its words."""
    fields = text.split(FIELD_SEPARATOR)
    if 0 <= place < len(fields) and fields[place].strip():
        return f"“{shorten(fields[place], PASSAGE_CHARACTERS, placeholder='…')}”"
    return "the wording of its text"
