"""Generates parts of the documentation: the README's results, from the result files, and the references.

``python -m benchmarks.readme`` writes all of it. No figure is typed by hand; the rows of a missing file are left out.
"""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks._accelerator_tables import accelerator_section
from benchmarks._page_tables import adaptation_section, federated_section, planner_section
from benchmarks._quality_settings import ALONE, CELLS, PROTOCOLS
from benchmarks._record import RESULTS
from lanner.cli.console import as_toml
from lanner.settings import Setting

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FIGURES = Path(__file__).with_name("_readme_figures.toml")
COMMANDS, SETTINGS, RECIPES = (ROOT / "docs" / f"{name}.md" for name in ("commands", "settings", "recipes"))
ACCELERATOR = ROOT / "docs" / "accelerator.md"
PAGES: dict[Path, tuple[str, Callable[[dict[str, Any]], str]]] = {
    ACCELERATOR: ("fpga", accelerator_section),
    ROOT / "docs" / "distributed.md": ("training_simulator", planner_section),
    ROOT / "docs" / "federated.md": ("federated", federated_section),
    ROOT / "docs" / "fine-tuning.md": ("lora", adaptation_section),
}
"""Pages with one generated section, the result file that it shows, and what writes it."""
BEGIN, END = "<!-- results: begin (python -m benchmarks.readme) -->", "<!-- results: end -->"

QUALITY = (
    ("ml-latest-small", "random-80-20", "ndcg_at_10"),
    ("ml-1m", "random-80-20", "ndcg_at_10"),
    ("ml-1m", "cold-items", "ndcg_at_20"),
    ("amazon-scientific-2018-unisrec", "leave-last-out", "ndcg_at_10"),
    ("gowalla-lightgcn", "published", "recall_at_20"),
)
"""Columns of the table: dataset, protocol and the metric shown."""
MODELS = (
    *("hybrid", "fusion", "gnn-filter", "gnn", "language", "lightgcn"),
    *("graph-filter", "graph-filter-tuned", "ease", "ials", "item-knn", "popularity", "random"),
)

NOTES = (
    "Test metrics; higher is better, the best in each column is bold. `fusion` uses the head best on validation.",
    "`graph-filter` on gowalla uses the published settings of GF-CF, `graph-filter-tuned` those chosen on validation.",
    "Those of the hybrid are chosen on validation, which this test set contradicts, so there it is below GF-CF.",
    "`lightgcn` computes users from their histories instead of learning a vector for each. Closed forms and networks,",
    "including those of the hybrid, are refitted on training and validation events after model selection, except",
    "`gnn-filter` on amazon-scientific, measured at an earlier commit and fitted on training events alone.",
    "EASE, iALS, item-knn and the graph filter are tuned on validation, except on gowalla, where they use their",
    "defaults. One split (seed 1) per dataset; intervals, which often overlap:",
    "[`quality_foundation.json`](benchmarks/results/quality_foundation.json). The ten lines above use another split",
    "(seed 0), and treat ratings below the middle of the scale as dislikes; here every rating is a positive event.",
    "A dash: not measured in this record, or not applicable to this model. A newer filter in the next table has a",
    "higher recall@20 on gowalla.",
)
"""Notes below the table."""


DATASETS = {cell.dataset for cell in CELLS["published"]}
PUBLISHED_NOTES = (
    "Published figures are quoted from their sources, whose protocols the rows follow; several were tuned on the",
    "test set. Settings are chosen on validation for the hybrid, and for the other models whose rows have `chosen`",
    "in the file; the rest use their defaults. One split, unless a row says otherwise. `not ranked`: the items that",
    "the published figure leaves out (–: none), or ours without one. `train alone`: the hybrid fitted on training",
    "events only, as some published figures are; all other models are fitted on training and validation events. On",
    "ncf-99-negatives only the hybrid uses the order of events; two in five have timestamps. On rated-graded the",
    "hybrid is limited to the parts ridge and rating. On gowalla the published split is not random and has no",
    "timestamps, so that validation, a random tenth of its training part, prefers other settings than its test",
    "part. On yelp-social-diffnet, DiffNet++ also reads vectors of the texts of reviews, which the local copy",
    "lacks. All rows and intervals: [`quality_published.json`](benchmarks/results/quality_published.json).",
)


ABLATION_NOTES = (
    "NDCG@10 of the hybrid and of its components; in brackets the paired difference from the hybrid and its 95 %",
    "interval. Networks train for at most 15 epochs here, including the hybrid's. Rows of fusion are equal if no",
    "head improved validation. Where a row is above the hybrid's, as without network, tags or order on",
    "ml-latest-small, validation kept a part that did not help on test. On amazon-scientific and lastfm texts",
    "add most. What tags and friends add to lastfm is within the interval: events tell it as well. Its rows were",
    "measured before friends became a relation with a weight of its own. A dash: not measured, or not applicable.",
    "Accuracy, recall, parameters and seconds: [`ablation.json`](benchmarks/results/ablation.json).",
    "",
    "![NDCG@10 of each row with its interval](docs/pictures/ablation.svg)",
)


def results_section(folder: Path = RESULTS) -> str:
    """The README's results, without their markers, from the files in ``folder``."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    quality = list(_quality_table(read["quality_foundation"]["results"])) if "quality_foundation" in read else []
    published = list(_published_table(read["quality_published"]["results"])) if "quality_published" in read else []
    ablation = list(_ablation_table(read["ablation"]["results"])) if "ablation" in read else []
    speed = list(_speed_table(read))
    tables = [quality, published, ablation, speed, list(_provenance(read))]
    return "\n\n".join("\n".join(table) for table in tables if table)


def command_reference() -> str:
    """``docs/commands.md``, from the command line itself."""
    command = [sys.executable, "-m", "typer", "lanner.cli.main", "utils", "docs", "--name", "lanner"]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    examples = re.compile(r"\nExamples:\n((?:  .+\n)+)")
    return examples.sub(lambda found: f"```sh\n{textwrap.dedent(found[1])}```\n", written)


SETTINGS_INTRODUCTION = """# Settings

Generated from the code by `python -m benchmarks.readme`. A settings file is TOML: the part of a name before the dot
is a section. Lists are written `[1, 2]`, tables `{key = value}`; dashes and underscores in names are equivalent."""


def settings_reference() -> str:
    """``docs/settings.md``: every setting of training and serving, from their classes."""
    from lanner.config import RunConfig
    from lanner.serving.bootstrap import ServerConfig
    from lanner.settings import described

    parts = [
        (
            "Training: `lanner run`, `lanner train`",
            "Set one with `--set NAME=VALUE`, or in a TOML file given to `--config`. `lanner settings MODEL` lists "
            "those that apply to a model.",
            described(RunConfig),
        ),
        (
            "Serving: `lanner serve`",
            "Set one with `--set NAME=VALUE`, or in a TOML file given to `--config`.",
            described(ServerConfig),
        ),
    ]
    sections = [f"## {title}\n\n{text}\n\n{_settings_table(found)}" for title, text, found in parts]
    return "\n\n".join([SETTINGS_INTRODUCTION, *sections]) + "\n"


def _settings_table(found: Iterable[Setting]) -> str:
    rows = [
        (f"`{one.name}`", one.type, "required" if one.required else f"`{as_toml(one.default)}`", one.meaning)
        for one in found
    ]
    cells = [" | ".join(cell.replace("|", "\\|").replace("``", "–") for cell in row) for row in rows]
    return "\n".join(["| name | type | default | meaning |", "|---|---|---|---|", *(f"| {one} |" for one in cells)])


def with_results(readme: str, section: str) -> str:
    """``readme`` with the text between the markers replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def main() -> None:
    from lanner.data.sources.recipe import recipe_reference

    README.write_text(with_results(README.read_text(), results_section()))
    for page, (file, section) in PAGES.items():
        figures = json.loads((RESULTS / f"{file}.json").read_text())["results"]
        page.write_text(with_results(page.read_text(), section(figures)))
    COMMANDS.write_text(command_reference())
    SETTINGS.write_text(settings_reference())
    RECIPES.write_text(recipe_reference())
    print(README, *PAGES, COMMANDS, SETTINGS, RECIPES, sep="\n")


def _quality_table(results: dict[str, Any]) -> Iterator[str]:
    """One row per model, one column per dataset; the best in each column is bold."""
    shown = [column for column in QUALITY if column[1] in results.get(column[0], {})]
    yield (
        "| model | "
        + " | ".join(f"{data}<br>{protocol}<br>{_spelt(metric)}" for data, protocol, metric in shown)
        + " |"
    )
    yield "|---|" + "---:|" * len(shown)
    best = [max(_figure(results, column, model) or 0.0 for model in MODELS) for column in shown]
    for model in MODELS:
        cells: list[str] = []
        for column, top in zip(shown, best, strict=True):
            value = _figure(results, column, model)
            cells.append("–" if value is None else f"**{value:.4f}**" if value == top else f"{value:.4f}")
        if set(cells) != {"–"}:
            yield f"| {model} | {' | '.join(cells)} |"
    yield ""
    yield from NOTES


def _published_table(results: dict[str, Any]) -> Iterator[str]:
    """One row per protocol and metric: the best published figure, the best other model measured, and the hybrid."""
    columns = ("published", "not ranked", "random", "popularity", "best other model here", "hybrid", "train alone")
    yield f"| data, protocol | metric | {' | '.join(columns)} |"
    yield "|---|---|---:|---|---:|---:|---:|---:|---:|"
    for dataset, protocols in results.items():
        for protocol, rows in protocols.items() if dataset in DATASETS else ():
            if "hybrid" not in rows:
                continue
            splits = f", mean of {rows['hybrid']['seeds']} splits" if "seeds" in rows["hybrid"] else ""
            place = f"{dataset}, {PROTOCOLS.get(protocol, protocol)}{splits}"
            metrics = [name for one in rows.get("published", ()) for name in one["metrics"]]
            for metric in dict.fromkeys(metrics or ("recall_at_10", "ndcg_at_10")):
                yield f"| {place} | {_spelt(metric)} | {_published_row(rows, metric, metric)} |"
                if (missed := f"{metric}_repeats_missed") in rows["hybrid"]:
                    yield f"| {place} | {_spelt(metric)}, repeats as misses | {_published_row(rows, metric, missed)} |"
    yield ""
    yield from PUBLISHED_NOTES


def _published_row(rows: dict[str, Any], metric: str, ours: str) -> str:
    """The cells of the best published figure of ``metric``, if any, and of our rows, of whose ``ours`` is shown."""
    best = max(rows.get("published", ()), key=lambda one: float(one["metrics"].get(metric, 0)), default=None)
    others = {name: row for name, row in rows.items() if isinstance(row, dict) and name != "hybrid"}
    measured = {name: row[ours] for name, row in others.items() if ours in row and ALONE not in name}
    other = max(measured, key=measured.__getitem__)
    values = [measured[other], rows["hybrid"][ours], *([] if best is None else [best["metrics"][metric]])]
    shown = [f"**{value:.4f}**" if value == max(values) else f"{value:.4f}" for value in values]
    published, excluded = "–", "seen items"
    if best is not None:
        source = ", ".join(str(one) for one in (best["source"], best.get("year")) if one is not None)
        published = f"{shown[2]} {best['model']} ({source})"
        excluded = {"seen": "seen items", "nothing": "–"}.get(best.get("excludes", ""), "unknown")
    alone = others.get(f"hybrid{ALONE}", {}).get(ours)
    return " | ".join(
        [
            published,
            excluded,
            *(f"{measured[name]:.4f}" for name in ("random", "popularity")),
            f"{shown[0]} {other}",
            shown[1],
            "–" if alone is None else f"{alone:.4f}",
        ]
    )


def _ablation_table(results: dict[str, Any]) -> Iterator[str]:
    """One row per component left out, one column per dataset: NDCG@10 and its paired difference from the hybrid."""
    yield "| row | " + " | ".join(f"{dataset}<br>{found['protocol']}" for dataset, found in results.items()) + " |"
    yield "|---|" + "---:|" * len(results)
    for name in dict.fromkeys(name for found in results.values() for name in found["rows"]):
        cells = [_ablated(found["rows"].get(name)) for found in results.values()]
        yield f"| {name.replace('-without-', ' without ')} | {' | '.join(cells)} |"
    yield ""
    yield from ABLATION_NOTES


def _ablated(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    over = row.get("over_hybrid")
    value = f"{row['ndcg_at_10']:.4f}"
    return value if over is None else f"{value} ({over['mean']:+.4f}; {over['ci95'][0]:+.4f} … {over['ci95'][1]:+.4f})"


def _figure(results: dict[str, Any], column: tuple[str, str, str], model: str) -> float | None:
    dataset, protocol, metric = column
    found = results[dataset][protocol].get(model, {}).get(metric)
    return None if found is None else float(found)


def _speed_table(read: dict[str, Any]) -> Iterator[str]:
    """One row per figure; figures not measured yet are left out."""
    figures, rows = tomllib.loads(FIGURES.read_text(encoding="utf-8"))["rows"], []
    for file, measured, against, at, shown in figures:
        with suppress(KeyError):
            rows.append(f"| {measured} | {against} | {shown.format(_at(read[file]['results'], at))} | `{file}` |")
    if rows:
        yield "| measured | compared with, in the same run | result | file |"
        yield "|---|---|---:|---|"
    yield from rows


def _at(results: dict[str, Any], place: str) -> float:
    """The figure at a dotted path; ``lowest NAME``: the lowest of that name anywhere. Raises ``KeyError``."""
    if place.startswith("lowest "):
        return min(_everywhere(results, place.removeprefix("lowest ")))
    found: Any = results
    for name in place.split("."):
        found = found[name]
    return float(found)


def _everywhere(results: Any, name: str) -> Iterator[float]:
    for key, value in results.items() if isinstance(results, dict) else ():
        if key == name:
            yield float(value)
        yield from _everywhere(value, name)


def _provenance(read: dict[str, Any]) -> Iterator[str]:
    """The machines used, and where to find the rest."""
    machines = sorted({f"{one['machine']['cores']} cores of {one['machine']['cpu']}" for one in read.values()})
    where = f" Measured on {'; '.join(machines)}." if machines else ""
    yield f"More figures, intervals, settings, versions and commits: [`benchmarks/results`](benchmarks/results).{where}"


def _spelt(metric: str) -> str:
    """``ndcg_at_10`` as NDCG@10."""
    name, _, k = metric.partition("_at_")
    return f"{name.upper() if name == 'ndcg' else name}@{k}"


if __name__ == "__main__":
    main()
