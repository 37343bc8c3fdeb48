"""Questions to a bundle by external ids, and answers that JSON can hold: what the command line and Python ask.

An id that is not known is named in the answer and has no effect, so that an unknown user is an anonymous one; only the
item that ``similar`` or ``explain`` is asked about must be known. Of whom nothing is known that the model reads gets
popular items, and the answer says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import Bundle
from lanner.encoders import TextReader, open_text_reader
from lanner.errors import RequestError
from lanner.inference.explain import reasons, said, sentence, short_reason
from lanner.inference.ranker import Query, Ranker, Ranking, queries_of


@dataclass(frozen=True)
class Answer:
    """items: best first, each with rank, item, title, score and, from ``recommend``, reason.

    unknown: ids of the question that are not known. fallback: these are popular items, for nothing that the model
    reads is known of the user. text_ignored: the model reads no texts, and one was given.
    """

    items: list[dict[str, Any]]
    unknown: list[str]
    fallback: bool
    text_ignored: bool = False


class BundleRanker:
    """The full variant of a bundle. A user is known to the bundle, or anonymous by a history, a text, or both."""

    def __init__(self, bundle: Bundle) -> None:
        self._dataset = bundle.dataset
        items, users = self._dataset.item_catalogue, self._dataset.user_catalogue
        self._names = items.titles.__getitem__, users.titles.__getitem__
        reader = None if bundle.text_files is None else _LazyReader(bundle)
        self._ranker = Ranker(bundle.variant().model, reader=reader)

    def recommend(
        self, user: str | None = None, history: Sequence[str] | None = None, text: str | None = None, k: int = 10
    ) -> Answer:
        """The k best items for a user.

        Raises:
            RequestError: neither user, history nor text, or both a user and a history. ValueError: k is below 1.
        """
        query, unknown = self._question(user, history, text)
        ranking = self._ranker.rank([replace(query, k=k, explain=True)])[0]
        items = self._listed(ranking)
        for item, explanation in zip(items, ranking.explanations, strict=True):
            item["reason"] = short_reason(said(explanation, *self._names))
        return Answer(items, unknown, ranking.fallback, self._ignores(text))

    def similar(self, item: str, k: int = 10) -> Answer:
        """The k items most like ``item``.

        Raises:
            UnknownIdError: ``item`` is not known. ValueError: k is below 1.
        """
        ranking = self._ranker.similar(self._dataset.items.row(item), k)
        return Answer(self._listed(ranking), [], ranking.fallback)

    def explain(
        self, item: str, user: str | None = None, history: Sequence[str] | None = None, text: str | None = None
    ) -> dict[str, Any]:
        """Why ``item`` has its score for a user.

        Keys: item, title, score, parts (kind, name, value; they add up to the score), sentence, and unknown, fallback
        and text_ignored as in ``Answer``.

        Raises:
            RequestError: neither user, history nor text, or both a user and a history.
            UnknownIdError: ``item`` is not known.
        """
        row = self._dataset.items.row(item)
        query, unknown = self._question(user, history, text)
        explanation = self._ranker.explain(query, np.array([row]))[0]
        title = self._names[0](row)
        return {
            "item": item,
            "title": title,
            "score": explanation.score,
            "parts": [vars(one) for one in reasons(explanation, *self._names)],
            "sentence": sentence(title, said(explanation, *self._names)),
            "unknown": unknown,
            "fallback": self._ranker.rank([replace(query, k=1)])[0].fallback,
            "text_ignored": self._ignores(text),
        }

    def _question(self, user: str | None, history: Sequence[str] | None, text: str | None) -> tuple[Query, list[str]]:
        """The question in rows, and the ids that have none."""
        if user is None and history is None and text is None:
            raise RequestError("one of user, history or text is required")
        if user is not None and history is not None:
            raise RequestError("user and history exclude each other: a user's history is known")
        users, items = self._dataset.users, self._dataset.items
        if user is not None and user in users:
            query = queries_of(self._dataset.user_batch(np.array([users.row(user)])))[0]
            return replace(query, text=text), []
        given = list(history or ())
        known = np.array([items.row(one) for one in given if one in items], np.int64)
        unknown = [one for one in given if one not in items] + ([] if user is None else [user])
        return Query(known, seen=known, text=text), unknown

    def _ignores(self, text: str | None) -> bool:
        return text is not None and not self._ranker.reads_text

    def _listed(self, ranking: Ranking) -> list[dict[str, Any]]:
        best = zip(ranking.items.tolist(), ranking.scores.tolist(), strict=True)
        return [
            {"rank": rank, "item": self._dataset.items.external[row], "title": self._names[0](row), "score": score}
            for rank, (row, score) in enumerate(best, 1)
        ]


class _LazyReader:
    """Opens the encoder when the first text is read: most questions have none."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._reader.features(texts)

    @cached_property
    def _reader(self) -> TextReader:
        assert self._bundle.text_files is not None
        return open_text_reader(self._bundle.variant(), self._bundle.text_files)
