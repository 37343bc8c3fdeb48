"""Reasons in words: the strongest components of a score, as a person would say them."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lanner.data.interactions import Dataset
from lanner.inference.explain import Explanation, PartKind, ScorePart

NAMED_IN_SENTENCE, NAMED_IN_CELL = 3, 2
_LONGEST_NAME = 60
_TOO_COMMON = 0.35
"""Values held by a larger share of the items are not mentioned."""
_VALUES_NAMED = 2
_MIN_KNOWN = 0.5
"""Attributes held by a smaller share of the items are not mentioned: they reflect who filled them in."""

_CLAUSES: dict[PartKind, str] = {
    "text": "its description is close to what you {verb}",
    "query": "it matches your search",
    "profile": "it suits your profile",
    "attributes": "people like you chose it",
    "popularity": "it is popular",
}
"""Phrases without names. ``head`` has none: an interaction of signals is not a reason a user can act on."""

_CHOSE, _LIKED = "chose", "liked"
_VERB_SYNONYMS = {
    "bought": ("buy", "purchase", "order", "transaction", "sale"),
    "watched": ("watch", "stream"),
    "listened to": ("listen", "scrobble"),
    "played": ("play",),
    "read": ("read",),
    "looked at": ("view", "click", "detail_view", "page_view", "pageview", "impression"),
    "liked": ("like", "favorite", "favourite", "upvote", "thumbs_up", "love"),
    "saved": ("save", "bookmark", "wishlist", "add_to_wishlist"),
    "visited": ("visit", "checkin", "check_in"),
    "downloaded": ("download", "install"),
    "shared": ("share", "repost"),
    "borrowed": ("borrow", "loan", "rent"),
}
_VERBS = {name: past for past, names in _VERB_SYNONYMS.items() for name in (past.replace(" ", "_"), *names)}
"""Past-tense verb by behaviour name."""

_SHARED = {
    "are {}": ("genre", "category", "type", "kind", "style", "subject", "topic", "section", "sector"),
    "are by {}": (
        *("director", "author", "artist", "writer", "brand", "maker", "creator", "designer", "developer"),
        *("manufacturer", "publisher", "label"),
    ),
    "star {}": ("actor", "cast", "star"),
    "are tagged {}": ("tag", "keyword"),
}
_PHRASES = {name: phrase for phrase, names in _SHARED.items() for name in names}
"""Phrase for items that share a value, by attribute name."""
_ARTICLE = re.compile(r"^(.+), (The|A|An|Le|La|Les|Il|Lo|El|Los|Las|Der|Die|Das|L')((?: \([^()]*\))*)$")
"""Titles in catalogue order: ``Wire, The (2002)``."""


@dataclass(frozen=True)
class Wording:
    """How reasons are worded for the users of one dataset.

    item_title, user_name: by row. verb: what users did with the items of their history. attributes_of: values of an
    item by attribute. shares: share of items with a value, by attribute and value, for attributes that are mentioned; a
    missing value is rare.
    """

    item_title: Callable[[int], str]
    user_name: Callable[[int], str]
    verb: str = _CHOSE
    attributes_of: Callable[[int], Mapping[str, Collection[str]]] = lambda row: {}
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> "Wording":
        """The wording of a dataset."""
        items, shares = dataset.item_catalogue, dict[str, dict[str, float]]()
        for name, attribute in items.attributes.items():
            if np.count_nonzero(attribute.codes.lengths) >= _MIN_KNOWN * dataset.num_items:
                held = np.bincount(attribute.codes.values, minlength=len(attribute.names)) / dataset.num_items
                shares[name] = dict(zip(attribute.names, held.tolist(), strict=True))
        name_of = dataset.user_catalogue.titles.__getitem__
        return cls(items.titles.__getitem__, name_of, _verb_of(dataset), items.attributes_of, shares)

    def cell(self, explanation: Explanation) -> str:
        """The strongest reasons for a table cell, such as ``you watched Alien and Brazil``; empty if there are none."""
        return self._reasons(explanation, NAMED_IN_CELL)

    def sentence(self, title: str, explanation: Explanation) -> str:
        """One sentence with the strongest reasons."""
        reasons = self._reasons(explanation, NAMED_IN_SENTENCE)
        if not reasons:
            return f"No known reason to recommend {_natural(title)} to this user."
        return f"{_natural(title)} is recommended because {reasons}{'' if reasons.endswith('…') else '.'}"

    def _reasons(self, explanation: Explanation, count: int) -> str:
        parts = _strongest_parts(explanation)[:count]
        # One clause per kind, in the order of each kind's strongest part.
        kinds = list(dict.fromkeys(part.kind for part in parts))
        groups = [[part for part in parts if part.kind == kind] for kind in kinds]
        clauses = [self._clause(explanation.item, group) for group in groups]
        return _listed(clauses, ", and " if any(" and " in clause for clause in clauses) else " and ")

    def _clause(self, item: int, parts: Sequence[ScorePart]) -> str:
        kind, rows = parts[0].kind, [part.row for part in parts]
        if kind == "history":
            named = _listed([_natural(self.item_title(row)) for row in rows])
            return f"you {self.verb} {named}{self._in_common([item, *rows])}"
        if kind == "friend":
            named = _listed([_natural(self.user_name(row)) for row in rows])
            return f"your {'friend' if len(rows) == 1 else 'friends'} {named} {self.verb} it"
        return _CLAUSES[kind].format(verb=self.verb)

    def _in_common(self, rows: Sequence[int]) -> str:
        """What the items have in common: the rarest shared values of one attribute."""
        held = [self.attributes_of(row) for row in rows]
        best, phrase = 0.0, ""
        for name, shares in self.shares.items():
            shared = set(held[0].get(name, ())).intersection(*(one.get(name, ()) for one in held[1:]))
            rarest_first = sorted(shared, key=lambda value: (shares.get(value, 0.0), value))
            named = [value for value in rarest_first if shares.get(value, 0.0) <= _TOO_COMMON][:_VALUES_NAMED]
            weight = sum(-math.log(max(shares.get(value, 0.0), 1e-6)) for value in named)
            if weight > best:
                best, phrase = weight, _phrase(name).format(_listed(named))
        all_of_them = {2: "both", 3: "all three", 4: "all four"}.get(len(rows), "all")
        return f" ({all_of_them} {phrase})" if phrase else ""


def _strongest_parts(explanation: Explanation) -> list[ScorePart]:
    """The positive components that can be named to a user, strongest first.

    The item itself and sums of small components are left out. Popularity is used only if nothing personal remains.
    """
    parts = [
        part
        for part in sorted(explanation.parts, key=lambda part: -part.value)
        if part.value > 0
        and (part.kind in _CLAUSES or (part.kind in ("history", "friend") and part.row >= 0))
        and not (part.kind == "history" and part.row == explanation.item)
    ]
    return [part for part in parts if part.kind != "popularity"] or parts


def _verb_of(dataset: Dataset) -> str:
    """The verb for positive events: that of all positive behaviours if they agree, else a general one."""
    feedback, behaviours = dataset.feedback, dataset.interactions.behaviours
    if feedback is not None and feedback.kind == "ratings":
        return _LIKED
    weights = {} if feedback is None else feedback.behaviour_weights
    positive = [name for name in map(str.lower, behaviours) if weights.get(name, 1.0) > 0]
    verbs = {_VERBS.get(re.sub(r"[\s-]+", "_", name), _CHOSE) for name in positive}
    return verbs.pop() if len(verbs) == 1 else _CHOSE


def _phrase(attribute: str) -> str:
    name = attribute.lower()
    singular = f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")
    return _PHRASES.get(name) or _PHRASES.get(singular) or f"have the same {name}: {{}}"


def _natural(title: str) -> str:
    """A title as spoken: article first, at most one line long."""
    title = _ARTICLE.sub(
        lambda found: f"{found[2]}{'' if found[2].endswith(chr(39)) else ' '}{found[1]}{found[3]}", title
    )
    if len(title) <= _LONGEST_NAME:
        return title
    return f"{title[:_LONGEST_NAME].rsplit(' ', 1)[0].rstrip(' ,;:.-')}…"


def _listed(names: Sequence[str], last: str = " and ") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return last.join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])
