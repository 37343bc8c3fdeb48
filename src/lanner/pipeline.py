"""The training pipeline on one page: load → feedback → plan → fit → evaluate → bundle."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import Bundle, check_place, read_bundle, write_bundle
from lanner.artifacts.serving_parts import serving_parts
from lanner.config import EvaluationConfig, RunConfig, from_dict, to_dict
from lanner.data.feedback import Feedback, absent_behaviours
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import BundleError, DataError, Interrupted
from lanner.evaluation.intervals import Comparison
from lanner.evaluation.protocol import evaluate
from lanner.evaluation.report import Report, compare
from lanner.files import check_writable
from lanner.registry import CLOSED_FORMS, SPLITS, Plan, load_dataset, model_builder, narrowed, planned
from lanner.training.config import ADAPTATION, CHECKPOINT, REFIT

Announce = Callable[[str], None]
"""Called with a line for each stage that begins."""


@dataclass(frozen=True)
class Outcome:
    """Results of a run: the bundle as loaded from disk, the evaluation report, and the decisions made.

    feedback: how events were read. notes: what differs from the settings, and why.
    rejected: rows that could not be used, by reason. warnings: what else reading the files found, and why nothing could
    be trained.
    """

    bundle: Bundle
    report: Report | None
    feedback: str
    notes: tuple[str, ...]
    rejected: Mapping[str, int]
    warnings: tuple[str, ...]


def run(
    config: RunConfig,
    out: Path,
    announce: Announce = lambda _: None,
    *,
    measure: bool = True,
    refit: bool = False,
) -> Outcome:
    """From a dataset's path to a bundle at ``out``.

    Args:
        config: the settings. With ``split.name`` none the model is fitted on every event, and nothing is evaluated.
        out: the bundle's folder.
        announce: called with a line for each stage that begins.
        measure: whether to evaluate on the split's test events.
        refit: then refit on all events with what validation chose; the metrics are those from before the refit.

    Raises:
        LannerError: with one line that says what to do. ``Interrupted`` leaves a checkpoint: run again to resume.
    """
    build = model_builder(config.model)
    _check_writable(out)
    dataset, feedback = read(config, announce)
    plan = planned(config, dataset, measure=measure)
    config = plan.config
    for line in (f"split {len(dataset.interactions):,} events: {config.split.name}", *plan.notes):
        announce(line)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    recommender, fitted, report = build(config, checkpoint), _fitted(plan), None
    known, validation = _known(plan)
    with _resumable(checkpoint):
        announce(f"fit {config.model} on {len(known.histories.values):,} positive events")
        recommender.fit(known, validation)
        found = (recommender.shortfall,) if recommender.shortfall else ()
        for warning in found:
            announce(f"warning: {warning}")
        if measure and len(plan.test):
            announce(f"evaluate on {len(plan.test):,} users")
            report = evaluate(recommender, replace(plan.split, test=plan.test), config.evaluation.ks)
        if refit or (config.split.name == "none" and not fitted.all()):
            announce(f"refit {config.model} on all {len(dataset.histories.values):,} positive events")
            recommender.refit(dataset)
            fitted = np.ones_like(fitted)
    announce(f"write {out}")
    write_bundle(
        out,
        recommender,
        dataset=dataset,
        fitted=fitted,
        feedback=feedback,
        config=to_dict(replace(config, split=replace(config.split, name="none")) if refit else config),
        metrics=_metrics(report, config, refit=refit),
        **serving_parts(recommender),
    )
    _remove_checkpoint(checkpoint)
    read_as = feedback.describe(dataset.interactions)
    return Outcome(open_bundle(out), report, read_as, plan.notes, dataset.rejected, (*dataset.warnings, *found))


def assist(config: RunConfig) -> None:
    """What ranks other than the first do in ``run``: their part of training the language model.

    Raises:
        LannerError: also raised by ``run`` on the first rank.
    """
    from lanner.distributed.ranks import follow
    from lanner.models.language import LanguageEncoder
    from lanner.training.divided import prepare

    follow(lambda: prepare(LanguageEncoder(config.neural.encoder), config.adaptation, config.parallel))


def open_bundle(path: Path) -> Bundle:
    """A bundle of any of ``MODELS``; raises ``BundleError``."""
    return read_bundle(path, lambda name: model_builder(name)(RunConfig(model=name), None))


def measured_bundle(bundle: Bundle, config: EvaluationConfig | None = None) -> Report:
    """A bundle on the events that its run withheld.

    Raises:
        BundleError: it was fitted on every event. ConfigError: settings of the evaluation that cannot work.
    """
    its_own = from_dict(bundle.config)
    if its_own.split.name == "none":
        raise BundleError(
            f"{bundle.path}: fitted on every event, so none is left to evaluate it on; measure the model on a split "
            f"instead: lanner run {its_own.data.path} --model {its_own.model}"
        )
    config = config or its_own.evaluation
    split = SPLITS[its_own.split.name](bundle.dataset, its_own.split)
    test = narrowed(split.test, bundle.dataset.num_items, config)
    return evaluate(bundle.recommender, replace(split, test=test), config.ks, name=str(bundle.path))


def compared(first: Bundle, second: Bundle) -> list[Comparison]:
    """Every metric of one bundle against another's, user by user, on the events that both withheld.

    Raises:
        BundleError: they differ in dataset, split or feedback, or were fitted on every event.
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


def _check_writable(out: Path) -> None:
    """Raises ``StorageError`` if no bundle can be written there, before any computation."""
    check_place(out)
    check_writable(out.absolute().parent, str(out), "another --out")


@contextlib.contextmanager
def _resumable(checkpoint: Path) -> Iterator[None]:
    """Ctrl-C before or after training reports the checkpoint, if there is one; training itself does the same."""
    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint.exists():
            raise
        raise Interrupted(f"stopped; the same command resumes from {checkpoint}") from None


def _remove_checkpoint(folder: Path) -> None:
    """Remove the files of a checkpoint, and their folders if they hold nothing else."""
    for part in (folder / ADAPTATION, folder / REFIT, folder):
        for file in part.glob(f"{CHECKPOINT}*"):
            file.unlink()
        with contextlib.suppress(OSError):
            part.rmdir()


def read(config: RunConfig, announce: Announce) -> tuple[Dataset, Feedback]:
    """The dataset with feedback applied, and what was decided about feedback."""
    path = config.data.path
    announce(f"load {path}")
    dataset = load_dataset(config.data)
    for warning in dataset.warnings:
        announce(f"warning: {warning}")
    if dataset.unread:
        announce(f"columns not read: {', '.join(dataset.unread)}")
    if dataset.rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dataset.rejected.items())
        announce(f"rejected rows: {reasons}; to see them: lanner data describe {path} --rejected rejected.parquet")
    if not len(dataset.interactions):
        raise DataError("has no usable interactions", path=path)
    feedback = Feedback.decide(dataset.interactions, config.feedback)
    for warning in (*absent_behaviours(dataset.interactions, config.feedback), *filter(None, [feedback.outliers])):
        announce(f"warning: {warning}")
    dataset = feedback.apply(dataset)
    read_as = feedback.describe(dataset.interactions)
    announce(f"feedback: {read_as}")
    if not len(dataset.histories.values):
        raise DataError(f"no event is positive ({read_as}); set feedback.positive_threshold", path=path)
    return dataset, feedback


def _known(plan: Plan) -> tuple[Dataset, HeldOut | None]:
    """What the model is fitted on first, and its validation events, if any."""
    if plan.config.model in CLOSED_FORMS:
        return plan.split.refit, None
    return plan.split.train, plan.split.validation if len(plan.split.validation) else None


def _fitted(plan: Plan) -> NDArray[np.bool_]:
    """Which events ``_known`` holds, bool ``[E]``."""
    return plan.split.labels < (2 if plan.config.model in CLOSED_FORMS else 1)


def _metrics(report: Report | None, config: RunConfig, *, refit: bool) -> dict[str, Any]:
    """What the manifest says of the evaluation; empty where there was none."""
    if report is None:
        return {}
    return {**report.to_dict(), "split": to_dict(config.split), "measured_before_refit": refit}
