"""The commands that train and evaluate: run, train, update, evaluate, compare."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanner.cli import console, options
from lanner.errors import ConfigError, LannerError, RanksEndedError, optional_module

if TYPE_CHECKING:
    from lanner.config import RunConfig
    from lanner.evaluation.report import Report
    from lanner.pipeline import Outcome

DEMO_USERS = 3
OUT = Path("lanner-bundle")
_TO_AVERAGE = "add --set parallel.local_steps=20"


def run(
    context: typer.Context,
    data: options.Data = None,
    config: options.Config = None,
    model: options.Model = None,
    split: options.Split = None,
    seed: options.Seed = None,
    device: options.Device = None,
    adapt: options.Adapt = None,
    rank: options.Rank = None,
    nproc: options.Processes = None,
    parallel: options.Parallel = None,
    engine: options.Engine = None,
    log: options.Log = None,
    out: options.Out = OUT,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="After the evaluation, refit on all events, for as many epochs as validation chose."
        ),
    ] = False,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a model on a part of the events, evaluate it on the rest, and write a bundle.

    With --refit the bundle's model is then refitted on all events; the metrics are those measured before.

    \b
    Examples:
      lanner run
      lanner run ratings.csv --model ease --out my-bundle --refit
      lanner run recipes/ml-1m.toml --adapt lora --rank 8
      lanner run recipes/ml-1m.toml --adapt lora --nproc 4 --parallel "pp=2,replicate=2"
      lanner run --config run.toml --set training.epochs=5 --json
    """
    from lanner.data.describe import example_users

    chosen = {
        "data.path": data,
        "model": model,
        "split.name": split,
        "training.log": log,
        "parallel.engine": engine,
        "adaptation.method": adapt,
        "adaptation.rank": rank,
    }
    settings = _divided(chosen_settings(config, seed, device, chosen, overrides), nproc, parallel)
    outcome = _fit(settings, out, context.obj, rank, refit=refit)
    examples = _examples(outcome, example_users(outcome.bundle.dataset, DEMO_USERS))
    if as_json:
        console.show_json({**_facts(outcome), **outcome.bundle.manifest["metrics"], "recommendations": examples})
        return
    if outcome.report:
        show_report(outcome.report)
    for user, items in examples.items():
        console.show_items(f"For user {user}", items)
    console.show_line(f"Wrote the bundle {out}. Ask it: lanner recommend {out} --user {next(iter(examples), 'ID')}")
    if outcome.report and not refit:
        console.show_line("Its model has not seen the withheld events; to fit it on all events, add --refit.")


def train(
    context: typer.Context,
    data: options.Data = None,
    config: options.Config = None,
    model: options.Model = None,
    seed: options.Seed = None,
    device: options.Device = None,
    adapt: options.Adapt = None,
    rank: options.Rank = None,
    nproc: options.Processes = None,
    parallel: options.Parallel = None,
    engine: options.Engine = None,
    log: options.Log = None,
    out: options.Out = OUT,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a model on all events and write a bundle, without an evaluation.

    A model with early stopping first chooses its number of epochs on a tenth of the events, then trains on all of them.

    \b
    Examples:
      lanner train recipes/ml-1m.toml --model hybrid --out ml-1m-hybrid
      lanner train --model ease --set ease.regularisation=300
      lanner train recipes/ml-1m.toml --adapt lora --nproc 2
      lanner train ratings.csv --json
    """
    named = next(
        (one for one in overrides or () if one.replace(" ", "").startswith(("split.name=", "split.test="))), None
    )
    if named:
        raise ConfigError(f"--set {named}: lanner train uses every event; to withhold some, use lanner run")
    chosen = {
        "data.path": data,
        "model": model,
        "split.name": "none",
        "training.log": log,
        "parallel.engine": engine,
        "adaptation.method": adapt,
        "adaptation.rank": rank,
    }
    settings = _divided(chosen_settings(config, seed, device, chosen, overrides), nproc, parallel)
    outcome = _fit(settings, out, context.obj, rank)
    line = f"Wrote the bundle {out}, fitted on all events. Ask it: lanner recommend {out} --user ID"
    console.show_result(_facts(outcome), line, as_json=as_json)


def update(
    bundle: options.BundlePath,
    events: Annotated[str, typer.Argument(metavar="EVENTS", help="New events: a file, a folder or a recipe.")],
    out: options.Out,
    as_json: options.AsJson = False,
) -> None:
    """Add new events to a bundle's model without training, and write a new bundle.

    Closed-form parts are re-solved for what has changed; trained parameters, settings and weights stay. New users and
    items are added to the known ones.

    \b
    Examples:
      lanner update lanner-bundle new-events.csv --out lanner-bundle-2
    """
    from lanner.config import DataConfig
    from lanner.library import load
    from lanner.registry import load_dataset

    stages, model = console.Stages(), load(bundle)
    before = model.dataset
    stages(f"load {events}")
    more = load_dataset(DataConfig(events))
    for warning in more.warnings:
        stages(f"warning: {warning}")
    stages(f"update {model.config.model} with {len(more.interactions):,} events")
    model.update(more)
    stages(f"write {out}")
    model.save(out)
    added = {
        "events": len(model.dataset.interactions) - len(before.interactions),
        "users": model.dataset.num_users - before.num_users,
        "items": model.dataset.num_items - before.num_items,
    }
    counted = ", ".join(f"{count:,} new {what}" for what, count in added.items())
    console.show_result({"bundle": str(out), **added}, f"Wrote the bundle {out}: {counted}.", as_json=as_json)


def evaluate(
    bundle: options.BundlePath,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the evaluation, such as evaluation.ks=[5]."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a bundle on the events that lanner run withheld from training.

    \b
    Examples:
      lanner evaluate lanner-bundle
      lanner evaluate lanner-bundle --set evaluation.candidates=sampled --set "evaluation.ks=[5, 10]" --json
    """
    other = next((one for one in overrides or () if one.split("=")[0].split(".")[0].strip() != "evaluation"), None)
    if other is not None:
        raise ConfigError(
            f"--set {other}: lanner evaluate reads only evaluation settings, such as evaluation.ks=[5]; "
            "for another split or model: lanner run"
        )
    from lanner.config import from_dict
    from lanner.pipeline import measured_bundle, open_bundle
    from lanner.settings import overridden

    opened = open_bundle(bundle)
    asked = overridden(from_dict(opened.config), overrides or ())
    report = measured_bundle(opened, asked.evaluation)
    if as_json:
        console.show_json(report.to_dict())
    else:
        show_report(report)


def compare(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE_A", help="Folder of a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="BUNDLE_B", help="Folder of another bundle on the same split.")],
    as_json: options.AsJson = False,
) -> None:
    """Compare two bundles user by user: mean difference A − B of each metric, with its 95 % confidence interval.

    \b
    Examples:
      lanner compare hybrid-bundle ease-bundle
      lanner compare hybrid-bundle ease-bundle --json
    """
    from lanner.pipeline import compared, open_bundle

    found = compared(open_bundle(first), open_bundle(second))
    if as_json:
        console.show_json([asdict(one) for one in found])
        return
    cells = [(one.metric, one.difference, *one.ci95, one.p_wilcoxon) for one in found]
    columns = ("metric", "difference", "95 % from", "to", "p (Wilcoxon)")
    console.show_table(f"{first} − {second}", columns, cells)


def show_report(report: "Report") -> None:
    """The metrics with their confidence intervals, as a table."""
    rows = [(name, value, *report.ci95.get(name, ("", ""))) for name, value in report.metrics.items()]
    console.show_table(f"{len(report.rows):,} test users", ("metric", "mean", "95 % from", "to"), rows)


def chosen_settings(
    file: Path | None,
    seed: int | None,
    device: str | None,
    chosen: Mapping[str, str | int | None],
    overrides: Sequence[str] | None,
) -> "RunConfig":
    """The file's settings, overridden by the options, overridden by ``--set``.

    Raises:
        ConfigError: an unknown setting, a wrong value, or a ``--set`` that does not affect the model.
    """
    from lanner.config import RunConfig, read_config, with_device, with_seed
    from lanner.settings import overridden, with_options

    config = read_config(file) if file else RunConfig()
    config = config if seed is None else with_seed(config, seed)
    config = config if device is None else with_device(config, device)
    settings: RunConfig = overridden(with_options(config, chosen), overrides or ())
    _check_read(settings.model, overrides or ())
    return settings


def _check_read(model: str, overrides: Sequence[str]) -> None:
    """Raises ``ConfigError`` for an override of settings that do not affect the model; a file may hold any model's."""
    from lanner.cli.reference import settings_of

    own = {one.name for one in settings_of(model)}
    every = {one.name for one in settings_of(None)}
    for override in overrides:
        key = override.partition("=")[0].strip().replace("-", "_")
        # A table names several settings, or an entry of one.
        named = {name for name in every if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")}
        # ``_check_used`` knows when the settings of adaptation and parallel have an effect.
        if named.isdisjoint(own) and key.partition(".")[0] not in ("adaptation", "parallel"):
            remedy = f"the model '{model}' does not read it; choose another --model, or leave it out"
            raise ConfigError(f"--set {override} changes nothing in this run; {remedy}")


def _divided(config: "RunConfig", nproc: int | None, parallel: str | None) -> "RunConfig":
    """The settings with the degrees of ``--parallel``; without it, every rank is a replica."""
    from lanner.distributed.config import EngineConfig
    from lanner.distributed.degrees import Degrees
    from lanner.distributed.launch import world

    ranks, degrees = world() or nproc, config.parallel.degrees
    if parallel is not None:
        degrees = Degrees.parse(parallel)
    elif degrees == Degrees() and ranks is not None:
        degrees = Degrees(replicas=ranks)
    degrees.check_world(degrees.world if ranks is None else ranks)
    if degrees.world > 1 and config.adaptation.method == "none":
        raise ConfigError(
            f"{degrees.arithmetic}: only language model training can be divided; add --adapt lora, or leave out "
            "--nproc and --parallel"
        )
    config = replace(config, parallel=replace(config.parallel, degrees=degrees))
    if world() == 1 and config.parallel != EngineConfig():  # a launcher with a range of nodes may start a single rank
        console.complain("one rank: the settings of 'parallel' have no effect")
        config = replace(config, parallel=EngineConfig())
    config.parallel.check()
    return config


def _check_used(config: "RunConfig", rank: int | None) -> None:
    """Raises ``ConfigError`` for settings without effect, ``StorageError`` for an output that cannot be written.

    rank: the option as given.
    """
    from lanner.files import check_writable
    from lanner.registry import views_of

    adaptation, parallel = config.adaptation, config.parallel
    defaults = type(adaptation)(seed=adaptation.seed)  # a seed is set everywhere at once
    unused: tuple[str, ...] = tuple(asdict(defaults))
    if "language" not in views_of(config):
        remedy = f"the model '{config.model}' has no language model; choose another --model"
    elif adaptation.method == "none":
        remedy = "add --adapt lora"
    else:
        unused = ("rank", "alpha", "target_modules") if adaptation.method == "full" else ()
        remedy = "use --adapt lora"
    _check_unchanged("adaptation", adaptation, defaults, unused, remedy)
    by_companions = adaptation.objective == "companions"
    other, name = ("histories", "batch_users") if by_companions else ("companions", "temperature")
    _check_unchanged("adaptation", adaptation, defaults, (name,), f"use --set adaptation.objective={other}")
    if rank is not None and "rank" in unused:  # the option's value may be the default
        raise ConfigError(f"--rank {rank} changes nothing in this run; {remedy}, or leave it out")
    usual, degrees = type(parallel)(parallel.degrees), parallel.degrees
    for names, is_used, remedy in (
        (asdict(usual), degrees.world > 1, "add --nproc or --parallel"),
        (("schedule", "bounds"), degrees.pipeline > 1, "add pp to --parallel"),
        (("compression", "dense_steps", "ranks_per_rack"), degrees.replicas > 1, "add replicate to --parallel"),
        (("outer_rate", "outer_momentum", "fragments", "delay"), parallel.local_steps > 0, _TO_AVERAGE),
        (("dense_steps",), parallel.compression != "none", "add --set parallel.compression=int8"),
        (("zero",), parallel.engine == "deepspeed", "add --engine deepspeed"),
    ):
        if not is_used:
            _check_unchanged("parallel", parallel, usual, names, remedy)
    if adaptation.output is not None:
        check_writable(Path(adaptation.output), f"adaptation.output={adaptation.output}")


def _check_unchanged(section: str, config: Any, expected: Any, names: Iterable[str], remedy: str) -> None:
    for name in names:
        if (value := getattr(config, name)) != getattr(expected, name):
            raise ConfigError(f"{section}.{name}={value} changes nothing in this run; {remedy}, or leave it out")


def _fit(config: "RunConfig", out: Path, given: Sequence[str], rank: int | None, *, refit: bool = False) -> "Outcome":
    """Run the pipeline. If several ranks are requested and this process is not one, they run the command ``given``."""
    from lanner.distributed.launch import check_settings, launch, world
    from lanner.pipeline import assist
    from lanner.pipeline import run as run_pipeline

    is_divided = config.parallel.degrees.world > 1
    if is_divided:
        optional_module("torch", "torch", "adapt", "training on several ranks")
        check_settings(config.parallel)
    _check_used(config, rank)
    if not is_divided:
        return run_pipeline(config, out, console.Stages(), refit=refit)
    if world() is None:
        launch(config.parallel, given)
        raise typer.Exit
    from lanner.distributed.ranks import joined

    with joined() as rank:
        if rank == 0:
            return run_pipeline(config, out, console.Stages(), refit=refit)
        try:
            assist(config)
        except RanksEndedError:
            raise
        except LannerError:  # rank 0 reports it
            pass
        raise typer.Exit


def _facts(outcome: "Outcome") -> dict[str, Any]:
    """The outcome of a run, for ``--json``."""
    return {
        "bundle": str(outcome.bundle.path),
        "model": outcome.bundle.manifest["model"]["name"],
        "feedback": outcome.feedback,
        "notes": list(outcome.notes),
        "rejected": dict(outcome.rejected),
        "warnings": list(outcome.warnings),
    }


def _examples(outcome: "Outcome", users: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Five recommendations for each of ``users``."""
    from lanner.cli.answers import listed, without_warnings
    from lanner.library import load

    with without_warnings():
        frame = load(outcome.bundle.path).recommend(users=users, k=5)
    parts = frame.group_by("user_id", maintain_order=True)
    return {user: [] for user in users} | {str(user): listed(part) for (user,), part in parts}
