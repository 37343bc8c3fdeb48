"""Evaluating all gowalla users over all items: Lanner against the bare matrix product, a NumPy loop and RecTools.

Scores are dot products of random 64-d factors; seen items are excluded; recall, precision, NDCG, HR, MRR, MAP and
coverage at 10 and 20. All sides compute all of it, except the bare product, which only fills blocks of scores. Runs are
interleaved. RecTools ranks with ImplicitRanker on all cores, under its own Python, because it needs NumPy 1::

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements-peers.txt

    LANNER_DATA=… python -m benchmarks.evaluation [--repetitions N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks._record import record
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.evaluation import Report, evaluate

SEED = 0
DIMENSIONS = 64
KS = (10, 20)
PRODUCT_BLOCKS = (64, 128, 256, 512)
LOOP_BLOCK = 256
PEER_PYTHON = Path(__file__).parent.parent / ".venv-peers" / "bin" / "python"
PEER_INSTALL = "python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements-peers.txt"
Arrays = dict[str, Any]


def gowalla() -> Arrays:
    """Train and test part of the published split, and factors drawn for every user and item."""
    folder = Path(os.environ["LANNER_DATA"]) / "gowalla-lightgcn"
    arrays: Arrays = {}
    for part in ("train", "test"):
        table = pl.read_parquet(folder / f"{part}.parquet", columns=["user", "item"])
        arrays |= {f"{part}_{column}": table[column].to_numpy().astype(np.int32) for column in ("user", "item")}
    random = np.random.default_rng(SEED)
    for side in ("user", "item"):
        count = 1 + max(arrays[f"{part}_{side}"].max() for part in ("train", "test"))
        arrays[f"{side}_factors"] = random.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return arrays


class DotProducts:
    """Scores users with known factors, in row order, into one buffer as ``product`` does."""

    def __init__(self, arrays: Arrays) -> None:
        self.users, self.items, self.next = arrays["user_factors"], arrays["item_factors"], 0
        self.buffer = np.empty((0, len(self.items)), np.float32)

    def score(self, users: UserBatch) -> np.ndarray:
        part = self.users[self.next : self.next + len(users)]
        self.next += len(users)
        if len(users) > len(self.buffer):
            self.buffer = np.empty((len(users), len(self.items)), np.float32)
        return np.matmul(part, self.items.T, out=self.buffer[: len(part)])


def held_out(arrays: Arrays) -> HeldOut:
    count = len(arrays["user_factors"])
    seen = Ragged.from_pairs(arrays["train_user"], arrays["train_item"], count)
    positives = Ragged.from_pairs(arrays["test_user"], arrays["test_item"], count)
    assert positives.lengths.min() > 0
    return HeldOut(np.arange(count), UserBatch(seen), positives, seen)


def lanner(arrays: Arrays) -> Report:
    return evaluate(DotProducts(arrays), held_out(arrays), ks=KS)


def product(arrays: Arrays, block: int) -> None:
    """Only the products, a block of users at a time into one buffer."""
    users, items = arrays["user_factors"], arrays["item_factors"].T
    buffer = np.empty((block, items.shape[1]), np.float32)
    for start in range(0, len(users), block):
        part = users[start : start + block]
        np.matmul(part, items, out=buffer[: len(part)])


def numpy_loop(arrays: Arrays) -> dict[str, float]:
    """The usual script: products in blocks, argpartition, then one user at a time."""
    case = held_out(arrays)
    users, items = arrays["user_factors"], arrays["item_factors"]
    sums: dict[str, float] = {}
    shown: dict[int, set[int]] = {k: set() for k in KS}
    for start in range(0, len(users), LOOP_BLOCK):
        scores = users[start : start + LOOP_BLOCK] @ items.T
        for row in range(len(scores)):
            scores[row, case.excluded[start + row]] = -np.inf
        top = np.argpartition(-scores, max(KS), axis=1)[:, : max(KS)]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        for row, ranked in enumerate(top):
            for name, value in judge(np.isin(ranked, case.positives[start + row]), len(case.positives[start + row])):
                sums[name] = sums.get(name, 0.0) + value
            for k in KS:
                shown[k].update(ranked[:k].tolist())
    means = {name: total / len(users) for name, total in sums.items()}
    return means | {f"coverage_at_{k}": len(shown[k]) / len(items) for k in KS}


def judge(hits: np.ndarray, relevant: int) -> list[tuple[str, float]]:
    """The metrics of one user's list."""
    found = []
    for k in KS:
        places = np.flatnonzero(hits[:k]) + 1
        best = np.sum(1 / np.log2(np.arange(min(relevant, k)) + 2))
        found += [
            (f"recall_at_{k}", len(places) / relevant),
            (f"precision_at_{k}", len(places) / k),
            (f"ndcg_at_{k}", float(np.sum(1 / np.log2(places + 1)) / best)),
            (f"hr_at_{k}", float(len(places) > 0)),
            (f"mrr_at_{k}", float(1 / places[0]) if len(places) else 0.0),
            (f"map_at_{k}", float(np.sum(np.arange(1, len(places) + 1) / places) / relevant)),
        ]
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def rectools(folder: Path) -> dict[str, Any]:
    # implicit, which ranks for RecTools, asks for one BLAS thread, because it starts its own threads.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    script = str(Path(__file__).parent / "rectools_peer.py")
    done = subprocess.run(
        [str(PEER_PYTHON), script, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def peak_mib(folder: Path) -> float:
    """Peak resident memory of a process that only reads the arrays and evaluates."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--peak-of", str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(folder: Path) -> None:
    lanner({path.stem: np.load(path) for path in folder.glob("*.npy")})
    # Not getrusage: its maximum is inherited from the parent process.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def measure(arrays: Arrays, folder: Path, repetitions: int) -> tuple[dict[str, Any], dict[str, Any]]:
    small = {name: array[:512] if name == "user_factors" else array for name, array in arrays.items()}
    block = min(PRODUCT_BLOCKS, key=lambda size: min(timed(lambda: product(small, size))[0] for _ in range(3)))
    lanner(arrays)  # compiles
    seconds: dict[str, list[float]] = {"matmul": [], "lanner": [], "intervals": [], "numpy_loop": [], "rectools": []}
    metrics: dict[str, dict[str, float]] = {}
    for repetition in range(repetitions):
        seconds["matmul"].append(timed(lambda: product(arrays, block))[0])
        spent, report = timed(lambda: lanner(arrays))
        seconds["lanner"].append(spent)
        metrics["lanner"] = report.metrics
        seconds["intervals"].append(timed(lambda: report.ci95)[0])  # noqa: B023
        spent, metrics["numpy_loop"] = timed(lambda: numpy_loop(arrays))
        seconds["numpy_loop"].append(spent)
        if PEER_PYTHON.exists():
            answer = rectools(folder)
            seconds["rectools"].append(answer["seconds"])
            metrics["rectools"] = answer["metrics"]
        print(
            f"repetition {repetition + 1}: { {side: round(spent[-1], 2) for side, spent in seconds.items() if spent} }"
        )
    medians = {f"{side}_seconds": statistics.median(spent) for side, spent in seconds.items() if spent}
    return medians, {"product_block": block, "metrics": metrics}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.peak_of:
        return print_peak(chosen.peak_of)
    arrays = gowalla()
    with tempfile.TemporaryDirectory() as name:
        for key, array in arrays.items():
            np.save(Path(name) / f"{key}.npy", array)
        medians, found = measure(arrays, Path(name), chosen.repetitions)
        peak = peak_mib(Path(name))
    own = found["metrics"].pop("lanner")
    results = medians | {
        "ratio_to_matmul": medians["lanner_seconds"] / medians["matmul_seconds"],
        "numpy_loop_over_lanner": medians["numpy_loop_seconds"] / medians["lanner_seconds"],
        "peak_mib": peak,
        "largest_metric_difference": {
            side: max(abs(own[metric] - values[metric]) for metric in own) for side, values in found["metrics"].items()
        },
    }
    if "rectools_seconds" in medians:
        results["rectools_over_lanner"] = medians["rectools_seconds"] / medians["lanner_seconds"]
    else:
        results["rectools_seconds"] = None
        results["rectools_absent"] = f"install it with: {PEER_INSTALL}"
    settings = {
        "dataset": "gowalla-lightgcn",
        "users": len(arrays["user_factors"]),
        "items": len(arrays["item_factors"]),
        "dimensions": DIMENSIONS,
        "ks": KS,
        "repetitions": chosen.repetitions,
        "product_block": found["product_block"],
        "loop_block": LOOP_BLOCK,
        "peers": (Path(__file__).parent / "requirements-peers.txt").read_text().split(),
    }
    print(json.dumps(results, indent=1))
    print(record("evaluation", seed=SEED, settings=settings, results=results))


if __name__ == "__main__":
    main()
