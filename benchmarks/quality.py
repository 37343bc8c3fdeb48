"""Recommendation quality: every model, dataset and protocol of a suite, with the same metrics.

``python -m benchmarks.quality --suite foundation`` writes ``results/quality_foundation.json`` as
``results[dataset][protocol][model][metric]``, with 95 % intervals and the costs of fitting and scoring; ``--suite
published`` the same for protocols with published figures, which are listed next to ours with their sources, and studies
that do not fit a table of one metric, as ``results[study][dataset][seed]``.
For a cell with several split seeds, a row holds the means and ``sd``; intervals and paired differences are those of
the first seed. Each model runs in a separate process, so that its peak memory is its own. ``--only
DATASET/PROTOCOL[/MODEL]`` (repeatable) re-measures what it names and keeps the other entries of the file; each entry
carries its commit. ``--kept`` reuses rows measured earlier from ``runs/quality``.

Settings were chosen on validation events carved from training; where test figures were in view as well, docs/log.md
says so. Baselines without named settings are tuned by the benchmark itself (``GRIDS``). Every model is finally fitted
on train + validation, after validation has chosen its settings, epochs and weights; rows that end in ``-train-alone``
are fitted on train, as some published figures are, and see only the training events of test users, except where each
user's last event is asked for: there the validation event is part of the history, as usual. For all others, test
histories hold train and validation events, and those are never ranked.

``leave-last-out`` does not rank items that a user has seen, and asks only for last events with an item new to the user.
There ``METRIC_repeats_missed`` is over all users with a last event: the others count as misses.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _record
from benchmarks._quality_settings import (
    ALONE,
    CELLS,
    FUSION_NAMES,
    GRIDS,
    MOMENTS,
    SETTINGS,
    SKIPPED,
    STUDIES,
    SVDS_RANK,
    UNSEARCHED,
    VARIANTS,
    Cell,
)

KS = (10, 20)
CACHE = Path("runs") / "quality"
"""Rows, and scores per user for the paired comparisons; not part of the result."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(CELLS), default="foundation")
    parser.add_argument("--only", action="append", default=[], metavar="DATASET/PROTOCOL[/MODEL]")
    parser.add_argument("--kept", action="store_true", help="do not measure rows anew that lie in runs/quality")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--study", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        suite, place, model, seed = arguments.cell
        _measure(_cell(suite, place), model, int(seed))
        return
    if arguments.study:
        study, dataset, seed = arguments.study
        _measure_study(study, dataset, int(seed))
        return
    chosen: str = arguments.suite
    results: dict[str, Any] = _earlier(chosen) if arguments.only else {}

    def is_wanted(name: str) -> bool:
        return not arguments.only or any(f"{name}/".startswith(f"{wanted}/") for wanted in arguments.only)

    def record() -> Path:
        for cell in CELLS[chosen]:
            if rows := results.get(cell.dataset, {}).get(cell.protocol):
                _bring_up_to_date(rows, cell)
        results["summary"] = _summary({one: _earlier(one) for one in CELLS} | {chosen: results}, chosen)
        settings = {"ks": KS, "tuned": SETTINGS, "fitted_on": "train + validation"}
        return _record.record(f"quality_{chosen}", seed=1, settings=_plain(settings), results=results)

    path = None
    for cell in CELLS[chosen]:
        wanted = [model for model in cell.models if is_wanted(f"{cell.dataset}/{cell.protocol}/{model}")]
        for model in wanted:
            for seed in cell.seeds:
                _run_cell(chosen, cell, model, seed, arguments.kept)
            _collect(results, cell, model)
        if wanted:
            _finish(results[cell.dataset][cell.protocol], cell)
            path = record()
    for study, dataset, seed in STUDIES[chosen]:
        if is_wanted(f"{study}/{dataset}"):
            results.setdefault(study, {}).setdefault(dataset, {})[str(seed)] = _run_study(
                study, dataset, seed, arguments.kept
            )
            path = record()
    if path is None:
        parser.error(f"--only {' '.join(arguments.only)} names nothing of the suite {chosen}")
    print(path)


def _cell(suite: str, place: str) -> Cell:
    return next(one for one in CELLS[suite] if f"{one.dataset}/{one.protocol}" == place)


def _earlier(suite: str) -> dict[str, Any]:
    path = _record.RESULTS / f"quality_{suite}.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def _folder(cell: Cell, seed: int) -> Path:
    return CACHE / cell.suite / cell.dataset / cell.protocol / str(seed)


def _names(cell: Cell, model: str) -> tuple[str, ...]:
    """Rows that measuring a model produces."""
    names = FUSION_NAMES if model == "fusion" else (model,)
    return (*names, f"{model}{ALONE}") if model in cell.alone else names


def _run_cell(suite: str, cell: Cell, model: str, seed: int, kept: bool) -> None:
    if kept and all((_folder(cell, seed) / f"{name}.json").exists() for name in _names(cell, model)):
        return
    place = f"{cell.dataset}/{cell.protocol}"
    print(f"· {place}/{model}, seed {seed}", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.quality", "--cell", suite, place, model, str(seed)], check=True)


def _run_study(study: str, dataset: str, seed: int, kept: bool) -> dict[str, Any]:
    path = _study_path(study, dataset, seed)
    if not (kept and path.exists()):
        print(f"· {study} of {dataset}, seed {seed}", flush=True)
        arguments = ["--study", study, dataset, str(seed)]
        subprocess.run([sys.executable, "-m", "benchmarks.quality", *arguments], check=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _study_path(study: str, dataset: str, seed: int) -> Path:
    return CACHE / study / f"{dataset}-{seed}.json"


def _measure_study(study: str, dataset: str, seed: int) -> None:
    found = importlib.import_module(f"benchmarks._{study}").measure(dataset, seed) | {"commit": _record._commit()}
    path = _study_path(study, dataset, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, default=str))


def _collect(results: dict[str, Any], cell: Cell, model: str) -> None:
    rows = results.setdefault(cell.dataset, {}).setdefault(cell.protocol, {})
    for name in _names(cell, model):
        rows[name] = _over_seeds(
            [json.loads((_folder(cell, seed) / f"{name}.json").read_text()) for seed in cell.seeds]
        )
        said = (cell.metric, "recall_at_10", "ndcg_at_10", "recall_at_20", "ndcg_at_20")
        print(f"    {name}: " + ", ".join(f"{key} {rows[name][key]:.4f}" for key in said if key in rows[name]))


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first row with its metrics and costs averaged over all rows, and the spread of the metrics."""
    if len(rows) == 1:
        return rows[0]
    numbers = {key: [row[key] for row in rows] for key, value in rows[0].items() if isinstance(value, float)}
    means = {key: round(float(np.mean(values)), 6) for key, values in numbers.items()}
    spread = {key: round(float(np.std(values, ddof=1)), 6) for key, values in numbers.items() if "_at_" in key}
    return rows[0] | means | {"sd": spread, "seeds": len(rows)}


def _finish(rows: dict[str, Any], cell: Cell) -> None:
    """Name the best ranking head, compare the hybrid with every other row, and record what was left out and why."""
    from lanner.evaluation.intervals import paired

    for name, why in SKIPPED.get(f"{cell.dataset}/{cell.protocol}", {}).items():
        rows[name] = {"skipped": why}
    fusions = [name for name in FUSION_NAMES if name in rows]
    if fusions:
        best = max(fusions, key=lambda name: rows[name]["validation_ndcg_at_10"])
        rows["fusion"] = rows[best] | {"variant": best}
    # Earlier rows of the file may have been measured elsewhere: their per-user scores are not available here.
    if cell.metric not in rows.get("hybrid", {}) or not _per_user_file(cell, "hybrid").exists():
        rows.get("hybrid", {}).pop("paired_difference", None)
        return
    ours = _per_user(cell, "hybrid")
    kept = {name: row for name, row in rows.items() if name not in ("hybrid", "published") and "skipped" not in row}
    compared = [name for name, row in kept.items() if _per_user_file(cell, row.get("variant", name)).exists()]
    rows["hybrid"]["paired_difference"] = {
        other: {
            "metric": cell.metric,
            "mean": found.difference,
            "ci95": list(found.ci95),
            "p_wilcoxon": found.p_wilcoxon,
        }
        for other in compared
        for found in (paired(cell.metric, ours, _per_user(cell, rows[other].get("variant", other))),)
    }


def _bring_up_to_date(rows: dict[str, Any], cell: Cell) -> None:
    """Quote the published figures, and remove rows that an earlier record skipped and the settings no longer do."""
    if cell.published:
        rows["published"] = [vars(one) for one in cell.published]
    place = f"{cell.dataset}/{cell.protocol}"
    for name in [name for name, row in rows.items() if "skipped" in row and name not in SKIPPED.get(place, {})]:
        del rows[name]
        asked = f"--suite {cell.suite} --only {place}/{name}"
        print(f"WARNING: {place}/{name} is no longer skipped and has not been measured: {asked}", file=sys.stderr)


def _measured(results: dict[str, Any], cells: tuple[Cell, ...]) -> list[tuple[Cell, dict[str, Any]]]:
    """The cells whose hybrid has been measured, and their rows."""
    found = [(cell, results.get(cell.dataset, {}).get(cell.protocol, {})) for cell in cells]
    return [(cell, rows) for cell, rows in found if cell.metric in rows.get("hybrid", {})]


def _over_best_half(results: dict[str, Any], cells: tuple[Cell, ...]) -> list[float]:
    """The hybrid's relative gain over the better of gnn and language, for each cell with all three."""
    gains = []
    for cell, rows in _measured(results, cells):
        halves = [rows[name][cell.metric] for name in ("gnn", "language") if cell.metric in rows.get(name, {})]
        gains += [rows["hybrid"][cell.metric] / max(halves) - 1] if len(halves) == 2 else []
    return gains


def _summary(suites: dict[str, dict[str, Any]], chosen: str) -> dict[str, Any]:
    """Tables in which the hybrid is the best row, its lowest gain over the better of its halves alone, and the studies.

    suites: results by suite. tables_won: over all rows and published figures of the cell's metric.
    hybrid_over_best_half_min: the lowest relative gain over the best of gnn and language, in all tables of all suites
    that have both. query_text_ndcg: the lowest of the forms of the hybrid. incremental_kept: the lowest share of a
    retrained model's ndcg@10 that an update keeps, at the worse moment; incremental_time_share: the largest share of
    its CPU time that it takes. reasons_fidelity_p: the largest over the datasets, of the item's score.
    insurance_over_lightgbm: the mean difference in ndcg@5.
    """
    results, won, tables = suites[chosen], 0, 0
    for cell, rows in _measured(results, CELLS[chosen]):
        ours = rows["hybrid"][cell.metric]
        others = [row[cell.metric] for name, row in rows.items() if name != "hybrid" and cell.metric in row]
        others += [one.metrics[cell.metric] for one in cell.published if cell.metric in one.metrics]
        tables, won = tables + 1, won + (ours >= max(others))
    found: dict[str, Any] = {"tables_won": won, "tables": tables}
    if gains := [gain for suite, of_suite in suites.items() for gain in _over_best_half(of_suite, CELLS[suite])]:
        found["hybrid_over_best_half_min"] = round(min(gains), 4)
    studies = {
        name: [one for of_seeds in results[name].values() for one in of_seeds.values()]
        for name in ("query_texts", "windows", "reasons", "insurance")
        if name in results
    }
    if "query_texts" in studies:
        by_form = [one["query_text_ndcg"].items() for one in studies["query_texts"]]
        found["query_text_ndcg"] = min(value for forms in by_form for name, value in forms if name.startswith("hybrid"))
    if "windows" in studies:
        found["incremental_kept"] = min(one[moment]["kept"] for one in studies["windows"] for moment in MOMENTS)
        found["incremental_time_share"] = max(one["time_share"] for one in studies["windows"])
    if "reasons" in studies:
        found["reasons_fidelity_p"] = max(one["score_drop"]["p_wilcoxon"] for one in studies["reasons"])
    if "insurance" in studies:
        gained = [one["rows"]["lightgbm"]["hybrid_minus_this"]["ndcg_at_5"]["mean"] for one in studies["insurance"]]
        found["insurance_over_lightgbm"] = float(np.mean(gained))
    return found


def _per_user(cell: Cell, name: str) -> np.ndarray:
    return np.load(_per_user_file(cell, name))


def _per_user_file(cell: Cell, name: str) -> Path:
    return _folder(cell, cell.seeds[0]) / f"{name}.npy"


def _measure(cell: Cell, model: str, seed: int) -> None:
    """Fit and evaluate one model in this process."""
    from benchmarks._datasets import named
    from benchmarks._protocols import split_of
    from lanner.config import RunConfig, from_dict
    from lanner.data.feedback import Feedback
    from lanner.models.hybrid.model import HybridRecommender
    from lanner.models.neural import NeuralRecommender
    from lanner.registry import CLOSED_FORMS, MODELS, without_unreadable_texts

    place = f"{cell.dataset}/{cell.protocol}"
    data = named(cell.dataset)
    registered = VARIANTS.get(model, model)
    settings = {"model": registered, "feedback": cell.feedback, "split": cell.split}
    config: RunConfig = from_dict(_plain(settings | SETTINGS.get(place, {}).get(model, {})))
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    split = split_of(data, cell.asked, replace(config.split, seed=seed))
    if registered == "hybrid":
        config, _ = without_unreadable_texts(config, split.train)
    if f"{place}/{model}" in SVDS_RANK:
        # Kernels are compiled at their first use, once per machine; SciPy's are precompiled.
        MODELS[registered](config, None).fit(data.with_interactions(data.interactions.take(np.arange(2000))))
    chosen = {}
    if registered in GRIDS and cell.dataset not in UNSEARCHED and model not in SETTINGS.get(place, {}):
        config, chosen = _searched(config, split)
    begun = time.perf_counter()
    recommender: Any = MODELS[registered](config, None)
    keep = partial(_keep, cell, split=split, seed=seed)
    if registered in CLOSED_FORMS:
        if model in cell.alone:
            recommender.fit(split.train)
            _keep_alone(cell, model, recommender, time.perf_counter() - begun, split=split, seed=seed)
            begun = time.perf_counter()
        recommender.fit(split.refit)
        seconds = time.perf_counter() - begun
        keep(model, recommender, seconds, **chosen, **_svds_beside(cell, model, split.refit, seconds))
        return
    recommender.fit(split.train, split.validation)
    if model in cell.alone:
        _keep_alone(cell, model, recommender.unaware(), time.perf_counter() - begun, split=split, seed=seed)
    if isinstance(recommender, HybridRecommender):
        recommender.refit(split.refit)
        weights = {name: weight for name, weight in recommender.choice.weights.items() if weight}
        chosen = {"parts": weights, "settings": recommender.choice.settings, "recency": recommender.choice.recency}
        seconds = time.perf_counter() - begun
        keep(model, recommender, seconds, validation_ndcg_at_10=recommender.choice.quality, chosen=chosen)
        return
    assert isinstance(recommender, NeuralRecommender)
    keep_networks(model, recommender, split, begun, keep)


def _searched(config: Any, split: Any) -> tuple[Any, dict[str, Any]]:
    """A closed form's settings by ndcg@10 on validation, and their record in the row."""
    from lanner.evaluation.protocol import evaluate
    from lanner.registry import MODELS

    section, begun = config.model.replace("-", "_"), time.perf_counter()

    def quality(tried: Any) -> float:
        fitted = MODELS[tried.model](tried, None).fit(split.train)
        return float(evaluate(fitted, split.validation, ks=(10,), metrics=("ndcg",))["ndcg_at_10"])

    best = quality(config)
    chosen: dict[str, float] = {}
    for name, values in GRIDS[config.model].items():
        for value in values:
            tried = replace(config, **{section: replace(getattr(config, section), **(chosen | {name: value}))})
            if (found := quality(tried)) > best:
                best, chosen[name] = found, value
    config = replace(config, **{section: replace(getattr(config, section), **chosen)})
    seconds = round(time.perf_counter() - begun, 2)
    return config, {"chosen": chosen, "validation_ndcg_at_10": best, "search_seconds": seconds}


def keep_networks(model: str, recommender: Any, split: Any, begun: float, keep: Callable[..., None]) -> None:
    """Refit a network first fitted since ``begun`` and keep its row; of ``fusion``, that of every ranking head."""
    from lanner.training.loop import Trainer

    trainer = recommender.trainer
    assert isinstance(trainer, Trainer)
    qualities = [_qualities_of(trainer)]
    seconds, heads, others = time.perf_counter() - begun, [], []
    for name in FUSION_NAMES[1:] if model == "fusion" else ():
        begun = time.perf_counter()
        heads.append(recommender.with_fusion(name.removeprefix("fusion-"), split.validation))  # type: ignore[arg-type]
        qualities.append(_qualities_of(trainer))
        others.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    recommender.refit(split.refit)
    seconds += time.perf_counter() - begun
    keep(FUSION_NAMES[0] if model == "fusion" else model, recommender, seconds, **qualities[0])
    for name, head, quality, more in zip(FUSION_NAMES[1:], heads, qualities[1:], others, strict=False):
        # The views are shared, so a variant's cost is theirs plus its own head's.
        recommender.network.fusion, recommender.config = head.network.fusion, head.config
        whole = recommender.load_state(*recommender.state(), split.refit)
        keep(name, whole, seconds + more, **quality)


def _qualities_of(trainer: Any) -> dict[str, float]:
    """NDCG@10 on validation of what is served, and of the ranking head once trained, also if it was not kept."""
    trained = trainer.trained_qualities.get("head")
    return {"validation_ndcg_at_10": trainer.qualities.get("head", trainer.qualities["weights"])} | (
        {} if trained is None else {"validation_ndcg_at_10_of_head": trained}
    )


def _svds_beside(cell: Cell, model: str, dataset: Any, fit_seconds: float) -> dict[str, float]:
    """The time of one truncated SVD of the same symmetrically normalised matrix, if the suite asks for it."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import svds

    from lanner.models.linear import training_matrix

    rank = SVDS_RANK.get(f"{cell.dataset}/{cell.protocol}/{model}")
    if rank is None:
        return {}
    matrix = training_matrix(dataset)
    by_user, by_item = (
        sp.diags(np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1) ** -0.5).astype(np.float32) for axis in (1, 0)
    )
    normalised = (by_user @ matrix @ by_item).tocsr()
    begun = time.perf_counter()
    svds(normalised, k=rank)
    seconds = time.perf_counter() - begun
    return {"svds_seconds": round(seconds, 2), "fit_over_svds": round(fit_seconds / seconds, 3)}


def _keep_alone(cell: Cell, model: str, recommender: Any, seconds: float, *, split: Any, seed: int) -> None:
    """The row of a model fitted on training events; see the module for the histories of its test users."""
    if cell.split["name"] != "leave-last-out":
        split = replace(split, test=replace(split.test, users=split.train.user_batch(split.test.rows)))
    _keep(cell, f"{model}{ALONE}", recommender, seconds, split=split, seed=seed)


def _keep(cell: Cell, name: str, recommender: Any, fit_seconds: float, *, split: Any, seed: int, **extra: Any) -> None:
    from benchmarks._protocols import report_of

    begun = time.perf_counter()
    report = report_of(recommender, split, cell.asked, KS, name)
    seconds = time.perf_counter() - begun
    costs = {
        "fit_seconds": round(fit_seconds, 2),
        "score_seconds": round(seconds, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "commit": _record._commit(),
    }
    metrics = {key: round(value, 6) for key, value in (report.metrics | _repeats_missed(report, split)).items()}
    intervals = {key: [round(float(bound), 6) for bound in bounds] for key, bounds in report.ci95.items()}
    folder = _folder(cell, seed)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", report.per_user[cell.metric])
    (folder / f"{name}.json").write_text(json.dumps(metrics | extra | {"ci95": intervals} | costs))


def _repeats_missed(report: Any, split: Any) -> dict[str, float]:
    """Recall and ndcg over all users with a last event; those with an item seen before, not evaluated, count as 0."""
    if split.name != "leave-last-out":
        return {}
    share = len(split.test) / int((split.labels == 2).sum())
    shown = [key for key in report.metrics if key.startswith(("recall_at_", "ndcg_at_"))]
    return {f"{key}_repeats_missed": report.metrics[key] * share for key in shown}


if __name__ == "__main__":
    main()
