"""Load datasets and models; evaluate and compare models."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lanner import evaluation
from lanner.artifacts.bundle import read_bundle
from lanner.config import DataConfig
from lanner.data.feedback import FeedbackConfig
from lanner.data.frames import to_frame, with_feedback
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.errors import ConfigError, nearest
from lanner.evaluation import Report, Scorer
from lanner.evaluation.metrics import RANKED
from lanner.evaluation.protocol import RankingScorer
from lanner.library.estimator import Model
from lanner.library.models import MODELS
from lanner.library.requests import path_of
from lanner.registry import load_dataset as read_dataset

DEFAULT_METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
_METRICS_WITHOUT_CUTOFF = ("auc", "rmse", "mae")
"""Metrics without a cutoff."""
_UNAVAILABLE = {
    "rmse": "the test events have no ratings",
    "mae": "the test events have no ratings",
    "novelty": "it needs the events that a Lanner model was fitted on",
}
"""Why a metric is not there for some tests."""


def load_dataset(
    path: Path | str,
    format: str = "auto",
    *,
    positive_threshold: float | Literal["auto", "none"] = "auto",
    behaviour_weights: Mapping[str, float] | None = None,
) -> Dataset:
    """Read a dataset; rejected rows are counted in ``rejected`` and reported as a ``UserWarning``.

    Args:
        path: the name of a bundled dataset, a folder, a file of events, or a recipe (``.toml``).
        format: ``auto``, a format by name, or a recipe to read the folder by.
        positive_threshold: as in ``Dataset.from_frames``.
        behaviour_weights: likewise.

    Raises:
        DataError: path not found, unknown format, or no usable event. ConfigError: no path, or a recipe with an
            unknown setting.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"load_dataset takes a name or a path, received {type(path).__name__}; "
            "for frames: lanner.Dataset.from_frames"
        )
    feedback = FeedbackConfig(positive_threshold, {} if behaviour_weights is None else behaviour_weights)
    source = str(path)
    return replace(with_feedback(read_dataset(DataConfig(source, format)), feedback, source), source=source)


def load(path: Path | str) -> Model:
    """Load a model written by ``save``, ``lanner train`` or ``lanner run``.

    Ids keep their saved type; frames are Polars. Only a neural model's ``save`` needs torch.

    Raises:
        BundleError: a missing or corrupt bundle, or another schema version. ConfigError: no path.
    """
    bundle = read_bundle(path_of(path, "load"))
    return MODELS.get(bundle.manifest["model"]["name"], Model).of_bundle(bundle)


def evaluate(model: Model | Scorer, test: HeldOut, metrics: str | Sequence[str] = DEFAULT_METRICS) -> Report:
    """Rank all items for the test users and compute metrics.

    Args:
        model: fitted or loaded; or any object with ``score(users) -> [users, items]``, such as ``model.scorer``, which
            may also be measured on events that it was fitted on.
        test: such as ``split.test``.
        metrics: one or several, each with its cutoff, such as ``ndcg@10``: ndcg, recall, precision, hr, mrr, map,
            coverage, novelty (Lanner models only); or auc; or rmse and mae if test events have ratings.

    Returns:
        A report: ``metrics`` by name, ``ci95`` (bootstrap intervals over users), ``per_user``.

    Raises:
        ConfigError: an unknown metric, a model that is not fitted, or was fitted on another dataset or on test events,
            or scores that are not users × items.
    """
    if not isinstance(test, HeldOut):
        raise ConfigError(f"expected held-out users, such as split.test, received {type(test).__name__}")
    if not isinstance(model, Model) and (isinstance(model, type) or not hasattr(model, "score")):
        raise ConfigError(
            f"evaluate takes a model, or anything with score(users) -> [users, items], received {type(model).__name__}"
        )
    computable = _computable(test, is_model=isinstance(model, Model))
    wanted = {metric: _parsed(metric, computable) for metric in _as_list(metrics)}
    ks = sorted({k for _, k in wanted.values() if k}) or [10]
    popularity = None
    if isinstance(model, Model):
        scorer: Scorer = model.scorer
        _check_items(model, test)
        _check_withheld(model, test)
        popularity = np.bincount(model.dataset.histories.values, minlength=model.dataset.num_items)
    else:
        scorer = model if isinstance(model, RankingScorer) else _CheckedScorer(model, test)
    names = list(dict.fromkeys(name for name, _ in wanted.values()))
    found = evaluation.evaluate(scorer, test, ks, names, popularity)
    keys = {metric: name if k is None else f"{name}_at_{k}" for metric, (name, k) in wanted.items()}
    return replace(
        found,
        per_user={metric: found.per_user[key] for metric, key in keys.items() if key in found.per_user},
        overall={metric: found.overall[key] for metric, key in keys.items() if key in found.overall},
    )


def compare(
    models: Mapping[str, Model | Scorer], test: HeldOut, metrics: str | Sequence[str] = ("ndcg@10", "recall@20")
) -> Any:
    """Compare every pair of models on the same test users, user by user.

    Returns:
        A frame of the kind of the first model's dataset: metric, first, second, first_mean, second_mean, difference
        (first − second), ci95_low and ci95_high (paired bootstrap), p_wilcoxon, significant (the interval excludes 0).

    Raises:
        ConfigError: fewer than two models, an unknown metric, or one that is not a mean over users.
    """
    if not isinstance(models, Mapping):
        raise ConfigError(
            "compare takes two or more models by name, such as {'first': model, 'second': other}, "
            f"received {type(models).__name__}"
        )
    if len(models) < 2:
        raise ConfigError(f"compare takes two or more models by name, received {len(models)}")
    metrics = _as_list(metrics)
    reports = {name: replace(evaluate(model, test, metrics), name=name) for name, model in models.items()}
    rows = []
    for metric in metrics:
        for (one, first), (two, second) in combinations(reports.items(), 2):
            found = evaluation.compare(first, second, metric)
            means = (first[metric], second[metric], found.difference)
            rows.append((metric, one, two, *means, *found.ci95, found.p_wilcoxon, found.significant))
    columns = (
        *("metric", "first", "second", "first_mean", "second_mean", "difference"),
        *("ci95_low", "ci95_high", "p_wilcoxon", "significant"),
    )
    leader = next(iter(models.values()))
    kind = leader.dataset.frame_kind if isinstance(leader, Model) else "polars"
    return to_frame({name: list(column) for name, column in zip(columns, zip(*rows, strict=True), strict=True)}, kind)


def _check_items(model: Model, test: HeldOut) -> None:
    if not test.is_of(model.dataset.items) or _last_item(test) >= model.dataset.num_items:
        raise ConfigError(
            "the test users' items are not those of the model; "
            "evaluate it on a split of the dataset that it was fitted on"
        )


def _check_withheld(model: Model, test: HeldOut) -> None:
    """Raises ``ConfigError`` if the model was fitted on test events. Repeats of what a user had seen do not count."""
    if test.user_ids is None:
        return
    learned, names = model._learned_from, [test.user_ids.external[row] for row in test.rows]
    known = np.flatnonzero([name in learned.users for name in names])
    test = test.take(known)
    before = test.users.history if test.users.seen is None else test.users.seen
    fitted = learned.seen.take(learned.users.rows(names[place] for place in known))
    asked, seen, used = (one.row_of_value * learned.num_items + one.values for one in (test.positives, before, fitted))
    leaked = int(np.isin(np.setdiff1d(asked, seen), used).sum())
    if leaked:
        raise ConfigError(
            f"the model was fitted on {leaked:,} of the {len(asked):,} test events; evaluate it on a split whose train "
            "or refit it was fitted on"
        )


def _last_item(test: HeldOut) -> int:
    """The highest item row in the test data; −1 if there is none."""
    lists = (test.positives, test.excluded, test.users.history)
    return max((int(one.values.max()) for one in lists if len(one.values)), default=-1)


class _CheckedScorer:
    """A caller's scorer, whose scores are validated before use."""

    def __init__(self, scorer: Scorer, test: HeldOut) -> None:
        self._scorer = scorer
        self._num_items = None if test.items is None else len(test.items)
        self._last = _last_item(test)

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Raises ``ConfigError`` unless the scores are numbers ``[users, items]``."""
        scores: Any = self._scorer.score(users)
        try:
            scores = np.asarray(scores, np.float32) if not isinstance(scores, np.ndarray) else scores
        except (TypeError, ValueError):
            scores = np.array("")
        if scores.dtype.kind not in "fiub":
            raise ConfigError("the scorer must return numbers, one for each user and item")
        items = self._num_items if self._num_items is not None else max(self._last + 1, *scores.shape[1:2], 0)
        if scores.shape != (len(users), items):
            raise ConfigError(f"the scorer returned the shape {scores.shape}, expected {(len(users), items)}")
        numbers: NDArray[np.float32] = scores
        return numbers


def _computable(test: HeldOut, *, is_model: bool) -> tuple[str, ...]:
    """Names of the metrics that can be computed for these users."""
    of_lists = (*RANKED, "coverage", *(["novelty"] if is_model else []))
    return of_lists + (_METRICS_WITHOUT_CUTOFF if test.ratings is not None else _METRICS_WITHOUT_CUTOFF[:1])


def _as_list(metrics: Any) -> list[Any]:
    """The metrics as a list; a single one need not be in one."""
    found = [metrics] if isinstance(metrics, str) or not isinstance(metrics, Iterable) else list(metrics)
    if not found:
        raise ConfigError("no metric is given; give one or several, such as ndcg@10")
    return found


def _parsed(metric: Any, computable: Sequence[str]) -> tuple[str, int | None]:
    """Name and cutoff, as of ``ndcg@10``."""
    match = re.fullmatch(r"([a-z]+)(?:@([1-9][0-9]{0,8}))?", metric) if isinstance(metric, str) else None
    if match is not None and match[1] not in computable:
        reason = _UNAVAILABLE.get(match[1])
        problem = f"unknown metric '{metric}'" if reason is None else f"metric '{metric}' cannot be computed: {reason}"
        near = nearest(match[1], computable) if reason is None else None
        if near:
            raise ConfigError(f"{problem}; did you mean '{metric.replace(match[1], near)}'?")
        raise ConfigError(f"{problem}; choose from {', '.join(computable)}")
    if match is None or (match[2] is None) != (match[1] in _METRICS_WITHOUT_CUTOFF):
        alone = ", ".join(name for name in _METRICS_WITHOUT_CUTOFF if name in computable)
        raise ConfigError(f"metric '{metric}': expected a name and a cutoff, such as ndcg@10, or {alone}")
    return match[1], None if match[2] is None else int(match[2])
