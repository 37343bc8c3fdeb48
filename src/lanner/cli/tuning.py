"""The command that tunes settings: tune."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import console, options
from lanner.cli.training import chosen_settings

if TYPE_CHECKING:
    from lanner.tune import Search, Trial


Space = Annotated[
    Path,
    typer.Option(
        "--space",
        help="TOML file of the settings to search, each with a list of choices or a range, such as "
        "ease.regularisation = { low = 10, high = 1000, log = true }.",
    ),
]


def tune(
    space: Space,
    data: options.Data = None,
    config: options.Config = None,
    model: options.Model = None,
    split: options.Split = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Metric on validation events to maximise, with its cutoff.")
    ] = "ndcg_at_10",
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Total number of trials, including those of earlier calls.")
    ] = 30,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="No new trial this many seconds after the first. Default: no limit."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Random seed of the search, the model and its training.")
    ] = None,
    device: options.Device = None,
    out: Annotated[Path, typer.Option("--out", help="TOML file to write the best settings to.")] = Path("tuned.toml"),
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Search a model's settings: train on training events, evaluate on validation events, never on test events.

    The file written holds the best settings that differ from the defaults, for lanner run --config. Trials are kept in
    <OUT>.study: the same command resumes where it stopped, and a larger --trials extends a finished search.

    \b
    Examples:
      lanner tune --space space.toml --model ease
      lanner tune ratings.csv --space space.toml --model hybrid --trials 20 --seconds 3600 --out best.toml
      lanner tune ratings.csv --space space.toml --model item-knn --metric recall_at_20 --json
    """
    from lanner.tune import Search, best_of
    from lanner.tune import tune as search_settings

    metric = metric.replace("@", "_at_")
    search, stages = Search(space, out, metric, trials, seconds, seed or 0), console.Stages()
    settings = chosen_settings(
        config, seed, device, {"data.path": data, "model": model, "split.name": split}, overrides
    )
    made = search_settings(settings, search, stages, lambda done, took: stages(_progress(done, search, took)))
    best, failed = best_of(made), sum(one.value is None for one in made)
    assert best is not None
    facts = {"out": str(out), "study": str(search.study), "metric": metric, "best": asdict(best), "failed": failed}
    line = f"Wrote {out}: {metric} {best.value:.4f}, trial {best.number} of {len(made)} ({failed} failed). "
    console.show_result(
        {**facts, "trials": [asdict(one) for one in made]},
        f"{line}Train with it: lanner run --config {out}",
        as_json=as_json,
    )


def _progress(done: "list[Trial]", search: "Search", seconds: float) -> str:
    """One line on the latest trial, the best one and the time left. seconds: since the first trial of this call."""
    from lanner.tune import best_of

    last, best = done[-1], best_of(done)
    found = f"{search.metric} {last.value:.4f}" if last.value is not None else f"failed: {last.error}"
    tried = ", ".join(f"{key}={console.as_toml(value)}" for key, value in last.settings.items())
    so_far = f"best {best.value:.4f} (trial {best.number})" if best else "none has succeeded"
    left = (search.trials - len(done)) * sum(one.seconds for one in done) / len(done)
    if search.seconds is not None:
        left = max(0.0, min(left, search.seconds - seconds))
    return f"trial {last.number} of {search.trials}: {found} with {tried}; {so_far}; {console.duration(left)} left"
