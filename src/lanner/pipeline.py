"""The story on one page: load → feedback → split → fit → evaluate → bundle."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lanner.artifacts.bundle import Bundle, read_bundle, write_bundle
from lanner.artifacts.encoder_files import serving_parts
from lanner.config import EvaluationConfig, RunConfig, from_dict, to_dict
from lanner.data.feedback import Feedback
from lanner.data.split import Split
from lanner.errors import BundleError, DataError
from lanner.evaluation.intervals import Comparison
from lanner.evaluation.protocol import evaluate
from lanner.evaluation.report import Report, compare
from lanner.models.recommender import Recommender
from lanner.registry import CANDIDATES, CLOSED_FORMS, SPLITS, load_dataset, model_builder

Announce = Callable[[str], None]
"""Told what begins, as it begins."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the bundle as anyone would load it, what the evaluation found, and how events were read."""

    bundle: Bundle
    report: Report | None
    feedback: str


def run(config: RunConfig, out: Path, announce: Announce = lambda _: None, *, measure: bool = True) -> Outcome:
    """From a dataset's path to a bundle at ``out``; without ``measure`` nothing is evaluated.

    Raises:
        LannerError: with one line that says what to do. ``Interrupted`` leaves a checkpoint: run again to resume.
    """
    build = model_builder(config.model)
    announce(f"load {config.data.path}")
    dataset = load_dataset(config.data)
    if not len(dataset.interactions):
        raise DataError("holds no interactions that can be used", path=config.data.path)
    feedback = Feedback.decide(dataset.interactions, config.feedback)
    dataset = feedback.apply(dataset)
    read_as = feedback.describe(dataset.interactions)
    announce(f"feedback: {read_as}")
    if not len(dataset.histories.values):
        raise DataError(f"no event is positive ({read_as}); set feedback.positive_threshold", path=config.data.path)
    announce(f"split {len(dataset.interactions):,} events: {config.split.name}")
    split = SPLITS[config.split.name](dataset, config.split)
    closed_form = config.model in CLOSED_FORMS
    known, fitted = (split.refit, split.labels < 2) if closed_form else (split.train, split.labels < 1)
    announce(f"fit {config.model} on {len(known.histories.values):,} positive events")
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    recommender = build(config, checkpoint).fit(known, split.validation)
    report = None
    if measure:
        announce(f"evaluate on {len(split.test):,} users")
        report = measured(recommender, split, config.evaluation)
    announce(f"write {out}")
    metrics = {} if report is None else report.to_dict()
    write_bundle(
        out,
        recommender,
        dataset=dataset,
        fitted=fitted,
        feedback=feedback,
        config=to_dict(config),
        metrics=metrics,
        **serving_parts(recommender),
    )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return Outcome(open_bundle(out), report, read_as)


def open_bundle(path: Path) -> Bundle:
    """A bundle of any of ``MODELS``; raises ``BundleError``."""
    return read_bundle(path, lambda name: model_builder(name)(RunConfig(model=name), None))


def measured(recommender: Recommender, split: Split, config: EvaluationConfig, name: str = "") -> Report:
    """The recommender on the split's test users, its candidates narrowed as ``config`` says."""
    test = CANDIDATES[config.candidates](split.test, split.train.num_items, config)
    return evaluate(recommender, replace(split, test=test), config.ks, name=name)


def measured_bundle(bundle: Bundle, config: EvaluationConfig | None = None) -> Report:
    """A bundle on the events that its run had hidden."""
    its_own = from_dict(bundle.config)
    split = SPLITS[its_own.split.name](bundle.dataset, its_own.split)
    return measured(bundle.recommender, split, config or its_own.evaluation, str(bundle.path))


def compared(first: Bundle, second: Bundle) -> list[Comparison]:
    """Every metric of one bundle against another's, user by user, on the events that both had hidden.

    Raises:
        BundleError: they were run on another dataset or split, or read feedback otherwise.
    """
    for what, one, two in (
        ("dataset", first.manifest["dataset"]["fingerprint"], second.manifest["dataset"]["fingerprint"]),
        ("split", first.config["split"], second.config["split"]),
        ("feedback", first.feedback, second.feedback),
    ):
        if one != two:
            raise BundleError(f"{first.path} and {second.path} differ in their {what}; run both on the same one")
    how = from_dict(first.config).evaluation
    ours, theirs = (measured_bundle(bundle, how) for bundle in (first, second))
    return [compare(ours, theirs, metric) for metric in ours.per_user]
