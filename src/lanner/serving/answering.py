"""From a question to what the engine is to do, and from what it found to an answer with names and reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.artifacts import reasons as words
from lanner.serving.engine import Answer, Asked, Engine, Parts, unseen
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.live import LiveItems
from lanner.serving.messages import Filters, Reason, RecommendedItem
from lanner.serving.model import ServedModel
from lanner.serving.retrieval import RowSet
from lanner.serving.together import answer_together

NAMED_PARTS = 8
"""Items of the history that are named in an item's reasons; the rest are one part without a name."""
_ASKED = "what you asked for"
_PERSONAL = 0.1
"""Of a search's cosines: how far the user's own taste may move an item."""
_SEARCHED = 10
"""Times k: items nearest to the words, among which taste decides."""


class Question(msgspec.Struct, frozen=True):
    """Who asks for what. rows: int64 of the history, oldest first. allow, deny: see ``Index.search``."""

    rows: NDArray[np.int64]
    profile: str | None
    text: str | None
    k: int
    exclude_seen: bool = True
    allow: RowSet | None = None
    deny: NDArray[np.int64] | None = None
    diversity: float = 0.0
    explain: bool = False


@dataclass(frozen=True)
class Found:
    """What an engine found. parts, met: the reasons, and the rows that they name, where they were asked for."""

    answer: Answer
    parts: Parts | None = None
    met: NDArray[np.int64] | None = None


def allowed(model: ServedModel, filters: Filters | None) -> tuple[RowSet | None, NDArray[np.int64] | None]:
    """Filters by name as rows: (of which alone answers may come, which no answer may hold).

    Ids that are not known are passed over: no answer would hold them.

    Raises:
        ConfigError: an attribute that no item has.
    """
    if filters is None:
        return None, None
    allow = model.filters.allowed(filters.attributes)
    if filters.allow is not None:
        listed = np.unique(model.items.known_rows(filters.allow))
        if allow is not None:
            listed = listed[allow.holds(listed)]
        allow = RowSet.of(listed, model.items.num_rows)
    deny = model.items.known_rows(filters.deny) if filters.deny else None
    return allow, deny


Work = Question | Callable[[Engine], Found]
"""What is wanted of whichever engine it is given."""


def work_on(engine: Engine, works: Sequence[Work]) -> list[Found | Exception]:
    """What comes of each, in a worker's thread; one that fails takes no other along."""
    plain = {place: work for place, work in enumerate(works) if isinstance(work, Question) and is_plain(engine, work)}
    together = dict(zip(plain, _find_together(engine, list(plain.values())), strict=True))
    return [together[place] if place in together else _alone(engine, work) for place, work in enumerate(works)]


def is_quick(engine: Engine, work: Work) -> bool:
    """Whether it takes less time than to hand it to a thread: nothing is searched, and only a list is asked for."""
    return isinstance(engine.index, FixedOrder) and isinstance(work, Question) and is_plain(engine, work)


def is_plain(engine: Engine, question: Question) -> bool:
    """Whether it asks for nothing but the best items for a history, as far as this engine reads it."""
    reads = (question.text and engine.reads_texts) or (question.profile and engine.form.profile_FD is not None)
    filtered = question.allow is not None or question.deny is not None
    return not (reads or filtered or question.diversity or question.explain)


def _find_together(engine: Engine, questions: Sequence[Question]) -> list[Found | Exception]:
    if not questions:
        return []
    try:
        answers = answer_together(
            engine,
            [one.rows for one in questions],
            [one.k for one in questions],
            [one.exclude_seen for one in questions],
        )
    except Exception:
        return [_alone(engine, question) for question in questions]
    return [Found(answer) for answer in answers]


def _alone(engine: Engine, work: Work) -> Found | Exception:
    try:
        return find(engine, work) if isinstance(work, Question) else work(engine)
    except Exception as error:
        return error


def find(engine: Engine, question: Question) -> Found:
    """The answer to one question."""
    asked = _asked(engine, question)
    deny = unseen(asked, question.deny) if question.exclude_seen else question.deny
    answer = engine.best(asked.asker, question.k, question.allow, deny, question.diversity)
    return Found(answer, engine.explain(asked, answer.items), asked.met) if question.explain else Found(answer)


def explain_one(engine: Engine, question: Question, row: int) -> Found:
    """The reasons of one item's score, whatever its rank."""
    asked, rows = _asked(engine, question), np.array([row])
    parts = engine.explain(asked, rows)
    return Found(Answer(rows, parts.scores), parts, asked.met)


def _asked(engine: Engine, question: Question) -> Asked:
    """A rung that reads no texts answers without them."""
    profile = question.profile if engine.form.profile_FD is not None else None
    return engine.ask(question.rows, profile, question.text if engine.reads_texts else None)


def search(model: ServedModel, engine: Engine, text: str, rows: NDArray[np.int64], k: int) -> Found:
    """Items whose texts lie nearest to ``text``; of those nearly as near, the ones that suit the history come first."""
    assert model.texts is not None
    near, cosines = model.texts.nearest((engine if engine.reads_texts else model.best).features(text), k * _SEARCHED)
    asked = engine.ask(rows)
    if len(asked.met) and len(near):
        taste = engine.index.vectors(near)[:, :-1] @ asked.asker.vector_D
        cosines = cosines + _PERSONAL * (taste - taste.mean()) / max(float(taste.std()), 1e-9)
    best = np.argsort(-cosines, kind="stable")[:k]
    return Found(Answer(near[best], cosines[best]))


def listed(found: Found, items: LiveItems, has_text: bool) -> list[RecommendedItem]:
    """Items by id and title, with reasons where there are parts."""
    named = items.named(found.answer.items.tolist())
    scores = found.answer.scores.tolist()
    if found.parts is None or found.met is None:
        return [
            RecommendedItem(item_id=item_id, title=title, score=score, rank=rank)
            for rank, ((item_id, title), score) in enumerate(zip(named, scores, strict=True), 1)
        ]
    titles = [title for _, title in items.named(found.met.tolist())]
    answered = []
    for place, ((item_id, title), score) in enumerate(zip(named, scores, strict=True)):
        parts = _reasons(found.parts, place, titles, has_text)
        said = [one for one in parts if one.name or one.kind != "history"]
        because = words.brief([words.Reason(one.kind, one.name, one.value) for one in said])
        answered.append(
            RecommendedItem(item_id=item_id, title=title, score=score, rank=place + 1, reasons=parts, because=because)
        )
    return answered


def _reasons(parts: Parts, place: int, titles: list[str], has_text: bool) -> list[Reason]:
    """The summands of one item, largest first; they add up to its score."""
    history_M = parts.history_NM[place]
    largest = np.argsort(-np.abs(history_M), kind="stable")[:NAMED_PARTS]
    found = [Reason(kind="history", name=titles[one], value=float(history_M[one])) for one in largest]
    rest = float(history_M.sum()) - sum(reason.value for reason in found)
    if len(history_M) > NAMED_PARTS:
        found.append(Reason(kind="history", name="", value=rest))
    told, popularity, head = (float(part[place]) for part in (parts.told_N, parts.popularity_N, parts.head_N))
    found.append(Reason(kind="popularity", name="", value=popularity))
    if told:
        asked = Reason(kind="text", name=_ASKED, value=told)
        found.append(asked if has_text else Reason(kind="profile", name="", value=told))
    if head:
        found.append(Reason(kind="head", name="", value=head))
    return sorted(found, key=lambda reason: -reason.value)
