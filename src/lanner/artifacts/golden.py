"""Golden requests: sample requests stored with every variant's answers, replayed to verify a deployment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.variants import Variant
from lanner.data.interactions import Dataset
from lanner.errors import BundleError
from lanner.inference.ranker import Query, Ranker, Ranking

REQUESTS = 8
TOP_K = 10
RELATIVE_TOLERANCE = 1e-4
"""Relative to the largest score of a request: float32 sums depend on the order and the CPU."""
LEAST_OVERLAP = 0.9
"""Share of an approximate index's expected recall that must be found over all stored lists together."""


def ask_golden(variants: Sequence[Variant], dataset: Dataset) -> dict[str, Any]:
    """Up to 8 histories, evenly spread over users by number of events, with each variant's top 10."""
    lengths = dataset.histories.lengths
    known = np.flatnonzero(lengths)
    spread = np.linspace(0, len(known) - 1, min(REQUESTS, len(known))).round().astype(np.int64)
    users = known[np.argsort(lengths[known], kind="stable")][spread]
    histories = [np.unique(dataset.histories[user]).astype(np.int64) for user in users]
    names = dataset.items.external
    requests: list[dict[str, Any]] = [{"history": [names[row] for row in rows], "answers": {}} for rows in histories]
    for variant in variants:
        for request, found in zip(requests, _ranked(Ranker(variant.model), histories, TOP_K), strict=True):
            items = [names[row] for row in found.items]
            request["answers"][variant.name] = {"items": items, "scores": [float(score) for score in found.scores]}
    return {"k": TOP_K, "requests": requests}


def check_golden(ranker: Ranker, variant: str, dataset: Dataset, golden: Mapping[str, Any], place: Path | str) -> int:
    """Replay the golden requests on a variant; returns their number.

    A scanning ranker must reproduce the stored answers, up to the order of items with nearly equal scores; with an
    approximate index the overlap must match its recall.

    Raises:
        BundleError: an answer differs. place: prefix of the message.
    """
    requests = golden["requests"]
    histories = [dataset.items.rows(request["history"]).astype(np.int64) for request in requests]
    stored = [request["answers"][variant] for request in requests]
    rankings = _ranked(ranker, histories, golden["k"])
    listed = [[dataset.items.external[row] for row in found.items] for found in rankings]
    if ranker.index is not None:
        found = sum(len(set(one["items"]) & set(items)) for one, items in zip(stored, listed, strict=True))
        wanted = sum(len(one["items"]) for one in stored)
        if found < LEAST_OVERLAP * ranker.index.recall * wanted:
            raise BundleError(
                f"{place}: variant '{variant}' returned {found} of the {wanted} items of its golden requests; "
                "its index does not belong to this bundle"
            )
        return len(requests)
    for number, (wanted_one, items, ranking) in enumerate(zip(stored, listed, rankings, strict=True)):
        if not _matches(wanted_one, items, ranking.scores):
            raise BundleError(
                f"{place}: variant '{variant}' failed golden request {number}: the answer differs from the stored one"
            )
    return len(requests)


def _ranked(ranker: Ranker, histories: Sequence[NDArray[np.int64]], k: int) -> list[Ranking]:
    return ranker.rank([Query(rows, seen=rows, k=k) for rows in histories])


def _matches(wanted: Mapping[str, Any], items: Sequence[str], scores: NDArray[np.float32]) -> bool:
    expected = np.array(wanted["scores"])
    tolerance = RELATIVE_TOLERANCE * max(1e-6, float(np.abs(expected).max(initial=0.0)))
    if len(expected) != len(scores) or not np.allclose(expected, scores, 0, tolerance):
        return False
    stored = dict(zip(wanted["items"], wanted["scores"], strict=True))
    last = wanted["scores"][-1] if len(expected) else 0.0
    return all(abs(stored.get(one, last) - float(score)) <= tolerance for one, score in zip(items, scores, strict=True))
