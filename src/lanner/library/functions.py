"""Load a dataset or a model, evaluate one, compare several."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lanner import evaluation
from lanner.artifacts.bundle import read_bundle
from lanner.config import DataConfig
from lanner.data.feedback import FeedbackConfig
from lanner.data.frames import to_frame, with_feedback
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.evaluation import Report, Scorer
from lanner.library.estimator import Model
from lanner.library.models import MODELS
from lanner.registry import load_dataset as read_dataset

DEFAULT_METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")


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
        positive_threshold, behaviour_weights: as in ``Dataset.from_frames``.

    Raises:
        DataError: nothing there, no known format, or no usable event. ConfigError: a recipe with an unknown key.
    """
    feedback = FeedbackConfig(positive_threshold, dict(behaviour_weights or {}))
    return with_feedback(read_dataset(DataConfig(str(path), format)), feedback, str(path))


def load(path: Path | str) -> Model:
    """A model that ``save``, ``lanner train`` or ``lanner run`` wrote.

    Ids have the type that they were saved with; frames are Polars. Nothing but a neural model's ``save`` needs torch.

    Raises:
        BundleError: no bundle there, a damaged one, or one of another schema version.
    """
    bundle = read_bundle(path)
    return MODELS.get(bundle.manifest["model"]["name"], Model).of_bundle(bundle)


def evaluate(model: Model | Scorer, test: HeldOut, metrics: Sequence[str] = DEFAULT_METRICS) -> Report:
    """Rank all items for the test users and measure.

    Args:
        model: fitted or loaded; or anything with ``score(users) -> [users, items]``.
        test: such as ``split.test``.
        metrics: each with its cutoff, such as ``ndcg@10``: ndcg, recall, precision, hr, mrr, map, coverage, novelty;
            or auc, rmse, mae.

    Returns:
        A report: ``metrics`` by name, ``ci95`` (bootstrap intervals over users), ``per_user``.

    Raises:
        ConfigError: an unknown metric, a model that is not fitted, or one that was fitted on another dataset.
    """
    wanted = {metric: _parsed(metric) for metric in metrics}
    ks = sorted({k for _, k in wanted.values() if k}) or [10]
    popularity = None
    if isinstance(model, Model):
        scorer: Scorer = model.scorer
        _check_items(model, test)
        popularity = np.bincount(model.dataset.histories.values, minlength=model.dataset.num_items)
    else:
        scorer = model
    names = list(dict.fromkeys(name for name, _ in wanted.values()))
    found = evaluation.evaluate(scorer, test, ks, names, popularity)
    keys = {metric: name if k is None else f"{name}_at_{k}" for metric, (name, k) in wanted.items()}
    return replace(
        found,
        per_user={metric: found.per_user[key] for metric, key in keys.items() if key in found.per_user},
        overall={metric: found.overall[key] for metric, key in keys.items() if key in found.overall},
    )


def compare(
    models: Mapping[str, Model | Scorer], test: HeldOut, metrics: Sequence[str] = ("ndcg@10", "recall@20")
) -> Any:
    """Every pair of models on the same test users, user by user.

    Returns:
        A frame, of the kind of the first model's dataset: metric, first, second, first_mean, second_mean, difference
        (first − second), ci95_low and ci95_high (paired bootstrap), p_wilcoxon, significant (the interval excludes 0).

    Raises:
        ConfigError: fewer than two models, an unknown metric, or one that is no mean over users.
    """
    if len(models) < 2:
        raise ConfigError(f"compare takes two or more models by name, received {len(models)}")
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
    lists = (test.positives, test.excluded, test.users.history)
    last = max((int(one.values.max()) for one in lists if len(one.values)), default=-1)
    if last >= model.dataset.num_items:
        raise ConfigError(
            f"the test users have items beyond the {model.dataset.num_items:,} of the model; "
            "evaluate it on a split of the dataset that it was fitted on"
        )


def _parsed(metric: str) -> tuple[str, int | None]:
    """The name and the cutoff of ``ndcg@10``."""
    match = re.fullmatch(r"([a-z]+)(?:@([1-9]\d*))?", metric)
    if match is None or (match[2] is None) != (match[1] in ("auc", "rmse", "mae")):
        raise ConfigError(f"metric '{metric}': expected a name and a cutoff, such as ndcg@10, or auc, rmse, mae")
    return match[1], None if match[2] is None else int(match[2])
