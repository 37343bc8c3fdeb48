"""What each component of the hybrid contributes: the hybrid without it, on four datasets.

``python -m benchmarks.ablation`` writes ``results/ablation.json`` and the picture ``docs/pictures/ablation.svg``. Rows:
a graph view alone (``gnn``), the language view alone, both under each ranking head (``fusion-…``), the hybrid, the
hybrid without its network, without each relation of its relational view, without texts and without order, and the
hybrid distilled into 64 dimensions. On zimnat-insurance, which has no texts of items, most relations are attributes of
the customers, who are held out as in ``benchmarks._insurance``. Columns: accuracy (hit rate@10, the share of users with
at least one test item among the ten best), recall@10 and NDCG@10 with 95 % intervals, the paired difference of NDCG@10
from the hybrid, parameters of the served model, and seconds to fit. Each row runs in a separate process and is kept
under ``runs/quality``: ``--kept`` resumes an interrupted run, ``--only DATASET[/ROW]`` re-measures what it names.

Settings are the defaults, except that networks train for at most ``--epochs`` epochs (in all rows), which limits the
whole run to about two hours on two cores. With a ``--seed`` other than 1 or other epochs it prints the rows and writes
no result: for development.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _record, quality
from benchmarks._quality_settings import EVERY_EVENT, FUSION_NAMES, Cell

METRIC, SHOWN = "ndcg_at_10", ("hr_at_10", "recall_at_10", "ndcg_at_10")
SEED, EPOCHS, DIMENSIONS = 1, 15, 64
DISTILLED = f"distilled-{DIMENSIONS}"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "ablation.svg"


@dataclass(frozen=True)
class Table:
    """A dataset, its split, and the components that its hybrid can be measured without.

    relations: of its relational view: behaviours, attributes of items and users, and ``friends``.
    asked: as in ``Cell``. is_distilled: not where there are fewer items than dimensions.
    """

    dataset: str
    split: Mapping[str, Any]
    protocol: str
    relations: tuple[str, ...] = ("interaction",)
    has_order: bool = True
    has_texts: bool = True
    is_distilled: bool = True
    asked: str = "all"

    def cell(self, seed: int) -> Cell:
        """The cell under which rows are kept, next to those of ``benchmarks.quality``."""
        protocol = f"ablation-{self.protocol}"
        return Cell(self.dataset, protocol, self.split, (), asked=self.asked, seeds=(seed,), metric=METRIC)

    @property
    def models(self) -> tuple[str, ...]:
        """What is measured, one process each."""
        texts, order = (("texts",) if self.has_texts else ()), (("order",) if self.has_order else ())
        dropped = ("network", *self.relations, *texts, *order)
        readers = ("language", "fusion") if self.has_texts else ()
        return ("gnn", *readers, "hybrid", *map("hybrid-without-{}".format, dropped))

    def names(self, model: str) -> tuple[str, ...]:
        """Rows that measuring a model produces."""
        hybrid = ("hybrid", DISTILLED) if self.is_distilled else ("hybrid",)
        return {"fusion": FUSION_NAMES, "hybrid": hybrid}.get(model, (model,))


TABLES = (
    Table("ml-latest-small", {"name": "random"}, "random-80-20", ("interaction", "genres", "tags")),
    Table("amazon-scientific-2018-unisrec", {"name": "leave-last-out"}, "leave-last-out"),
    Table(
        "lastfm-hetrec2011",
        {"name": "random", "test": 0.1, "validation": 1 / 9},
        "random-8-1-1",
        ("interaction", "tags", "friends"),
        has_order=False,
    ),
    Table(
        "zimnat-insurance",
        {"name": "random"},
        "hidden-product",
        (
            *("interaction", "sex", "marital_status", "branch_code", "occupation_code"),
            *("occupation_category_code", "birth_year", "join_date"),
        ),
        has_order=False,
        has_texts=False,
        is_distilled=False,
        asked="insurance",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="DATASET[/ROW]")
    parser.add_argument("--kept", action="store_true", help="do not measure rows anew that lie in runs/quality")
    parser.add_argument("--seed", type=int, default=SEED, help="of the split")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="at most, for each view and ranking head")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        measure(next(one for one in TABLES if one.dataset == given.row[0]), given.row[1], given.seed, given.epochs)
        return
    is_record = (given.seed, given.epochs) == (SEED, EPOCHS)
    path = _record.RESULTS / "ablation.json"
    results = json.loads(path.read_text())["results"] if is_record and given.only and path.exists() else {}
    for table in TABLES:
        for model in table.models:
            if not given.only or any(f"{table.dataset}/{model}/".startswith(f"{one}/") for one in given.only):
                run(table, model, given.seed, given.epochs, given.kept)
        rows = collected(table, given.seed)
        if not rows:
            continue
        results[table.dataset] = {"protocol": table.protocol, "rows": rows}
        for name, row in rows.items():
            print(f"    {table.dataset}/{name}: " + ", ".join(f"{key} {row[key]:.4f}" for key in SHOWN))
        if is_record:
            settings = {"split": {one.dataset: one.split for one in TABLES}, "epochs": EPOCHS, "accuracy": "hr_at_10"}
            print(_record.record("ablation", seed=SEED, settings=settings, results=results))
    if is_record:
        draw(results)


def run(table: Table, model: str, seed: int, epochs: int, kept: bool) -> None:
    """Measure one model in a separate process, unless its rows exist."""
    folder = quality._folder(table.cell(seed), seed)
    if kept and all((folder / f"{name}.json").exists() for name in table.names(model)):
        return
    print(f"· {table.dataset}/{model}", flush=True)
    asked = ["--row", table.dataset, model, "--seed", str(seed), "--epochs", str(epochs)]
    subprocess.run([sys.executable, "-m", "benchmarks.ablation", *asked], check=True)


def collected(table: Table, seed: int) -> dict[str, Any]:
    """The measured rows, each with its paired difference from the hybrid."""
    from lanner.evaluation.intervals import paired

    cell = table.cell(seed)
    rows = {
        name: json.loads(file.read_text())
        for model in table.models
        for name in table.names(model)
        for file in (quality._folder(cell, seed) / f"{name}.json",)
        if file.exists()
    }
    for name, row in rows.items() if "hybrid" in rows else ():
        if name != "hybrid":
            found = paired(METRIC, quality._per_user(cell, name), quality._per_user(cell, "hybrid"))
            row["over_hybrid"] = {
                "metric": METRIC,
                "mean": found.difference,
                "ci95": list(found.ci95),
                "p_wilcoxon": found.p_wilcoxon,
            }
    return rows


def measure(table: Table, model: str, seed: int, epochs: int) -> None:
    """Fit and evaluate one model in this process."""
    from benchmarks._datasets import named
    from benchmarks._protocols import split_of
    from lanner.config import from_dict
    from lanner.data.feedback import Feedback
    from lanner.registry import MODELS, without_unreadable_texts

    cell = table.cell(seed)
    name, _, dropped = model.partition("-without-")
    sections = {"model": name, "feedback": EVERY_EVENT, "split": table.split, "training": {"epochs": epochs}}
    config = from_dict(quality._plain(sections))
    data = named(table.dataset)
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    split = split_of(data, cell.asked, replace(config.split, seed=seed))
    if dropped == "network":
        parts = tuple(one for one in config.hybrid.parts if one != "network")
        config = replace(config, hybrid=replace(config.hybrid, parts=parts))
    elif dropped:
        split = without(dropped, split)
    if name == "hybrid":
        config, _ = without_unreadable_texts(config, split.train)
    begun = time.perf_counter()
    recommender: Any = MODELS[name](config, None)
    recommender.fit(split.train, split.validation)
    keep = partial(_keep, cell, split=split, seed=seed)
    if name == "hybrid":
        _keep_hybrid(table.names(model), recommender, split, begun, keep)
    else:
        quality.keep_networks(model, recommender, split, begun, keep)


def _keep(cell: Cell, name: str, scorer: Any, seconds: float, *, split: Any, seed: int, **extra: Any) -> None:
    counted = parameters(scorer.scoring_model)
    quality._keep(cell, name, scorer, seconds, split=split, seed=seed, parameters=counted, **extra)


def _keep_hybrid(names: tuple[str, ...], recommender: Any, split: Any, begun: float, keep: Any) -> None:
    """The row of a hybrid, and that of its distilled form if ``names`` has it."""
    seconds, rounds, more = time.perf_counter() - begun, 0, 0.0
    if DISTILLED in names:
        begun = time.perf_counter()
        _, rounds = _distilled(recommender.unaware(), split.train, validation=split.validation)
        more = time.perf_counter() - begun
    begun = time.perf_counter()
    recommender.refit(split.refit)
    seconds += time.perf_counter() - begun
    weights = {name: weight for name, weight in recommender.choice.weights.items() if weight}
    keep(
        names[0],
        recommender,
        seconds,
        validation_ndcg_at_10=recommender.choice.quality,
        parts=weights,
        relations=recommender.relations.get("items", {}),
    )
    if DISTILLED in names:
        begun = time.perf_counter()
        small, _ = _distilled(recommender, split.refit, rounds=rounds)
        keep(DISTILLED, Served(small, recommender.reader), seconds + more + time.perf_counter() - begun, rounds=rounds)


def _distilled(recommender: Any, dataset: Any, **asked: Any) -> tuple[Any, int]:
    from lanner.compress import texts_sought
    from lanner.compression.embeddings import distilled

    sought = texts_sought(recommender)
    return distilled(recommender.scoring_model, dataset.user_batch(), DIMENSIONS, texts_TF=sought, **asked)


@dataclass(frozen=True)
class Served:
    """A scoring model behind the evaluation interface."""

    scoring_model: Any
    reader: Any
    scorer: Any = field(init=False)

    def __post_init__(self) -> None:
        from lanner.inference.ranker import RankedScorer

        read = None if self.reader is None else self.reader.features
        object.__setattr__(self, "scorer", RankedScorer(self.scoring_model, read))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)


def parameters(model: Any) -> int:
    """Parameters that the served model multiplies by; excludes indices and the parts that serve new items."""
    beside = ("popularity", "reduction.")
    return sum(
        one.size for name, one in model.arrays().items() if one.dtype.kind == "f" and not name.startswith(beside)
    )


def without(dropped: str, split: Any) -> Any:
    """The split with texts, order, or a relation of the relational view removed from its data.

    Attributes and friends of users are removed from the held-out users as well, whose values are numbered anew.

    Raises:
        ValueError: the data have no such relation.
    """
    from lanner.models import neural
    from lanner.models.relations import FRIENDS, item_relations

    is_of_users = dropped == FRIENDS or dropped in split.train.user_catalogue.attributes

    def changed(dataset: Any) -> Any:
        people, items = dataset.user_catalogue, dataset.item_catalogue
        if dropped == "texts":
            return replace(dataset, item_catalogue=replace(items, texts=("",) * len(items.texts)))
        if dropped == "order":
            return replace(dataset, has_order=False)
        if dropped == FRIENDS and dataset.ties is not None:
            return replace(dataset, ties=None)
        if dropped in people.attributes:
            rest = {name: one for name, one in people.attributes.items() if name != dropped}
            return replace(dataset, user_catalogue=replace(people, attributes=rest))
        if dropped not in item_relations(dataset):
            raise ValueError(f"no relation '{dropped}' in this dataset")
        return dataset

    def others(dataset: Any) -> dict[str, Any]:
        return {name: one for name, one in item_relations(dataset).items() if is_of_users or name != dropped}

    # Other parts still read the interactions and the items' attributes: only the relational view goes without them.
    neural.item_relations = others  # this process measures a single row
    train = changed(split.train)
    # The catalogue and the ties are those of the whole dataset, in every part of the split.
    known = train.user_batch()

    def asked(held_out: Any) -> Any:
        rest = known.take(held_out.rows)
        return replace(held_out, users=replace(held_out.users, friends=rest.friends, attributes=rest.attributes))

    validation, test = asked(split.validation), asked(split.test)
    return replace(split, train=train, refit=changed(split.refit), validation=validation, test=test)


def draw(results: Mapping[str, Any]) -> None:
    """Bars of NDCG@10 with their intervals, one panel per dataset; the hybrid is dark, its height a line."""
    from matplotlib.figure import Figure

    tables = [(name, found["rows"]) for name, found in results.items()]
    figure = Figure(figsize=(7, 0.6 + 0.27 * sum(len(rows) + 2 for _, rows in tables)), layout="constrained")
    heights = [len(rows) + 1 for _, rows in tables]
    axes = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for one, (dataset, rows) in zip(axes, tables, strict=True):
        values = [row[METRIC] for row in rows.values()]
        spans = [[value - row["ci95"][METRIC][0] for value, row in zip(values, rows.values(), strict=True)]]
        spans += [[row["ci95"][METRIC][1] - value for value, row in zip(values, rows.values(), strict=True)]]
        shades = ["0.35" if name == "hybrid" else "0.8" for name in rows]
        one.barh(list(_spelt(rows)), values, xerr=spans, color=shades, edgecolor="black", linewidth=0.5, capsize=2)
        if "hybrid" in rows:
            one.axvline(rows["hybrid"][METRIC], color="black", linewidth=0.8, linestyle=":")
        one.invert_yaxis()
        one.spines[["top", "right"]].set_visible(False)
        one.set_title(f"{dataset}, {results[dataset]['protocol']}", loc="left", fontsize=10)
    axes[-1].set_xlabel("ndcg@10 on test, with 95 % intervals")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def _spelt(rows: Mapping[str, Any]) -> Iterator[str]:
    for name in rows:
        yield name.replace("hybrid-without-", "− ").replace("fusion-", "fusion, ")


if __name__ == "__main__":
    main()
