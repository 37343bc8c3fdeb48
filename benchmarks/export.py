"""Exact recommendations for 100,000 users among 100,000 items: Lanner against the bare computation and two peers.

Factors are simulated: 64 normal dimensions, 50 seen items per user, whose vector is the mean of those items' vectors.
Every side lists the 100 best items of every user with all cores, and the runs are interleaved:

- **lanner** is ``export_recommendations`` from histories to a Parquet file with ids: user vectors, products, exclusion
  of seen items, lists, file. ``lanner_lists`` is the same without the file.
- **bare** is float32 products in blocks of users into one buffer, and a top-k, nothing else: the fastest, as tried on a
  share of the users, of NumPy with ``argpartition`` on threads, NumPy with Lanner's ``top_k``, torch's ``mm`` and
  ``topk``, and FAISS's flat index, each at its best block size.
- **implicit** and **RecTools** are given the user vectors, exclude seen items and return their lists in memory; BLAS
  has one thread for them, because they start their own threads. RecTools runs under its own Python, because it needs
  NumPy 1::

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements-peers.txt

    python -m benchmarks.export [--repetitions N] [--short]
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import polars as pl
from scipy import sparse
from threadpoolctl import threadpool_limits

import lanner
from benchmarks._record import record
from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.data.ranking import top_k
from lanner.inference.bulk import BulkRanker
from lanner.inference.ranker import Ranker
from lanner.inference.scoring_model import ScoringModel
from lanner.library.export import MOST_USERS, export_recommendations

SEED = 0
BLOCKS = (64, 128, 256, 512, 1024)
PEERS = Path(__file__).parent.parent / ".venv-peers" / "bin" / "python"
CHECKED = 50
"""Users whose lists are compared with those of a plain computation."""
Lists = Any
"""Item rows ``[users, k]``."""


@dataclass(frozen=True)
class Size:
    """Problem size; tried: users on which the bare implementations are compared."""

    users: int = 100_000
    items: int = 100_000
    dimensions: int = 64
    seen: int = 50
    k: int = 100
    tried: int = 2048


SHORT = Size(users=600, items=3000, dimensions=16, seen=10, k=20, tried=256)


@dataclass(frozen=True)
class Case:
    """user_factors ``[U, D]``: means of the rows of source_factors of the items seen. item_factors ``[I, D]``."""

    size: Size
    user_factors: np.ndarray
    item_factors: np.ndarray
    source_factors: np.ndarray
    seen: Ragged

    @classmethod
    def draw(cls, size: Size) -> "Case":
        random = np.random.default_rng(SEED)
        source, item = random.standard_normal((2, size.items, size.dimensions), dtype=np.float32)
        # Distinct within a user: a random start, and random steps that do not wrap around.
        steps = random.integers(1, size.items // size.seen, (size.users, size.seen))
        rows = (random.integers(0, size.items, (size.users, 1)) + np.cumsum(steps, axis=1)) % size.items
        seen = Ragged(np.arange(size.users + 1) * size.seen, np.sort(rows, axis=1).astype(np.int32).ravel())
        user = np.stack([source[seen[row]].mean(axis=0) for row in range(size.users)])
        return cls(size, user, item, source, seen)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs of peers in another process."""
        factors = {"user_factors": self.user_factors, "item_factors": self.item_factors}
        return {**factors, "seen_indptr": self.seen.indptr, "seen_items": self.seen.values}

    @property
    def seen_csr(self) -> sparse.csr_matrix:
        ones = np.ones(len(self.seen.values), np.float32)
        return sparse.csr_matrix((ones, self.seen.values, self.seen.indptr), (self.size.users, self.size.items))


# --- Lanner ----------------------------------------------------------------------------------------------------------


def library_model(case: Case) -> lanner.Model:
    """The simulated factors as a model of the library, with string ids."""
    size = case.size
    popularity = np.bincount(case.seen.values, minlength=size.items).astype(np.float32)
    sizes = (size.dimensions,)
    scoring = ScoringModel(case.source_factors, case.item_factors, np.zeros(size.items, np.float32), popularity, sizes)
    users, items = (
        tuple(f"{kind}{row}" for row in range(n)) for kind, n in (("user", size.users), ("item", size.items))
    )
    events = Interactions(case.seen.row_of_value.astype(np.int32), case.seen.values)
    dataset = Dataset(events, IdMap(users), IdMap(items), Catalogue.blank(items), Catalogue.blank(users))
    return lanner.IALS()._serve(dataset, Ranker(scoring))


def lanner_export(model: lanner.Model, k: int, folder: Path) -> Path:
    path = folder / "recommendations.parquet"
    export_recommendations(model, path, k=k)
    return path


def lanner_lists(case: Case, model: lanner.Model) -> Lists:
    ranker, users = BulkRanker(model._fitted_ranker.model), model.dataset.user_batch()
    found = []
    for first in range(0, len(users), MOST_USERS):
        block = users.take(np.arange(first, min(first + MOST_USERS, len(users))))
        found.append(ranker.rank(block, case.size.k, block.history).items)
    return np.concatenate(found)


# --- the bare computation --------------------------------------------------------------------------------------------


def by_numpy(case: Case, users: int, block: int, best: Callable[[np.ndarray, int], np.ndarray]) -> Lists:
    """Products in blocks into one buffer; ``best`` returns the columns of the k best of each row."""
    buffer, found = np.empty((block, case.size.items), np.float32), np.empty((users, case.size.k), np.int64)
    for first in range(0, users, block):
        part = case.user_factors[first : min(first + block, users)]
        scores = np.matmul(part, case.item_factors.T, out=buffer[: len(part)])
        found[first : first + len(part)] = best(scores, case.size.k)
    return found


def argpartition(scores: np.ndarray, k: int) -> np.ndarray:
    def rank(part: np.ndarray) -> np.ndarray:
        rows = np.argpartition(part, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(part, rows, axis=1), axis=1)
        return np.take_along_axis(rows, order, axis=1)

    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        return np.concatenate(list(pool.map(rank, np.array_split(scores, numba.get_num_threads()))))


def by_torch(case: Case, users: int, block: int) -> Lists:
    import torch

    items = torch.from_numpy(case.item_factors).T
    buffer, found = torch.empty(block, case.size.items), np.empty((users, case.size.k), np.int64)
    for first in range(0, users, block):
        part = torch.from_numpy(case.user_factors[first : min(first + block, users)])
        scores = torch.mm(part, items, out=buffer[: len(part)])
        found[first : first + len(part)] = torch.topk(scores, case.size.k).indices.numpy()
    return found


def by_faiss(case: Case, users: int, block: int) -> Lists:
    import faiss

    index = faiss.IndexFlatIP(case.size.dimensions)
    index.add(case.item_factors)
    parts = [case.user_factors[first : min(first + block, users)] for first in range(0, users, block)]
    return np.concatenate([index.search(part, case.size.k)[1] for part in parts])


BARE: dict[str, Callable[[Case, int, int], Lists]] = {
    "numpy argpartition": lambda case, users, block: by_numpy(case, users, block, argpartition),
    "numpy top_k": lambda case, users, block: by_numpy(case, users, block, lambda *scores: top_k(*scores)[0]),
    "torch": by_torch,
    "faiss": by_faiss,
}


def quickest_bare(case: Case) -> tuple[str, int, dict[str, float]]:
    """Name and block size of the fastest implementation, and microseconds per user of each at its best block size."""
    tried: dict[str, tuple[float, int]] = {}
    for name, way in BARE.items():
        blocks = (*BLOCKS, case.size.tried) if name == "faiss" else BLOCKS
        way(case, min(64, case.size.tried), 64)  # compiles, starts threads
        tried[name] = min((timed(lambda: way(case, case.size.tried, block))[0], block) for block in blocks)  # noqa: B023
    best = min(tried, key=lambda name: tried[name])
    return best, tried[best][1], {name: 1e6 * seconds / case.size.tried for name, (seconds, _) in tried.items()}


# --- peers -----------------------------------------------------------------------------------------------------------


def implicit_lists(case: Case) -> Lists:
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(factors=case.size.dimensions)
        model.user_factors, model.item_factors = case.user_factors, case.item_factors
        return model.recommend(np.arange(case.size.users), case.seen_csr, N=case.size.k)[0]


def rectools_answer(case: Case, folder: Path) -> dict[str, Any]:
    script = str(Path(__file__).parent / "_rectools_recommend.py")
    command = [str(PEERS), script, str(folder), str(case.size.k), str(case.size.users)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- measuring -------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def plain_lists(case: Case, *, exclude: bool) -> Lists:
    """Lists of the first users, by sorting."""
    scores = case.user_factors[:CHECKED] @ case.item_factors.T
    if exclude:
        seen = case.seen.take(np.arange(len(scores)))
        scores[seen.row_of_value, seen.values] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, : case.size.k]


def overlap(lists: Lists, expected: Lists) -> float:
    """Share of the expected items that the first users' lists contain."""
    pairs = zip(np.asarray(lists)[: len(expected)], expected, strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in pairs]))


def exported_lists(path: Path, k: int) -> Lists:
    items = pl.scan_parquet(path).head(CHECKED * k).collect()["item_id"]
    return items.str.strip_prefix("item").cast(pl.Int64).to_numpy().reshape(-1, k)


def memory_mib(field: str) -> float:
    """``VmRSS``: currently resident; ``VmHWM``: the peak so far."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def print_memory(size: Size) -> None:
    """Resident memory of this process with the inputs alone, and its peak during an export."""
    model = library_model(Case.draw(size))
    model.dataset.user_batch()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak left by drawing the data
    inputs = memory_mib("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        lanner_export(model, size.k, Path(folder))
    print(json.dumps({"inputs_mib": inputs, "peak_mib": memory_mib("VmHWM")}))


def memory_of_export(short: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.export", "--memory", *(["--short"] if short else [])]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def measure(size: Size, repetitions: int) -> dict[str, Any]:
    """Seconds of every side, and the share of the correct items that each of them lists."""
    case = Case.draw(size)
    model, (way, block, tried) = library_model(case), quickest_bare(case)
    right, right_bare = plain_lists(case, exclude=True), plain_lists(case, exclude=False)
    seconds: dict[str, list[float]] = {}
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, array in case.arrays.items():
            np.save(folder / f"{key}.npy", array)
        rows = np.arange(min(64, size.users))
        few = replace(case, size=replace(size, users=len(rows)), seen=case.seen.take(rows))
        lanner_lists(few, library_model(few))  # compiles
        for repetition in range(repetitions):
            sides: dict[str, Callable[[], Lists]] = {
                "bare": lambda: BARE[way](case, size.users, block),
                "lanner": lambda: lanner_export(model, size.k, folder),
                "lanner_lists": lambda: lanner_lists(case, model),
                "implicit": lambda: implicit_lists(case),
            }
            for side, work in sides.items():
                spent, lists = timed(work)
                seconds.setdefault(side, []).append(spent)
                lists = exported_lists(lists, size.k) if side == "lanner" else lists
                shares[side] = overlap(lists, right_bare if side == "bare" else right)
            if PEERS.exists():
                answer = rectools_answer(case, folder)
                seconds.setdefault("rectools", []).append(answer["seconds"])
                shares["rectools"] = overlap(answer["items"], right)
            shown = {side: round(spent[-1], 2) for side, spent in seconds.items()}
            print(f"repetition {repetition + 1}: {shown}", file=sys.stderr, flush=True)
    return {"seconds": seconds, "right": shares, "bare": {"way": way, "block": block, "microseconds_a_user": tried}}


def summarised(found: dict[str, Any], memory: dict[str, float]) -> dict[str, Any]:
    medians = {side: statistics.median(spent) for side, spent in found["seconds"].items()}
    summary = {
        "speed_over_bare": medians["bare"] / medians["lanner"],
        "peak_mib": memory["peak_mib"],
        "speed_over_implicit": medians["implicit"] / medians["lanner"],
        "speed_over_rectools": medians["rectools"] / medians["lanner"] if "rectools" in medians else None,
    }
    return {"summary": summary, "median_seconds": medians, **found, "memory": memory}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--short", action="store_true", help="a small case, once; nothing is recorded")
    options.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    size = SHORT if chosen.short else Size()
    if chosen.memory:
        return print_memory(size)
    results = summarised(measure(size, 1 if chosen.short else chosen.repetitions), memory_of_export(chosen.short))
    print(json.dumps(results, indent=1))
    if not chosen.short:
        settings = {**vars(size), "repetitions": chosen.repetitions, "threads": numba.get_num_threads()}
        settings["peers"] = (Path(__file__).parent / "requirements-peers.txt").read_text().split()
        print(record("export", seed=SEED, settings=settings, results=results))


if __name__ == "__main__":
    main()
