"""The stages of requests, timed inside the ranker that answers them, so that they add up to the request."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

_STEPS = {"_user": "gnn", "_scan": "fusion", "_search": "fusion", "_head": "head"}
"""Steps of ``Ranker`` and the part of the model that each computes; ``_user`` also reads the text."""


def stage_times(ranker: Any, answer: Callable[..., Any], requests: Sequence[Any], warm: int) -> dict[str, float]:
    """Median milliseconds of a request and of its parts, over the requests after the first ``warm``.

    request: the whole. language_model: features of the text, by the ranker's reader. gnn: the vector of the user's
    history. fusion: scores of all items, and the best of them. head: of models that have an MLP. rest: what remains of
    each request.
    """
    spent: dict[str, float] = {}
    steps = {step: part for step, part in _STEPS.items() if part != "head" or ranker.model.head is not None}
    for step, part in steps.items():
        setattr(ranker, step, partial(_timed, spent, part, getattr(ranker, step)))
    reader = ranker.reader
    reader.features = partial(_timed, spent, "language_model", reader.features)
    rows: list[dict[str, float]] = []
    for request in requests:
        spent.clear()
        _timed(spent, "request", answer, *request)
        row = dict(spent)
        row["gnn"] -= row["language_model"]
        row["rest"] = row["request"] - sum(seconds for part, seconds in row.items() if part != "request")
        rows.append(row)
    return {part: float(np.median([row[part] for row in rows[warm:]])) * 1e3 for part in rows[-1]}


def _timed(spent: dict[str, float], part: str, work: Callable[..., Any], *arguments: Any) -> Any:
    begun = time.perf_counter()
    result = work(*arguments)
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - begun
    return result
