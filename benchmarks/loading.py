"""Ten million interactions from CSV to graph, against a plain pandas + scipy script.

Both read the same file (user, item, rating, timestamp), drop missing values, sort the events by time, number users and
items, and build both directions of the user-item graph in CSR. Each repetition runs in a separate process, interleaved,
so that its peak memory is its own; each first reads the file once, untimed, to exclude imports, the loading of compiled
code and the time a virtual machine's host needs to provide fresh memory (occasionally up to a second for the 800 MiB of
either side). Two files: integer ids, and string ids.
``pandas_sort_seconds`` is the part of pandas' time spent sorting by time.

    python -m benchmarks.loading [--rows N] [--repetitions N]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

SEED = 0
USERS, ITEMS = 300_000, 100_000
SIDES = ("lanner", "pandas")
FILES = {"integer_ids": "", "text_ids": "id-"}


def write_events(path: Path, rows: int, prefix: str) -> None:
    """Users drawn uniformly, items by a heavy-tailed popularity, times over thirty years, unsorted."""
    random = np.random.default_rng(SEED)
    frame = pl.DataFrame(
        {
            "user": random.integers(1, USERS + 1, rows),
            "item": np.minimum(random.pareto(1.0, rows) * 500, ITEMS - 1).astype(np.int64) + 1,
            "rating": random.integers(1, 11, rows) / 2,
            "timestamp": random.integers(800_000_000, 1_700_000_000, rows),
        }
    )
    if prefix:
        frame = frame.with_columns((pl.lit(prefix) + pl.col("user", "item").cast(pl.String)).name.keep())
    frame.write_csv(path)


def run_lanner(path: Path) -> dict[str, float]:
    from lanner.data.sources import load
    from lanner.graph.adjacency import Adjacency

    start = time.perf_counter()
    dataset = load(path)
    items_of_user = Adjacency.from_ragged(dataset.histories, dataset.num_items)
    users_of_item = items_of_user.transposed
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "edges": users_of_item.num_edges,
        "users": dataset.num_users,
        "items": dataset.num_items,
    }


def run_pandas(path: Path) -> dict[str, float]:
    import pandas as pd
    from scipy.sparse import csr_matrix

    start = time.perf_counter()
    events = pd.read_csv(path).dropna()
    before_sort = time.perf_counter()
    events = events.sort_values("timestamp", kind="stable")
    sort_seconds = time.perf_counter() - before_sort
    user, users = pd.factorize(events["user"])
    item, items = pd.factorize(events["item"])
    ones = np.ones(len(events), np.float32)
    items_of_user = csr_matrix((ones, (user, item)), shape=(len(users), len(items)))
    users_of_item = items_of_user.T.tocsr()
    seconds = time.perf_counter() - start
    edges = float(users_of_item.data.sum(dtype=np.float64))
    return {"seconds": seconds, "sort_seconds": sort_seconds, "edges": edges, "users": len(users), "items": len(items)}


def run_alone(side: str, path: Path) -> dict[str, float]:
    """One repetition in a separate process."""
    command = [sys.executable, "-m", "benchmarks.loading", "--only", side, "--file", str(path)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def compare(path: Path, repetitions: int) -> dict[str, float]:
    """Medians over interleaved repetitions."""
    rounds = [{side: run_alone(side, path) for side in SIDES} for _ in range(repetitions)]
    for one in rounds:
        if any(one["lanner"][key] != one["pandas"][key] for key in ("edges", "users", "items")):
            raise AssertionError(f"the two sides built different graphs: {one}")
    median = lambda side, key: statistics.median(one[side][key] for one in rounds)  # noqa: E731
    ours, theirs = median("lanner", "seconds"), median("pandas", "seconds")
    return {
        "lanner_seconds": ours,
        "pandas_seconds": theirs,
        "pandas_sort_seconds": median("pandas", "sort_seconds"),
        "ratio": statistics.median(one["pandas"]["seconds"] / one["lanner"]["seconds"] for one in rounds),
        "lanner_peak_mib": median("lanner", "peak_mib"),
        "pandas_peak_mib": median("pandas", "peak_mib"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run = {"lanner": run_lanner, "pandas": run_pandas}[options.only]
        run(options.file)
        measured = run(options.file)
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**measured, "peak_mib": peak_mib}))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, prefix in FILES.items():
            path = Path(folder) / f"{name}.csv"
            write_events(path, options.rows, prefix)
            results[name] = compare(path, options.repetitions)
            path.unlink()
            print(name, json.dumps(results[name]))
    from benchmarks._record import record

    settings = {"rows": options.rows, "users": USERS, "items": ITEMS, "repetitions": options.repetitions}
    # The integer file is the headline result at the top level; the other one is reported next to it.
    record("loading", seed=SEED, settings=settings, results={**results["integer_ids"], "text_ids": results["text_ids"]})


if __name__ == "__main__":
    main()
