"""The command line: one short function a command. Rooms are imported inside, so that ``lanner --help`` answers at once.

Results go to stdout, everything else to stderr. Exit codes: 0; 2 for what the caller can mend (one line says what);
130 after Ctrl-C.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanner.cli import bundles as cli_versions
from lanner.cli import console, options
from lanner.cli import serving as cli_serving
from lanner.errors import LannerError

if TYPE_CHECKING:
    from lanner.artifacts.bundle import Bundle
    from lanner.evaluation.report import Report
    from lanner.library import BundleRanker
    from lanner.pipeline import Outcome

app = typer.Typer(
    name="lanner",
    help="Recommend with a graph and a language model.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = options.group("Look at datasets.")
app.add_typer(data_app, name="data")
app.add_typer(cli_versions.bundles_app, name="bundles")
app.add_typer(cli_versions.experiment_app, name="experiment")

INTERRUPTED = 130
DEMO_USERS = 3
EXPLAINED_PARTS = 10
"""So many parts of a score are shown; JSON has them all."""


@app.command()
def run(
    data: options.Data = None,
    config: options.Config = None,
    model: options.Model = None,
    split: options.SplitName = None,
    seed: options.Seed = None,
    device: options.Device = None,
    out: options.Out = Path("lanner-bundle"),
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Load, split, fit, evaluate, write a bundle, and recommend for a few users.

    \b
    Examples:
      lanner run
      lanner run ratings.csv --model ease --out my-bundle
      lanner run --config run.toml --set training.epochs=5 --json
    """
    from lanner.data.describe import example_users
    from lanner.library import BundleRanker

    chosen = {"data.path": data, "model": model, "split.name": split}
    outcome = _fit(out, config, seed, device, chosen, overrides, measure=True)
    bundle = outcome.bundle
    ranker = BundleRanker(bundle)
    answers = {user: ranker.recommend(user, k=5).items for user in example_users(bundle.dataset, DEMO_USERS)}
    if as_json:
        facts = {"bundle": str(out), "feedback": outcome.feedback}
        console.show_json({**facts, **bundle.manifest["metrics"], "recommendations": answers})
        return
    if outcome.report:
        _show_report(outcome.report)
    for user, items in answers.items():
        _show_items(f"For user {user}", items)
    console.show_line(f"The bundle is in {out}; ask it: lanner recommend {out} --user {next(iter(answers), 'ID')}")


@app.command()
def train(
    data: options.Data = None,
    config: options.Config = None,
    model: options.Model = None,
    split: options.SplitName = None,
    seed: options.Seed = None,
    device: options.Device = None,
    out: options.Out = Path("lanner-bundle"),
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Fit a model and write a bundle, without evaluating it.

    \b
    Examples:
      lanner train recipes/ml-1m.toml --model hybrid --out ml-1m-hybrid
      lanner train --model ease --set ease.regularisation=300
    """
    chosen = {"data.path": data, "model": model, "split.name": split}
    outcome = _fit(out, config, seed, device, chosen, overrides, measure=False)
    facts = {"bundle": str(out), "model": outcome.bundle.manifest["model"]["name"], "feedback": outcome.feedback}
    console.show_result(facts, f"The bundle is in {out}; measure it: lanner evaluate {out}", as_json=as_json)


@app.command()
def evaluate(
    bundle: options.BundlePath,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the evaluation, such as evaluation.ks=[5]."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure a bundle on the events that its run had hidden.

    \b
    Examples:
      lanner evaluate lanner-bundle
      lanner evaluate lanner-bundle --set evaluation.candidates=sampled --set "evaluation.ks=[5, 10]" --json
    """
    from lanner.config import from_dict
    from lanner.pipeline import measured_bundle, open_bundle
    from lanner.settings import overridden

    opened = open_bundle(bundle)
    asked = overridden(from_dict(opened.config), overrides or ())
    report = measured_bundle(opened, asked.evaluation)
    if as_json:
        console.show_json(report.to_dict())
    else:
        _show_report(report)


@app.command()
def recommend(
    bundle: options.BundlePath,
    user: options.User = None,
    history: options.History = None,
    text: options.QueryText = None,
    k: options.TopK = 10,
    as_json: options.AsJson = False,
) -> None:
    """Recommend items to a known user, or to an anonymous one by a history or a text.

    Ids that are not known are named and have no effect; where nothing is known of a user, the items are popular ones.

    \b
    Examples:
      lanner recommend lanner-bundle --user 42
      lanner recommend lanner-bundle --history 1,260,1196 -k 5 --json
      lanner recommend lanner-bundle --text "slow science fiction"
      lanner recommend lanner-bundle --history "Bed, double" --history "Lamp, red"
    """
    opened, ranker = _opened(bundle)
    answer = ranker.recommend(user, _ids(opened, history), text, k)
    _note(answer.unknown, fallback=answer.fallback, text_ignored=answer.text_ignored)
    if as_json:
        console.show_json(asdict(answer))
    else:
        _show_items(f"For user {user}" if user else "For an anonymous user", answer.items)


@app.command()
def similar(
    bundle: options.BundlePath,
    item: Annotated[str, typer.Option("--item", help="An item's id.")],
    k: options.TopK = 10,
    as_json: options.AsJson = False,
) -> None:
    """List the items most like one item.

    \b
    Examples:
      lanner similar lanner-bundle --item 260
      lanner similar lanner-bundle --item 260 -k 3 --json
    """
    opened, ranker = _opened(bundle)
    answer = ranker.similar(item, k)
    _note(fallback=answer.fallback)
    if as_json:
        console.show_json({"items": answer.items, "fallback": answer.fallback})
    else:
        _show_items(f"Like {opened.dataset.item_catalogue.titles[opened.dataset.items.row(item)]}", answer.items)


@app.command()
def explain(
    bundle: options.BundlePath,
    item: Annotated[str, typer.Option("--item", help="An item's id.")],
    user: options.User = None,
    history: options.History = None,
    text: options.QueryText = None,
    as_json: options.AsJson = False,
) -> None:
    """Say why an item has its score: parts that add up to it, and one sentence.

    \b
    Examples:
      lanner explain lanner-bundle --user 42 --item 260
      lanner explain lanner-bundle --history 1,1196 --item 260 --json
    """
    opened, ranker = _opened(bundle)
    found = ranker.explain(item, user, _ids(opened, history), text)
    _note(found["unknown"], fallback=found["fallback"], text_ignored=found["text_ignored"])
    if as_json:
        console.show_json(found)
        return
    title = f"{found['title']}: score {found['score']:.4f}"
    console.show_table(title, ("part", "what", "adds"), _largest(found["parts"], found["score"]))
    console.show_line(found["sentence"])


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE_A", help="The folder of a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="BUNDLE_B", help="The folder of another.")],
    as_json: options.AsJson = False,
) -> None:
    """Compare two bundles user by user: mean difference A − B with its 95 % interval.

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
    console.show_table(f"{first} − {second}", ("metric", "difference", "from", "to", "p (Wilcoxon)"), cells)


app.command()(cli_serving.compress)
app.command()(cli_serving.profile)
app.command()(cli_serving.serve)
app.add_typer(cli_serving.keys_app, name="keys")
app.add_typer(cli_serving.events_app, name="events")


@data_app.command()
def describe(
    path: Annotated[str, typer.Argument(help="A dataset's folder, a file, a recipe (.toml) or a bundled name.")],
    format: Annotated[str, typer.Option("--format", help="How to read it; auto looks at the files.")] = "auto",
    rejected: Annotated[Path, typer.Option("--rejected", help="Folder for rejected.parquet.")] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Show dataset statistics: size, density, degrees, texts, friends, time span, and rejected rows with reasons.

    \b
    Examples:
      lanner data describe ml-latest-small
      lanner data describe ratings.csv --rejected /tmp --json
    """
    from lanner.config import DataConfig
    from lanner.data.describe import describe as counted
    from lanner.data.rejects import write_rejected
    from lanner.registry import load_dataset

    dataset = load_dataset(DataConfig(path, format))
    written = write_rejected(dataset, rejected)
    if as_json:
        console.show_json({**counted(dataset), "rejected_rows": None if written is None else str(written)})
    else:
        console.show_facts(path, counted(dataset))
        if written:
            console.show_line(f"{sum(dataset.rejected.values()):,} rows were rejected; they are in {written}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except LannerError as error:
        _complain(str(error))
        code = error.exit_code
    except SystemExit as ended:  # how typer ends, after Ctrl-C without a word
        code = ended.code
        if code == INTERRUPTED:
            _complain("stopped; nothing was kept")
    except BrokenPipeError:
        # The reader of our output left early (| head); Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _complain(problem: str) -> None:
    print(f"lanner: {' '.join(problem.split())}", file=sys.stderr)


def _fit(
    out: Path,
    file: Path | None,
    seed: int | None,
    device: str | None,
    chosen: Mapping[str, str | None],
    overrides: Sequence[str] | None,
    *,
    measure: bool,
) -> "Outcome":
    """Run with the file's settings, then those of the options, then those of ``--set``."""
    from lanner.config import RunConfig, read_config, with_device, with_seed
    from lanner.pipeline import run as run_pipeline
    from lanner.settings import overridden, with_options

    config = read_config(file) if file else RunConfig()
    config = config if seed is None else with_seed(config, seed)
    config = config if device is None else with_device(config, device)
    config = overridden(with_options(config, chosen), overrides or ())
    return run_pipeline(config, out, console.Stages(), measure=measure)


def _opened(path: Path) -> "tuple[Bundle, BundleRanker]":
    from lanner.artifacts.bundle import read_bundle
    from lanner.library import BundleRanker

    bundle = read_bundle(path)
    return bundle, BundleRanker(bundle)


def _largest(parts: list[dict[str, Any]], score: float) -> list[tuple[str, str, float]]:
    """The parts of most weight, what the others add together, and the sum."""
    weighty = sorted(parts, key=lambda part: -abs(part["value"]))[:EXPLAINED_PARTS]
    rows = [(part["kind"], part["name"], part["value"]) for part in weighty]
    if len(parts) > len(weighty):
        rest = sum(part["value"] for part in parts) - sum(value for _, _, value in rows)
        rows.append(("others", f"{len(parts) - len(weighty)} parts", rest))
    return [*rows, ("sum", "", score)]


def _show_report(report: "Report") -> None:
    rows = [(name, value, *report.ci95.get(name, ("", ""))) for name, value in report.metrics.items()]
    console.show_table(f"{len(report.rows):,} users", ("metric", "mean", "95 % from", "to"), rows)


def _ids(bundle: "Bundle", history: Sequence[str] | None) -> list[str] | None:
    """Item ids of ``--history``: each value where it is repeated or an id itself, else a list with commas."""
    if history is None or len(history) > 1 or history[0] in bundle.dataset.items:
        return None if history is None else list(history)
    return [one.strip() for one in history[0].split(",") if one.strip()]


def _note(unknown: Sequence[str] = (), *, fallback: bool = False, text_ignored: bool = False) -> None:
    """Say in one line on stderr what of a question had no effect."""
    notes = [f"unknown ids were left out: {', '.join(unknown)}"] if unknown else []
    notes += ["the model reads no texts: --text had no effect"] if text_ignored else []
    notes += ["nothing is known that the model reads: these are popular items"] if fallback else []
    if notes:
        _complain("; ".join(notes))


def _show_items(title: str, items: list[dict[str, Any]]) -> None:
    columns = list(items[0]) if items else ["rank", "item", "title", "score"]
    console.show_table(title, columns, [list(item.values()) for item in items])
