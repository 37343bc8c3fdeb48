"""Questions by external id to a bundle, and answers that JSON can hold."""

from typing import Any

import numpy as np

from lanner.artifacts.bundle import Bundle
from lanner.artifacts.reasons import explanation_table, short_reason
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError, LannerError
from lanner.models.recommender import Recommendations


def who(bundle: Bundle, user: str | None, history: str | None, text: str | None) -> UserBatch:
    """One user: a known one, or a stranger by a history (ids, separated by commas), a text, or both.

    Raises:
        UnknownIdError: an id that the bundle does not know.
        ConfigError: nothing was given, or a user beside a history or a text.
    """
    dataset = bundle.dataset
    if (user is None) == (history is None and text is None):
        raise ConfigError("say for whom: either --user, or --history and/or --text")
    if user is not None:
        return dataset.user_batch(np.array([dataset.users.row(user)]))
    ids = [one.strip() for one in (history or "").split(",") if one.strip()]
    rows = dataset.items.rows(ids)
    return UserBatch(Ragged.from_lists([rows]), None if text is None else (text,))


def recommendations(bundle: Bundle, users: UserBatch, k: int, explained: bool = True) -> list[dict[str, Any]]:
    """The k best items of one user: rank, id, title, score, reason (empty where the model has none)."""
    found = bundle.recommender.recommend(users, k)
    return [
        {**item, "reason": _reason(bundle, users, row) if explained else ""} for row, item in _listed(bundle, found)
    ]


def similar_items(bundle: Bundle, item: str, k: int) -> list[dict[str, Any]]:
    """The k items most like ``item``: rank, id, title, score."""
    found = bundle.recommender.similar(bundle.dataset.items.row(item), k)
    return [one for _, one in _listed(bundle, found)]


def explanation(bundle: Bundle, users: UserBatch, item: str) -> dict[str, Any]:
    """Why ``item`` has its score: parts that add up to it, and one sentence."""
    return explanation_table(bundle.recommender.explain(users, bundle.dataset.items.row(item)), bundle.dataset)


def _listed(bundle: Bundle, found: Recommendations) -> list[tuple[int, dict[str, Any]]]:
    dataset, items, scores = bundle.dataset, found.items[0], found.scores[0]
    return [
        (
            int(row),
            {
                "rank": rank,
                "item": dataset.items.external[row],
                "title": dataset.item_catalogue.titles[row],
                "score": float(score),
            },
        )
        for rank, (row, score) in enumerate(zip(items, scores, strict=True), 1)
        if row >= 0
    ]


def _reason(bundle: Bundle, users: UserBatch, row: int) -> str:
    try:
        return short_reason(bundle.recommender.explain(users, row), bundle.dataset)
    except LannerError:  # a model without additive parts still recommends
        return ""
