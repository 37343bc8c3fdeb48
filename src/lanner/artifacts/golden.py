"""Golden requests: questions stored with their answers, so that a server can prove that it still answers so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import BundleError
from lanner.models.recommender import Recommender

REQUESTS = 8
TOP_K = 10
RELATIVE_TOLERANCE = 1e-4
"""Of the largest score of a request: float32 sums in another order, on another processor."""


def ask_golden(recommender: Recommender, dataset: Dataset) -> dict[str, Any]:
    """Up to 8 histories, evenly spread over the users by the number of their events, with their top 10 and scores."""
    lengths = dataset.histories.lengths
    known = np.flatnonzero(lengths)
    spread = np.linspace(0, len(known) - 1, min(REQUESTS, len(known))).round().astype(np.int64)
    users = known[np.argsort(lengths[known], kind="stable")][spread]
    requests = [[dataset.items.external[item] for item in np.unique(dataset.histories[user])] for user in users]
    return {"k": TOP_K, "requests": [_answer(recommender, dataset, history, TOP_K) for history in requests]}


def check_golden(recommender: Recommender, dataset: Dataset, golden: Mapping[str, Any], place: Path) -> int:
    """Ask again; returns the number of requests.

    Two items whose stored scores are within the tolerance may have changed places.

    Raises:
        BundleError: an answer differs from the stored one; ``place`` begins the message.
    """
    for number, wanted in enumerate(golden["requests"]):
        given = _answer(recommender, dataset, wanted["history"], golden["k"])
        scores = np.array(wanted["scores"])
        tolerance = RELATIVE_TOLERANCE * max(1e-6, float(np.abs(scores).max(initial=0.0)))
        same_scores = len(scores) == len(given["scores"]) and np.allclose(scores, given["scores"], 0, tolerance)
        stored = dict(zip(wanted["items"], wanted["scores"], strict=True))
        last = wanted["scores"][-1] if len(scores) else 0.0
        strangers = [
            item
            for item, score in zip(given["items"], given["scores"], strict=True)
            if abs(stored.get(item, last) - score) > tolerance
        ]
        if not same_scores or strangers:
            raise BundleError(f"{place}: golden request {number} is answered differently from when it was written")
    return len(golden["requests"])


def _answer(recommender: Recommender, dataset: Dataset, history: list[str], k: int) -> dict[str, Any]:
    rows = dataset.items.rows(history)
    found = recommender.recommend(UserBatch(Ragged.from_lists([rows])), k)
    ranked = found.items[0] >= 0
    return {
        "history": history,
        "items": [dataset.items.external[item] for item in found.items[0][ranked]],
        "scores": [float(score) for score in found.scores[0][ranked]],
    }
