"""How good the recommendations are: every model, dataset and protocol of a suite, on one yardstick.

``python -m benchmarks.quality --suite foundation`` writes ``results/quality_foundation.json`` as
``results[dataset][protocol][model][metric]``, with 95 % intervals and the costs of fitting and scoring. Each model
runs in a process of its own, so that its peak memory is its own. ``--only DATASET/PROTOCOL[/MODEL]`` (several may be
given) measures anew what it names and keeps the other entries of the file; each entry carries its commit.

Settings were chosen on validation events carved from training; where test figures were in view as well, docs/log.md
says so. Closed forms are fitted on train + validation, those of the hybrid once validation has chosen their settings;
trained networks on train, with validation for early stopping. Test histories hold train and validation events for all,
and those are never ranked.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _record
from benchmarks._quality_settings import (
    CELLS,
    EVERY_EVENT,
    FUSION_NAMES,
    QUERY_TEXTS,
    SETTINGS,
    SKIPPED,
    SVDS_RANK,
    VARIANTS,
    Cell,
)
from benchmarks._query_texts import query_text_ndcg

SEED = 1
"""Not that of the splits on which settings were chosen, which was 0."""
KS = (10, 20)
CACHE = Path("runs") / "quality"
"""Scores a user, kept for the paired comparisons; not part of the result."""
COMPARED = "ndcg_at_10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(CELLS), default="foundation")
    parser.add_argument("--only", action="append", default=[], metavar="DATASET/PROTOCOL[/MODEL]")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        _measure(*arguments.cell.split("/"))
        return
    results: dict[str, Any] = _earlier(arguments.suite) if arguments.only else {}
    for cell in CELLS[arguments.suite]:
        for model in cell.models:
            name = f"{cell.dataset}/{cell.protocol}/{model}"
            if not arguments.only or any(f"{name}/".startswith(f"{wanted}/") for wanted in arguments.only):
                _run_cell(name)
                _collect(results, cell, model)
        if results.get(cell.dataset, {}).get(cell.protocol):
            _finish(results[cell.dataset][cell.protocol], cell)
            settings = {"ks": KS, "tuned": SETTINGS, "closed_forms_fitted_on": "train + validation"}
            path = _record.record(f"quality_{arguments.suite}", seed=SEED, settings=_plain(settings), results=results)
    print(path)


def _earlier(suite: str) -> dict[str, Any]:
    path = _record.RESULTS / f"quality_{suite}.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def _run_cell(name: str) -> None:
    print(f"· {name}", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.quality", "--cell", name], check=True)


def _collect(results: dict[str, Any], cell: Cell, model: str) -> None:
    rows = results.setdefault(cell.dataset, {}).setdefault(cell.protocol, {})
    for name in FUSION_NAMES if model == "fusion" else (model,):
        stored = CACHE / cell.dataset / cell.protocol / f"{name}.json"
        rows[name] = json.loads(stored.read_text())
        print(
            f"    {name}: "
            + ", ".join(f"{k} {rows[name][k]:.4f}" for k in ("recall_at_20", "ndcg_at_10", "ndcg_at_20"))
        )


def _finish(rows: dict[str, Any], cell: Cell) -> None:
    """Name the best ranking head, compare the hybrid with every other row, and say what was left out and why."""
    from lanner.evaluation.intervals import paired

    for name, why in SKIPPED.get(f"{cell.dataset}/{cell.protocol}", {}).items():
        rows[name] = {"skipped": why}
    fusions = [name for name in FUSION_NAMES if name in rows]
    if fusions:
        best = max(fusions, key=lambda name: rows[name]["validation_ndcg_at_10"])
        rows["fusion"] = rows[best] | {"variant": best}
    if "hybrid" not in rows:
        return
    ours = _per_user(cell, "hybrid")
    rows["hybrid"]["paired_difference"] = {
        other: {"metric": COMPARED, "mean": found.difference, "ci95": list(found.ci95), "p_wilcoxon": found.p_wilcoxon}
        for other, row in rows.items()
        if other != "hybrid" and "skipped" not in row
        for found in (paired(COMPARED, ours, _per_user(cell, row.get("variant", other))),)
    }


def _per_user(cell: Cell, name: str) -> np.ndarray:
    return np.load(CACHE / cell.dataset / cell.protocol / f"{name}.npy")


def _measure(dataset: str, protocol: str, model: str) -> None:
    """Fit and evaluate one model in this process."""
    from lanner.config import RunConfig, from_dict
    from lanner.data.feedback import Feedback
    from lanner.data.sources import load
    from lanner.models.hybrid.model import HybridRecommender
    from lanner.models.neural import NeuralRecommender
    from lanner.registry import CLOSED_FORMS, MODELS, SPLITS
    from lanner.training.loop import Trainer

    cell = next(one for cells in CELLS.values() for one in cells if (one.dataset, one.protocol) == (dataset, protocol))
    data = load(Path("recipes") / f"{dataset}.toml")
    own = SETTINGS.get(f"{dataset}/{protocol}", {}).get(model, {})
    registered = VARIANTS.get(model, model)
    config: RunConfig = from_dict({"model": registered, "feedback": EVERY_EVENT, **own})
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    split = SPLITS[cell.split](data, replace(config.split, seed=SEED))
    if f"{dataset}/{protocol}/{model}" in SVDS_RANK:
        # Kernels are compiled at their first use, once for a machine; SciPy's came compiled.
        MODELS[registered](config, None).fit(data.with_interactions(data.interactions.take(np.arange(2000))))
    begun = time.perf_counter()
    recommender = MODELS[registered](config, None)
    is_closed = registered in CLOSED_FORMS
    recommender.fit(split.refit if is_closed else split.train, split.validation)
    seconds = time.perf_counter() - begun
    if isinstance(recommender, HybridRecommender):
        weights = {name: weight for name, weight in recommender.choice.weights.items() if weight}
        chosen = {"parts": weights, "settings": recommender.choice.settings, "recency": recommender.choice.recency}
        _keep(cell, model, recommender, split, seconds, validation_ndcg_at_10=recommender.choice.quality, chosen=chosen)
        return
    if not isinstance(recommender, NeuralRecommender):
        _keep(cell, model, recommender, split, seconds, **_svds_beside(cell, model, split.refit, seconds))
        return
    trainer = recommender.trainer
    assert isinstance(trainer, Trainer)
    extra = {"validation_ndcg_at_10": trainer.qualities.get("head", trainer.qualities["weights"])}
    if model != "fusion":
        _keep(cell, model, recommender, split, seconds, **extra)
        return
    _keep(cell, FUSION_NAMES[0], recommender, split, seconds, **extra)
    for name in FUSION_NAMES[1:]:
        begun = time.perf_counter()
        other = recommender.with_fusion(name.removeprefix("fusion-"), split.validation)
        # The views are shared, so that a variant's cost is theirs and its own head's.
        total = seconds + time.perf_counter() - begun
        _keep(cell, name, other, split, total, validation_ndcg_at_10=trainer.qualities["head"])


def _svds_beside(cell: Cell, model: str, dataset: Any, fit_seconds: float) -> dict[str, float]:
    """The time of one truncated SVD of the same symmetrically normalised matrix, where the suite asks for it."""
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


def _keep(cell: Cell, name: str, recommender: Any, split: Any, fit_seconds: float, **extra: Any) -> None:
    from lanner.evaluation.protocol import evaluate

    begun = time.perf_counter()
    report = evaluate(recommender, split, ks=KS, name=name)
    seconds = time.perf_counter() - begun
    if f"{cell.dataset}/{cell.protocol}/{name}" in QUERY_TEXTS:
        extra |= {"query_text_ndcg": round(query_text_ndcg(split.train, recommender.ranker), 6)}
    costs = {
        "fit_seconds": round(fit_seconds, 2),
        "score_seconds": round(seconds, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "commit": _record._commit(),
    }
    metrics = {key: round(value, 6) for key, value in report.metrics.items()}
    intervals = {key: [round(float(bound), 6) for bound in bounds] for key, bounds in report.ci95.items()}
    folder = CACHE / cell.dataset / cell.protocol
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", report.per_user[COMPARED])
    (folder / f"{name}.json").write_text(json.dumps(metrics | extra | {"ci95": intervals} | costs))


if __name__ == "__main__":
    main()
