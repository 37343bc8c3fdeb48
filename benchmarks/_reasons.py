"""Whether the reasons given are the ones that matter: does the recommended item fall further without them?

For each sampled test user the first recommended item is explained. The three history items that the ranker names are
removed from the history, and in a second run three random others; the drops of the item's score and rank are compared
per user. Scores are in standard deviations of the user's scores of all items, so that users can be averaged.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT
from lanner.config import from_dict
from lanner.data.feedback import Feedback
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut, Split
from lanner.evaluation.intervals import paired
from lanner.inference.explain import Explanation
from lanner.inference.ranker import queries_of
from lanner.models.recommender import Recommender
from lanner.registry import MODELS, SPLITS

SPLIT_OF = {
    "ml-latest-small": "random",
    "amazon-scientific-2018-unisrec": "leave-last-out",
    "lastfm-hetrec2011": "random",
    "ml-1m": "random",
}
"""Datasets, and how their test users are held out."""
USERS = 500
NAMED = 3
FEWEST = 2 * NAMED
"""Minimum distinct items in a sampled history: at least as many others remain as are named."""
LISTED = 10


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """The hybrid's reasons on test users of a dataset in ``SPLIT_OF``; see ``fidelity``."""
    config = from_dict({"model": "hybrid", "feedback": EVERY_EVENT, "split": {"name": SPLIT_OF[dataset], "seed": seed}})
    data = named(dataset)
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    split = SPLITS[config.split.name](data, config.split)
    return fidelity(MODELS["hybrid"](config, None).fit(split.train, split.validation), split, seed)


def fidelity(recommender: Recommender, split: Split, seed: int) -> dict[str, Any]:
    """How far the first recommended item falls without its named reasons, and without as many other items.

    Over ``USERS`` random test users who have ``FEWEST`` distinct items and three reasons from their history.
    """
    random = np.random.default_rng(seed)
    items, named, others, chosen = [], [], [], []
    for row in random.permutation(len(split.test)).tolist():
        asked = split.test.take(np.array([row]))
        found = _first(recommender, asked)
        rows = [] if found is None else _named(found)
        rest = np.setdiff1d(asked.users.history.values, rows)
        if found is None or len(rows) < NAMED or len(rest) < FEWEST - NAMED:
            continue
        chosen.append(row)
        items.append(found.item)
        named.append(rows)
        others.append(random.choice(rest, NAMED, replace=False).tolist())
        if len(chosen) == USERS:
            break
    asked, item_B = split.test.take(np.array(chosen, np.int64)), np.array(items, np.int64)
    whole, without, without_others = (
        _scores_and_ranks(recommender, asked, removed, item_B) for removed in ([[]] * len(chosen), named, others)
    )
    report: dict[str, Any] = {"users": len(chosen)}
    for place, what in enumerate(("score_drop", "rank_drop")):
        sign = 1 if what == "score_drop" else -1
        first, second = (sign * (whole[place] - one[place]) for one in (without, without_others))
        compared = paired(what, first, second)
        report[what] = {
            "named": float(first.mean()),
            "random": float(second.mean()),
            "difference": compared.difference,
            "ci95": list(compared.ci95),
            "p_wilcoxon": compared.p_wilcoxon,
        }
    falls = {name: one[1] > LISTED for name, one in (("named", without), ("random", without_others))}
    report[f"falls_out_of_{LISTED}"] = {name: float(one.mean()) for name, one in falls.items()}
    return report


def _first(recommender: Recommender, asked: HeldOut) -> Explanation | None:
    """The explanation of the first item recommended to one user; None if it is not personal."""
    users = replace(asked.users, seen=asked.excluded)
    ranking = recommender.ranker.rank(queries_of(users, 1, explain=True))[0]
    return None if ranking.fallback or not ranking.explanations else ranking.explanations[0]


def _named(explanation: Explanation) -> list[int]:
    """The history items that a sentence names."""
    rows = [part.row for part in explanation.parts if part.kind == "history" and part.row >= 0 and part.value > 0]
    return [row for row in rows if row != explanation.item][:NAMED]


def _scores_and_ranks(
    recommender: Recommender, asked: HeldOut, removed: list[list[int]], item_B: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score of each user's item, in standard deviations above the mean, and its rank among unseen items."""
    scores, ranks = np.empty(len(item_B)), np.empty(len(item_B))
    for row, item in enumerate(item_B.tolist()):
        one = asked.take(np.array([row]))
        scores_I = recommender.score(_without(one.users, removed[row]))[0].astype(np.float64)
        scores[row] = (scores_I[item] - scores_I.mean()) / max(float(scores_I.std()), 1e-12)
        scores_I[one.excluded[0]] = -np.inf
        ranks[row] = 1 + (scores_I > scores_I[item]).sum()
    return scores, ranks


def _without(users: UserBatch, removed: list[int]) -> UserBatch:
    """One user with some items removed from the history."""
    kept = ~np.isin(users.history.values, removed)
    history = Ragged.from_lists([users.history.values[kept]])
    return replace(users, history=history, weights=None if users.weights is None else users.weights[kept])
