"""The accelerator: how exact its integer contract is, whether hardware matches it, its cycles, clock, proofs and tests.

Figures are tagged: *measured* on this machine, *simulated* (to the cycle), *routed* (by nextpnr, with pins).

- quality: lists of the contract against the float form of the same codes, on the bundles given (measured).
- exactness: users of ml-1m, 64 dimensions in one table, on an engine in Verilator: answers compared with the contract,
  cycles with the model; also the same work in NumPy on one thread (simulated, measured).
- routed: place and route (routed). estimated: cells of a larger device, without routing (estimated).
- external: catalogues of 100,000 and 1,000,000 items in external memory (simulated, estimated, measured).
- paper: the stages of a request as ``compression.json`` has them, with the accelerator in the GNN's place (predicted).
- sampler, proofs, mutants (simulated, proven).

All sections together take hours. ``--only`` re-measures what it names and keeps the other sections of the file;
``commits`` records the commit at which each was measured. Routing results are cached in the work folder until the
design changes.

    LANNER_DATA=… python -m benchmarks.fpga [--only SECTION …] [--bundles PATH …] [--users N] [--seeds N …]
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from scipy.stats import chi2

from benchmarks import _record
from benchmarks._fpga_external import external
from benchmarks._fpga_mutants import run_mutants
from benchmarks._fpga_proofs import prove_all
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.fpga import protocol
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.netlist import (
    CLOCK_PIN,
    DEVICES,
    bitstream,
    check_device,
    estimated_cells,
    place_and_route,
    routed_of,
    rtlil_of,
    synthesise,
)
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.verilated import VerilatedEngine
from lanner.accelerators.reference import answer
from lanner.accelerators.sampling import sample
from lanner.artifacts.bundle import read_bundle
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.inference.tables import Int8Rows

SEED, K, DIMENSIONS = 0, 10, 64
USER_AND_ITEM = ("user_id", "movie_id")
RESULTS = _record.RESULTS / "fpga.json"
LARGEST_DEGREE, DRAWS = 2314, 1_000_000
BUILDS = {"85f": (64, "ecp5-85f", 4096), "25f": (16, "ecp5-25f", 1024)}
"""Lanes, device and rows of the designs that are placed and routed; the smaller device holds fewer rows."""


def quality(bundles: Sequence[Path], users: int) -> dict[str, Any]:
    """By bundle and variant: overlap and NDCG of the contract's lists with those of the float forms."""
    found: dict[str, Any] = {"tag": "measured"}
    for path in bundles:
        bundle = read_bundle(path)
        everyone = bundle.dataset.user_batch()
        order = np.random.default_rng(SEED).permutation(len(everyone))
        asked, fitted = everyone.take(np.sort(order[:users])), everyone.take(np.sort(order[users : users + 1000]))
        for name in [one for one in ("int8", "distilled") if one in bundle.variants]:
            found[f"{path.name}/{name}"] = row = _against_floats(bundle.variant(name).model, asked, fitted)
            print(f"  {path.name}/{name}: {row}", flush=True)
    return found


def _against_floats(model: ScoringModel, asked: UserBatch, fitted: UserBatch) -> dict[str, Any]:
    contract = Contract.of(model, fitted)
    lists = [answer(contract, request).rows for request in requests_of(contract, model, asked, K)]
    row: dict[str, Any] = {"dimensions": contract.dimensions, "users": len(asked), "score_shift": contract.score_shift}
    for name, form in (("same_codes", _same_codes(model, contract)), ("variant", model)):
        scores = form.score(asked)
        for user in range(len(asked)):
            scores[user, asked.history[user] if asked.seen is None else asked.seen[user]] = -np.inf
        wanted = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), -scores))[:, :K]
        row[f"overlap_at_10_{name}"] = np.mean([np.isin(a, b).mean() for a, b in zip(lists, wanted, strict=True)])
        row[f"identical_lists_{name}"] = np.mean([(a == b).all() for a, b in zip(lists, wanted, strict=True)])
        row[f"ndcg_at_10_against_{name}"] = np.mean([_ndcg(a, b) for a, b in zip(lists, wanted, strict=True)])
    return row


def _same_codes(model: ScoringModel, contract: Contract) -> ScoringModel:
    sparse = contract.sparse
    if sparse is None:
        return model
    values = sparse.codes * np.repeat(sparse.scale, np.diff(sparse.indptr)) * contract.units.sparse
    return replace(model, item_to_item=SparseRows(sparse.indptr, sparse.items, values.astype(np.float32)))


def _ndcg(found: np.ndarray, wanted: np.ndarray) -> float:
    """NDCG of a list, with the wanted ten graded by their rank: 1 for the same list."""
    gain = dict(zip(wanted.tolist(), range(K, 0, -1), strict=True))
    discount = 1 / np.log2(np.arange(K) + 2)
    ideal = float((np.arange(K, 0, -1) * discount).sum())
    return float((np.array([gain.get(row, 0) for row in found.tolist()]) * discount).sum()) / ideal


def movielens() -> tuple[ScoringModel, UserBatch]:
    """Users of ml-1m, and the leading right singular vectors of their matrix, in INT8, as one table."""
    frame = pl.read_parquet(Path(os.environ["LANNER_DATA"]) / "ml-1m" / "ratings.parquet")
    user, item = (np.unique(frame[name].to_numpy(), return_inverse=True)[1] for name in USER_AND_ITEM)
    histories = Ragged.from_pairs(user, item, int(user.max()) + 1)
    counts = np.bincount(item).astype(np.float32)
    matrix = csr_matrix((np.ones(len(user), np.float32), (user, item)))
    vectors = svds(matrix, DIMENSIONS, random_state=SEED)[2].T
    table = Int8Rows.of(np.ascontiguousarray(vectors, np.float32))
    bias = (1e-6 * counts / counts.max()).astype(np.float32)
    return ScoringModel(table, table, bias, counts, (DIMENSIONS,)), UserBatch(histories)


def exactness(number: int, work: Path) -> dict[str, Any]:
    """Every answer and every latency of the given number of requests: users, then users with half of their history."""
    model, users = movielens()
    contract = Contract.of(model, users.take(np.arange(0, len(users), 5)))
    halves = Ragged.from_lists([users.history[user][: len(users.history[user]) // 2] for user in range(len(users))])
    both = UserBatch(users.history), UserBatch(halves)
    requests = [request for batch in both for request in requests_of(contract, model, batch, K)][:number]
    sizes = Parameters(DIMENSIONS, DIMENSIONS, contract.num_items, contract.num_items, K, contract.score_shift)
    engine = VerilatedEngine(sizes, work / _digest() / "verilated")
    packets = [*protocol.load(contract, sizes), *map(protocol.request_packet, requests)]
    ran = engine.run(packets, protocol.settings(contract), [K] * len(requests))
    mismatches, model_error = 0, 0
    for words, cycles, request in zip(ran.answers, ran.latencies, requests, strict=True):
        found, status = protocol.read_answer(words)
        wanted = answer(contract, request)
        mismatches += status != 0 or not np.array_equal(found.rows, wanted.rows)
        mismatches += not np.array_equal(found.scores, wanted.scores)
        model_error = max(
            model_error, abs(int(cycles) - request_cycles(sizes, len(request.rows), contract.num_items, K))
        )
    mean = round(float(np.mean(users.history.lengths)))
    return {
        "tag": "simulated",
        "items": contract.num_items,
        "dimensions": DIMENSIONS,
        "users_bit_exact": len(requests) - mismatches,
        "mismatches": mismatches,
        "cycle_model_error": model_error,
        "cycles": ran.cycles,
        "simulation_cycles_per_s": ran.cycles / ran.seconds,
        "mean_history": mean,
        "cycles_mean_history": request_cycles(sizes, mean, contract.num_items, K),
        "cpu": _on_the_cpu(model, users, mean),
    }


def _on_the_cpu(model: ScoringModel, users: UserBatch, length: int) -> dict[str, Any]:
    """Microseconds per user in NumPy float32 on one thread: gather, mean, scores, ten best."""
    assert isinstance(model.source_ID, Int8Rows)
    table = model.source_ID.codes * model.source_ID.scale[:, None]
    rows = np.resize(max((users.history[user] for user in range(100)), key=len), length)

    def work() -> None:
        scores = table @ table[rows].mean(axis=0) + model.bias_I
        scores[rows] = -np.inf
        best = np.argpartition(-scores, K)[:K]
        best[np.argsort(-scores[best])]

    times = []
    for _ in range(300):
        begun = time.perf_counter()
        work()
        times.append(1e6 * (time.perf_counter() - begun))
    return {"tag": "measured", "numpy_us_p50": np.percentile(times, 50), "numpy_us_p99": np.percentile(times, 99)}


def routed(seeds: Sequence[int], builds: Sequence[str], work: Path) -> dict[str, Any]:
    """By build: MHz of each seed and the cells in use. Finished seeds of the same design are not routed again."""
    pins = f"clock on {CLOCK_PIN}, the others placed by nextpnr"
    found: dict[str, Any] = {"tag": "routed", "pins": pins, "speed_grade": 6}
    for name in builds:
        lanes, device, rows = BUILDS[name]
        sizes = Parameters(DIMENSIONS, lanes, rows, rows, K, 14, multiplier="ecp5")
        folder = work / f"routed-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        design, size = folder / "engine.il", check_device(sizes, device)
        if not (folder / "engine.json").exists() or design.read_text() != rtlil_of(sizes):
            for old in folder.glob("report.*"):
                old.unlink()
            synthesise(sizes, folder)
        rows_found = []
        for seed in seeds:
            report = folder / f"report.{seed}.json"
            done = report.exists() and (folder / f"engine.{seed}.config").exists()
            again = routed_of(json.loads(report.read_text()), seed) if done else place_and_route(folder, size, seed)
            rows_found.append(again)
            print(f"  {name} seed {seed}: {rows_found[-1].mhz:.1f} MHz", flush=True)
        found[name] = {
            "commit": _record._commit(),
            "bitstream_bytes": bitstream(folder, seeds[0]).stat().st_size,
            "lanes": lanes,
            "rows": rows,
            "logic_cells_of_device": DEVICES[device].logic_cells,
            "mhz": {str(one.seed): one.mhz for one in rows_found},
            "mhz_median": float(np.median([one.mhz for one in rows_found])),
            "used": rows_found[0].used,
        }
    return found


def estimated(work: Path) -> dict[str, Any]:
    """Cells of the larger design on an Alveo-class device."""
    folder = work / "estimated"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = Parameters(DIMENSIONS, DIMENSIONS, 4096, 4096, K, 14)
    return {"tag": "estimated", "family": "xcup", "cells": estimated_cells(sizes, folder)}


def sampler() -> dict[str, Any]:
    """Frequencies of a million draws of the oracle; simulation checks that the hardware matches it."""
    found: dict[str, Any] = {"tag": "simulated", "draws": DRAWS, "cycles_per_neighbour_at_fanout_10": 11 / 10}
    for degree in (50, LARGEST_DEGREE):
        counts, state = np.zeros(degree), 2463534242
        for _ in range(DRAWS // K):
            places, state = sample(state, degree, K)
            counts[places] += 1
        expected = DRAWS / degree
        statistic = ((counts - expected) ** 2).sum() / (expected * (1 - K / degree)) * (degree - 1) / degree
        found[f"chi2_p_degree_{degree}"] = float(chi2.sf(statistic, degree - 1))
    return found


def paper(results: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a request with a new text by component: as published, on a processor, and with the accelerator.

    Processor: ``compression.json``, ml-1m, the encoder in eager torch and in the best variant. Accelerator: the mean
    history and catalogue in one table of 64 dimensions, at the routed clock, without the link; it aggregates and
    scores, and replaces the GNN only.
    """
    measured = json.loads(RESULTS.with_name("compression.json").read_text())["results"]
    rows, best = measured["ml-1m"], measured["summary"]["best_variant"]
    variant, runtime = best.split("/")
    name = "85f" if "85f" in results["routed"] else "25f"
    lanes, mhz = BUILDS[name][0], results["routed"][name]["mhz_median"]
    items = results["exactness"]["items"]
    cycles = request_cycles(Parameters(DIMENSIONS, lanes, items, items), results["exactness"]["mean_history"], items, K)

    def stages(of: str, encoder: float, request: float) -> dict[str, Any]:
        parts = {"gnn": "aggregate", "fusion": "retrieve", "head": "rank"}
        return {"tag": "measured", "language_model": encoder, "request": request} | {
            part: rows["stages"][of][stage] for part, stage in parts.items()
        }

    unoptimised = stages("full", rows["encoder"]["hugging-face"]["torch"], rows["baseline"]["torch"]["p50_ms"])
    optimised = stages(variant, rows["encoder"][variant][runtime], rows[variant][runtime]["p50_ms"])
    return {
        "published": {"tag": "published", "unoptimised": 140.0, "optimised": 45.0},
        "unoptimised": unoptimised,
        "optimised": optimised | {"variant": best},
        "accelerator": {"tag": "predicted", "build": name, "lanes": lanes, "mhz": mhz, "gnn": cycles / mhz / 1000},
    }


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """The tracked figures of the sections that ran."""
    found: dict[str, Any] = {}
    if "exactness" in results:
        found |= {name: results["exactness"][name] for name in ("users_bit_exact", "mismatches", "cycle_model_error")}
    for name, row in results.get("routed", {}).items():
        if isinstance(row, dict):
            found[f"clock_mhz_{name}"] = row["mhz_median"]
    if "clock_mhz_85f" in found and "exactness" in results:
        found["latency_us_3706"] = results["exactness"]["cycles_mean_history"] / found["clock_mhz_85f"]
    if "proofs" in results:
        found["proofs"] = sum(one["holds"] for one in results["proofs"].values())
    if "external" in results:
        found["external_share_of_peak"] = results["external"]["stream"]["share_of_peak"]
        found["external_mismatches"] = results["external"]["exact"]["mismatches"]
    if "mutants" in results:
        found["mutants_killed_share"] = results["mutants"]["killed_share"]
    return found


def _digest() -> str:
    """Hash of the accelerator's sources: a simulator compiled from other sources is not used."""
    folder = Path(__file__).parents[1] / "src" / "lanner" / "accelerators"
    sources = sorted([*folder.rglob("*.py"), *folder.rglob("*.cpp")])
    return hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["quality", "exactness", "routed", "estimated", "external", "paper", "sampler", "proofs", "mutants"]
    parser.add_argument("--only", nargs="+", choices=names)
    parser.add_argument("--bundles", nargs="*", type=Path, default=[])
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--quality-users", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--builds", nargs="+", choices=list(BUILDS), default=list(BUILDS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lanner-fpga")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text())["results"] if options.only and RESULTS.exists() else {}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "quality": lambda: quality(options.bundles, options.quality_users),
        "exactness": lambda: exactness(options.users, options.work),
        "routed": lambda: results.get("routed", {}) | routed(options.seeds, options.builds, options.work),
        "estimated": lambda: estimated(options.work),
        "external": external,
        "paper": lambda: paper(results),
        "sampler": sampler,
        "proofs": prove_all,
        "mutants": run_mutants,
    }
    settings = {**vars(options), "bundles": [path.name for path in options.bundles], "work": None}
    commits = results.setdefault("commits", {})
    for name in options.only or names:
        print(name, flush=True)
        commits[name] = _record._commit()  # before it runs: the sources may change meanwhile
        results[name] = sections[name]()
        results["summary"] = summary(results)
        print(_record.record("fpga", seed=SEED, settings=settings, results=results), flush=True)


if __name__ == "__main__":
    main()
