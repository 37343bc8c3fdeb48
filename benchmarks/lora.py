"""Cost and benefit of training the language model: full fine-tuning, LoRA of three ranks, and the best recipe.

``python -m benchmarks.lora`` writes ``results/lora.json``. The model is ``language`` (texts alone), with its language
model frozen or adapted first; every row has the same events, texts and stopping rule. A tenth of the items lose all
their events: they are the cold items, ranked among themselves; the others' events are split at random.

Seconds are CPU time of one thread, so that other work on the machine does not count, from the start of the adaptation,
without a cache of an earlier run: they include the frozen model's vectors, the view that is first trained on them and
writing the activations to disk. ``seconds_to_full`` is the time at which a row reaches the best validation ndcg@10 of
full fine-tuning; null if it never does, if the processors have other instructions (with AVX-512 the model runs in
bfloat16), and for ``companions``, whose curve is of another score (``training/companions.py``). Each row runs in a
separate process, so that its peak memory is its own. ``--only DATASET[/ROW]`` re-measures what it names, ``--kept``
reuses rows in ``runs/lora``; rows of the earlier result that are not in ``runs/lora`` stay as they are. Each row has
the commit that it was measured at, and ``*_minus_*`` compare only rows that were in ``runs/lora`` together. Settings
are those of the papers; none was searched but the loss of companions and its temperature, on validation events of split
seed 2.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._lora_plot import draw

DATASETS = ("amazon-scientific-2018-unisrec", "ml-1m")
STOPPING: dict[str, Any] = {"epochs": 6, "patience": 2}
COMPANIONS = "companions"
ROWS: dict[str, dict[str, Any] | None] = {
    "frozen": None,
    "full": {"method": "full"},
    **{f"lora-{rank}": {"method": "lora", "rank": rank, "alpha": 2.0 * rank} for rank in (4, 8, 16)},
    "best-recipe": {"method": "lora", "rank": 8, "trained_layers": 2},
    COMPANIONS: {"method": "lora", "rank": 8, "trained_layers": 2, "objective": "companions"},
}
"""Settings of the section ``adaptation``; None: the language model stays frozen."""
MAX_TOKENS = 64
COLD_SHARE = 0.1
CACHE = Path("runs") / "lora"
"""Rows, and ndcg@10 per user for the paired comparisons; not part of the result."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="DATASET[/ROW]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the split")
    parser.add_argument("--kept", action="store_true", help="do not measure rows anew that lie in runs/lora")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        _measure(arguments.cell[0], arguments.cell[1], int(arguments.cell[2]))
        return
    earlier = _record.RESULTS / "lora.json"
    results = json.loads(earlier.read_text())["results"] if arguments.only and earlier.exists() else {}
    for dataset in DATASETS:
        chosen = [row for row in ROWS if not arguments.only or {dataset, f"{dataset}/{row}"} & set(arguments.only)]
        for row in chosen:
            for seed in arguments.seeds:
                _run(dataset, row, seed, arguments.kept)
        if chosen:
            results[dataset] = collected(dataset, arguments.seeds, results.get(dataset, {}))
            results["summary"] = summary({name: results[name] for name in DATASETS if name in results})
            settings = {"rows": ROWS, "stopping": STOPPING, "max_tokens": MAX_TOKENS, "cold_share": COLD_SHARE}
            path = _record.record("lora", seed=arguments.seeds[0], settings=settings, results=results)
    draw(results)
    print(path)


def _file(dataset: str, row: str, seed: int) -> Path:
    return CACHE / dataset / str(seed) / f"{row}.json"


def _run(dataset: str, row: str, seed: int, kept: bool) -> None:
    if kept and _file(dataset, row, seed).exists():
        return
    print(f"· {dataset}/{row}, seed {seed}", flush=True)
    command = [sys.executable, "-m", "benchmarks.lora", "--cell", dataset, row, str(seed)]
    with TemporaryDirectory() as cache:
        subprocess.run(
            command,
            check=True,
            env=os.environ | {"LANNER_CACHE": cache, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )


def _measure(dataset: str, row: str, seed: int) -> None:
    """Fit and evaluate one row in this process."""
    from benchmarks._datasets import named
    from lanner.config import RunConfig, from_dict
    from lanner.data.feedback import Feedback
    from lanner.evaluation.protocol import evaluate
    from lanner.models.neural import NeuralRecommender
    from lanner.registry import FIXED
    from lanner.training.adaptation import EncoderAdaptation
    from lanner.training.loop import Trainer
    from lanner.training.tasks import LOWER_RATE

    settings = {
        "feedback": {"positive_threshold": "none"},
        "neural": {**FIXED["language"]["neural"], "encoder": {"max_tokens": MAX_TOKENS}},
        "adaptation": STOPPING | (ROWS[row] or {}),
    }
    config: RunConfig = from_dict(settings)
    data = named(dataset)
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    outer = data.split("cold-items", test=COLD_SHARE, validation=0.0, seed=seed)
    split = outer.refit.split("random", seed=seed)
    adapt = EncoderAdaptation(config.adaptation, config.neural, config.training, clock=time.process_time)
    begun = time.process_time()
    trainer = Trainer(config.training)
    recommender = NeuralRecommender(config.neural, trainer, adapt if ROWS[row] else None)
    recommender.fit(split.train, split.validation)
    fit_seconds = time.process_time() - begun
    warm, cold = (evaluate(recommender, part, ks=(10,), metrics=("ndcg",)) for part in (split.test, outer.test))
    file = _file(dataset, row, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, report in (("test", warm), ("cold", cold)):
        values = np.full(data.num_users, np.nan)
        values[report.rows] = report.per_user["ndcg_at_10"]
        np.save(file.with_suffix(f".{name}.npy"), values)
    measured = {
        "adaptation_seconds": adapt.curve[-1][0] if adapt.curve else 0.0,
        "fit_seconds": fit_seconds,
        "curve": adapt.curve,
        "validation_ndcg_at_10": trainer.qualities[f"language{LOWER_RATE}"],
        "trained_parameters": adapt.num_trained,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "commit": _record._commit(),
        "instructions": _record.instructions(),
    }
    file.write_text(json.dumps(measured))


def collected(dataset: str, seeds: list[int], earlier: dict[str, Any]) -> dict[str, Any]:
    """The rows measured with every seed: means over the seeds, compared with frozen and with full.

    earlier: rows of the result file, kept where ``runs/lora`` has none.
    """
    measured = {}
    for row in ROWS:
        files = [_file(dataset, row, seed) for seed in seeds]
        if all(file.exists() for file in files):
            measured[row] = _means([json.loads(file.read_text()) for file in files])
            for part in ("test", "cold"):
                measured[row] |= _quality(
                    part, *(_per_user(dataset, one, seeds, part) for one in (row, "frozen", "full"))
                )
    rows = {row: dict((earlier | measured)[row]) for row in ROWS if row in earlier or row in measured}
    full = rows.get("full")
    for name, measures in rows.items():
        if name != "frozen" and full is not None:
            is_comparable = name != COMPANIONS and measures.get("instructions") == full.get("instructions")
            measures |= _times(measures["curves"] if is_comparable else [], full["curves"])
    return rows


def _means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = {key: float(np.mean([run[key] for run in runs])) for key in runs[0] if _is_number(runs[0][key])}
    own = {name: runs[0].get(name) for name in ("commit", "instructions")}
    return numbers | {"seeds": len(runs), "curves": [run["curve"] for run in runs], **own}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _per_user(dataset: str, row: str, seeds: list[int], part: str) -> NDArray[np.float64] | None:
    """ndcg@10 per user, averaged over the seeds whose test part has the user; None if the row is not measured."""
    files = [_file(dataset, row, seed).with_suffix(f".{part}.npy") for seed in seeds]
    if not all(file.exists() for file in files):
        return None
    values = np.stack([np.load(file) for file in files])
    known = ~np.isnan(values)
    asked = known.any(axis=0)
    means: NDArray[np.float64] = np.where(known, values, 0).sum(axis=0)[asked] / known.sum(axis=0)[asked]
    return means


def _quality(
    part: str,
    own: NDArray[np.float64] | None,
    frozen: NDArray[np.float64] | None,
    full: NDArray[np.float64] | None,
) -> dict[str, Any]:
    from lanner.evaluation.intervals import bootstrap_means, interval, paired

    assert own is not None
    low, high = interval(bootstrap_means(own[:, None]))[:, 0]
    found: dict[str, Any] = {f"{part}_ndcg_at_10": float(own.mean()), f"{part}_ci95": [float(low), float(high)]}
    for name, other in (("frozen", frozen), ("full", full)):
        if other is not None:
            compared = paired("ndcg_at_10", own, other)
            found[f"{part}_minus_{name}"] = {"mean": compared.difference, "ci95": list(compared.ci95)}
    return found


def _times(curves: list[list[list[float]]], full: list[list[list[float]]]) -> dict[str, Any]:
    """When full fine-tuning's best validation result is reached, and in what share of its time.

    Null unless in every run, or if there are not as many of both.
    """
    nothing = {"seconds_to_full": None, "time_ratio": None}
    if len(curves) != len(full):
        return nothing
    reached, shares = [], []
    for curve, reference in zip(curves, full, strict=True):
        best = max(quality for _, quality in reference)
        moment = next((seconds for seconds, quality in curve if quality >= best), None)
        own = next(seconds for seconds, quality in reference if quality >= best)
        if moment is None:
            return nothing
        reached.append(moment)
        shares.append(moment / own)
    return {"seconds_to_full": float(np.mean(reached)), "time_ratio": float(np.mean(shares))}


def summary(datasets: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The worst of the datasets that have the rows it needs; LoRA is the measured rank that is best on validation.

    NDCG of one over another is the relative gain in NDCG@10.
    """
    needed = {"frozen", "full", "best-recipe"}
    whole = [
        rows
        for rows in datasets.values()
        if needed <= rows.keys()
        and any("lora-" in name for name in rows)
        and "test_minus_frozen" in rows["best-recipe"]
    ]
    if not whole:
        return {}
    lora = [
        max((rows[name] for name in rows if name.startswith("lora-")), key=lambda row: row["validation_ndcg_at_10"])
        for rows in whole
    ]
    best = [rows["best-recipe"] for rows in whole]
    frozen = [rows["frozen"]["test_ndcg_at_10"] for rows in whole]
    return {
        "lora_time_ratio": _worst([row["time_ratio"] for row in lora]),
        "best_recipe_time_ratio": _worst([row["time_ratio"] for row in best]),
        "lora_ndcg_over_full": min(
            row["test_ndcg_at_10"] / rows["full"]["test_ndcg_at_10"] - 1 for row, rows in zip(lora, whole, strict=True)
        ),
        "adapted_over_frozen": min(
            row["test_minus_frozen"]["mean"] / base for row, base in zip(best, frozen, strict=True)
        ),
        "adapted_over_frozen_ci_low": min(
            row["test_minus_frozen"]["ci95"][0] / base for row, base in zip(best, frozen, strict=True)
        ),
    }


def _worst(ratios: list[float | None]) -> float | None:
    known = [ratio for ratio in ratios if ratio is not None]
    return max(known) if len(known) == len(ratios) else None


if __name__ == "__main__":
    main()
