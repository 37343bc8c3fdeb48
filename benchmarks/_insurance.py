"""Insurance: predicting another product a customer holds from the known ones, on zimnat-insurance.

For 20 % of the customers one product, drawn at random, is hidden, to be ranked among all products they are not known to
hold. They are anonymous users: the other products they hold, and their attributes, are part of the request. Of the
others 20 % are held out in the same way to choose every model's settings; then models train on all of the others.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks._datasets import named
from lanner.config import from_dict, with_seed
from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut, Split
from lanner.evaluation.intervals import paired
from lanner.evaluation.protocol import Scorer, evaluate
from lanner.evaluation.report import Report
from lanner.inference.sparse import history_matrix
from lanner.registry import MODELS

SHARE = 0.2
METRICS = ("ndcg_at_5", "hr_at_3")
EASE_RIDGES = (1.0, 10.0, 100.0, 300.0, 1000.0)
LIGHTGBM = {
    "learning_rate": 0.05,
    "n_estimators": 400,
    "lambda_l2": 5.0,
    "cat_smooth": 50.0,
    "max_cat_threshold": 16,
    "colsample_bytree": 0.7,
    "subsample": 0.8,
    "subsample_freq": 1,
    "n_jobs": 1,
    "verbose": -1,
}
LIGHTGBM_GRID = {"num_leaves": (7, 15, 31), "min_child_samples": (50, 200)}
ROUNDS = (50, 100, 150, 200, 250, 300, 400)


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """Metrics, seconds and chosen settings of every row, and the hybrid's paired difference from each other row."""
    data = named(dataset)
    blank = replace(data, user_catalogue=Catalogue.blank(data.user_catalogue.titles))
    train, whole, validation, test = split(data, seed)
    rows: dict[str, dict[str, Any]] = {}
    reports: dict[str, Report] = {}

    def row(name: str, fit: Callable[[], tuple[Scorer, dict[str, Any]]], asked: HeldOut = test) -> None:
        begun = time.perf_counter()
        scorer, chosen = fit()
        seconds = time.perf_counter() - begun
        reports[name] = evaluate(scorer, asked, ks=(3, 5), metrics=("ndcg", "hr"))
        rows[name] = {metric: reports[name].metrics[metric] for metric in METRICS} | {
            "ci95": {metric: list(map(float, reports[name].ci95[metric])) for metric in METRICS},
            "fit_seconds": round(seconds, 1),
            "chosen": chosen,
        }
        print(name, rows[name], flush=True)

    row("random", lambda: (_fitted("random", whole, seed), {}))
    row("popularity", lambda: (_fitted("popularity", whole, seed), {}))
    row("ease", lambda: _ease(train, whole, validation, seed))
    without = (_without_attributes(train, blank), _without_attributes(whole, blank))
    row("hybrid without attributes", lambda: _hybrid(*without, _stripped(validation), seed), _stripped(test))
    row("hybrid", lambda: _hybrid(train, whole, validation, seed))
    row("lightgbm", lambda: _lightgbm(train, whole, validation, seed))
    for name in rows:
        if name != "hybrid":
            found = [paired(m, reports["hybrid"].per_user[m], reports[name].per_user[m]) for m in METRICS]
            rows[name]["hybrid_minus_this"] = {
                one.metric: {"mean": one.difference, "ci95": list(one.ci95), "p_wilcoxon": one.p_wilcoxon}
                for one in found
            }
    return {"customers": len(test), "rows": rows}


def split(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset, HeldOut, HeldOut]:
    """Events to choose settings on, all events of the final training, and the held-out customers in either case."""
    random, events = np.random.default_rng(seed), dataset.interactions
    asked = random.permutation(dataset.num_users)
    test = np.sort(asked[: round(SHARE * len(asked))])
    others = asked[len(test) :]
    validation = np.sort(others[: round(SHARE * len(others))])
    # The first event of each customer in a random order.
    order = random.permutation(len(events))
    hidden = order[np.unique(events.user[order], return_index=True)[1]]
    known = np.ones(len(events), np.bool_)
    known[hidden] = False
    before = dataset.with_interactions(events.take(known))

    def asked_of(rows: np.ndarray) -> HeldOut:
        users = before.user_batch(rows)
        positives = Ragged.from_lists([[item] for item in events.item[hidden[rows]].tolist()])
        return HeldOut(rows, users, positives, users.history, items=dataset.items)

    def without(*rows: np.ndarray) -> Dataset:
        return dataset.with_interactions(events.take(~np.isin(events.user, np.concatenate(rows))))

    return without(test, validation), without(test), asked_of(validation), asked_of(test)


def whole_split(dataset: Dataset, seed: int) -> Split:
    """The same as a ``Split``; every event of a held-out customer has the label of its part."""
    train, whole, validation, test = split(dataset, seed)
    labels_U = np.zeros(dataset.num_users, np.uint8)
    labels_U[validation.rows], labels_U[test.rows] = 1, 2
    return Split("hidden-product", train, whole, validation, test, labels_U[dataset.interactions.user])


def _fitted(model: str, dataset: Dataset, seed: int, **settings: Any) -> Any:
    return MODELS[model](with_seed(from_dict({"model": model, **settings}), seed), None).fit(dataset)


def _ease(train: Dataset, whole: Dataset, validation: HeldOut, seed: int) -> tuple[Scorer, dict[str, Any]]:
    def quality(ridge: float) -> float:
        return _quality(_fitted("ease", train, seed, ease={"regularisation": ridge}), validation)

    chosen = {"regularisation": max(EASE_RIDGES, key=quality)}
    return _fitted("ease", whole, seed, ease=chosen), chosen


def _hybrid(train: Dataset, whole: Dataset, validation: HeldOut, seed: int) -> tuple[Scorer, dict[str, Any]]:
    config = with_seed(from_dict({"model": "hybrid", "neural": {"views": ["relational"]}}), seed)
    recommender: Any = MODELS["hybrid"](config, None)
    recommender.fit(train, validation)
    choice = recommender.choice
    recommender.refit(whole)
    weights = {name: weight for name, weight in choice.weights.items() if weight}
    return recommender, {"weights": weights, "settings": choice.settings, "sums": choice.sums}


def _without_attributes(dataset: Dataset, blank: Dataset) -> Dataset:
    return blank.with_interactions(dataset.interactions)


def _stripped(held_out: HeldOut) -> HeldOut:
    return replace(held_out, users=replace(held_out.users, attributes=None, profiles=None))


def _quality(scorer: Scorer, held_out: HeldOut) -> float:
    return float(evaluate(scorer, held_out, ks=(5,), metrics=("ndcg",))["ndcg_at_5"])


def _lightgbm(train: Dataset, whole: Dataset, validation: HeldOut, seed: int) -> tuple[Scorer, dict[str, Any]]:
    """Predicts the hidden product, a class each, from the others held and the attributes; each is hidden in turn."""
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for values in product(*LIGHTGBM_GRID.values()):
        settings = dict(zip(LIGHTGBM_GRID, values, strict=True))
        scorer = _Boosted(train, settings, seed)
        for scorer.rounds in ROUNDS:
            quality = _quality(scorer, validation)
            if quality > best[0]:
                best = quality, settings | {"n_estimators": scorer.rounds}
    return _Boosted(whole, best[1], seed), best[1]


class _Boosted:
    """LightGBM behind the evaluation interface. rounds: number of trees used for each class; None: all."""

    def __init__(self, dataset: Dataset, settings: dict[str, Any], seed: int) -> None:
        from lightgbm import LGBMClassifier

        self._people, self._num_items, self.rounds = dataset.user_catalogue, dataset.num_items, None
        held_UI = history_matrix(dataset.histories, self._num_items).toarray()
        user, item = np.nonzero(held_UI)
        rest_NI = held_UI[user]
        rest_NI[np.arange(len(item)), item] = 0
        features = np.hstack([rest_NI, self._attributes(self._people.values.take(user))])
        named = [place for place, one in enumerate(self._people.attributes.values(), self._num_items) if not one.edges]
        model = LGBMClassifier(**LIGHTGBM | settings, seed=seed)
        weights = 1 / held_UI.sum(axis=1)[user]
        self._model = model.fit(features, item, sample_weight=weights, categorical_feature=named)

    def score(self, users: UserBatch) -> np.ndarray:
        assert users.attributes is not None
        held_BI = history_matrix(users.history, self._num_items).toarray()
        features = np.hstack([held_BI, self._attributes(users.attributes)])
        scores = np.full(held_BI.shape, -1e9, np.float32)
        scores[:, self._model.classes_] = self._model.predict(features, raw_score=True, num_iteration=self.rounds)
        return scores

    def _attributes(self, values: Ragged) -> np.ndarray:
        """A column per attribute: the number or date at the start of its range, else a code; NaN: unknown."""
        kinds, columns = self._people.kinds, []
        for one in self._people.attributes.values():
            columns.append(np.array(one.edges) if one.edges else np.arange(len(one.names)))
        meaning = np.concatenate(columns)
        found = np.full((len(values), len(columns)), np.nan)
        found[values.row_of_value, kinds[values.values]] = meaning[values.values]
        return found
