"""The accelerator: how exact its integer contract is, whether hardware matches it, its cycles, clock, proofs and tests.

Figures are tagged: *measured* on this machine, *simulated* (to the cycle), *routed* (by nextpnr, with pins).

- quality: lists of the contract against the float form of the same codes, and NDCG on test events, on the bundles given
  (measured): of ``lanner run --split random --set feedback.positive_threshold=none`` on ``recipes/ml-1m.toml`` without
  ``[users]``, whose attributes have no integer form, and ``lanner compress --dimensions 64``. bundles: the accelerator
  that their variants would need, beside one thread (estimated, measured).
- exactness: users of ml-1m, 64 dimensions in one table, on an engine in Verilator: answers compared with the contract,
  cycles with the model; corners with slow hosts (simulated).
- cpu: the same request, and its costliest steps alone, in NumPy and FAISS on one thread; wants a quiet machine
  (measured).
- routed: place and route; a seed that does not finish counts as 0 MHz (routed).
- estimated: cells of a larger device, without routing (estimated).
- external: catalogues of 100,000 and 1,000,000 items in external memory (simulated, estimated, measured).
- paper: the components of a request as ``compression.json`` has them (``benchmarks.compression --only components``),
  with the accelerator in the GNN's place (predicted).
- lanes: cycles by dimensions and lanes (predicted).
- sampler, proofs, mutants (simulated, proven). tests: seconds of the accelerator's tests (measured).

All sections together take hours. ``--only`` measures what it names; the other sections of the file are kept, as are
quality and bundles without ``--bundles``. ``commits`` and ``settings`` are those of each section. Routing results are
cached in the work folder until the
design changes.

    LANNER_DATA=… python -m benchmarks.fpga [--only SECTION …] [--bundles PATH …] [--users N] [--seeds N …]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import chi2

from benchmarks import _record
from benchmarks._fpga_bundles import quality, real_bundles
from benchmarks._fpga_cpu import processor
from benchmarks._fpga_exactness import exactness
from benchmarks._fpga_external import external
from benchmarks._fpga_mutants import run_mutants
from benchmarks._fpga_proofs import prove_all
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.netlist import (
    CLOCK_PIN,
    DEVICES,
    Device,
    Routed,
    bitstream,
    check_device,
    estimated_cells,
    place_and_route,
    routed_of,
    rtlil_on_ecp5,
    shortage,
    synthesise,
)
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.simulate_sampler import run_sampler
from lanner.accelerators.sampling import sample

SEED, K, DIMENSIONS = 0, 10, 64
RESULTS = _record.RESULTS / "fpga.json"
DEGREES, DRAWS, NODES = (17, 50, 300, 2314), 1_000_000, 1_000
"""Of nodes of the sampler; the largest is that of a user of ml-1m."""
ROOT = Path(__file__).parents[1]
TESTS = ["tests/accelerators", "tests/cli/test_accelerate.py", "tests/serving/test_accelerated.py"]
USED = {"quality": ("bundles", "quality_users"), "bundles": ("bundles",), "exactness": ("users",),
        "routed": ("seeds", "builds")}  # fmt: skip
"""Options that a section depends on."""
OF_BUNDLES = {"quality", "bundles"}
BUILDS = {"85f": (64, "ecp5-85f", 4096), "25f": (16, "ecp5-25f", 1024)}
"""Lanes, device and rows of the designs that are placed and routed; the smaller device holds fewer rows."""
FAMILY = "xcup"
"""synth_xilinx's name of UltraScale+, the family of Alveo cards."""
LIMIT_S = 1800
"""Seconds after which a seed counts as not routed: at 0 MHz in the median. Others take a quarter of them."""


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
        if not (folder / "engine.json").exists() or design.read_text() != rtlil_on_ecp5(sizes):
            for old in folder.glob("report.*"):
                old.unlink()
            synthesise(sizes, folder)
        rows_found = []
        for seed in seeds:
            rows_found.append(_routed(folder, size, seed))
            print(f"  {name} seed {seed}: {rows_found[-1].mhz:.1f} MHz", flush=True)
        finished = [one for one in rows_found if one.mhz] or sys.exit(f"{name}: no seed was routed in {LIMIT_S} s")
        found[name] = {
            "commit": _record._commit(),
            "bitstream_bytes": bitstream(folder, finished[0].seed).stat().st_size,
            "timing_weight": size.timing_weight,
            "limit_s": LIMIT_S,
            "not_routed": [one.seed for one in rows_found if not one.mhz],
            "lanes": lanes,
            "rows": rows,
            "logic_cells_of_device": DEVICES[device].logic_cells,
            "mhz": {str(one.seed): one.mhz for one in rows_found},
            "mhz_median": float(np.median([one.mhz for one in rows_found])),
            "used": finished[0].used,
        }
    return found


def _routed(folder: Path, device: Device, seed: int) -> Routed:
    """The result of a seed, from the folder if it is there; 0 MHz if it does not finish."""
    report = folder / f"report.{seed}.json"
    if report.exists() and (folder / f"engine.{seed}.config").exists():
        return routed_of(json.loads(report.read_text()), seed)
    try:
        return place_and_route(folder, device, seed, timeout_s=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Routed(seed, 0.0, {})


def estimated(work: Path) -> dict[str, Any]:
    """Cells of the larger design on an Alveo-class device."""
    folder = work / "estimated"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = Parameters(DIMENSIONS, DIMENSIONS, 4096, 4096, K, 14)
    of = {"family": FAMILY, "dimensions": DIMENSIONS, "lanes": sizes.lanes, "rows": sizes.rows}
    return {"tag": "estimated", **of, "cells": estimated_cells(sizes, folder, FAMILY)}


def sampler() -> dict[str, Any]:
    """Nodes through the simulated hardware, compared with the oracle; then frequencies of a million of its draws."""
    random, state = np.random.default_rng(SEED), 1
    nodes = [(int(random.integers(2**20)), int(random.choice(DEGREES)), K, 0) for _ in range(NODES)]
    drawn, cycles = run_sampler(nodes)
    wanted = []
    for first, degree, fanout, _ in nodes:
        places, state = sample(state, degree, fanout)
        wanted += [(first + place, place == places[-1]) for place in places]
    return {
        "tag": "simulated",
        "nodes": NODES,
        "fanout": K,
        "neighbours": len(drawn),
        "mismatches": sum(a != b for a, b in zip(drawn, wanted, strict=True)),
        "cycles_per_neighbour": cycles / len(drawn),
        "chi2": {"drawn_by": "the oracle", "draws": DRAWS, "p": {str(one): _frequencies_p(one) for one in DEGREES}},
    }


def _frequencies_p(degree: int) -> float:
    """p of the neighbours' frequencies if all are equally likely; draws without replacement spread them less."""
    counts, state = np.zeros(degree), 2463534242
    for _ in range(DRAWS // K):
        places, state = sample(state, degree, K)
        counts[places] += 1
    expected = DRAWS / degree
    statistic = ((counts - expected) ** 2).sum() / (expected * (1 - K / degree)) * (degree - 1) / degree
    return float(chi2.sf(statistic, degree - 1))


def lanes(results: dict[str, Any]) -> dict[str, Any]:
    """Cycles of a request over ml-1m's catalogue in one table, by dimensions and lanes, and what the device lacks."""
    of, device = results["exactness"], "ecp5-85f"
    found: dict[str, Any] = {"tag": "predicted", "device": device, "items": of["items"], "history": of["mean_history"]}
    found["mhz"] = results["routed"]["85f"]["mhz_median"]
    for dimensions, wide in ((64, 16), (64, 64), (128, 64), (128, 128)):
        sizes = Parameters(dimensions, wide, of["items"], of["items"], K, 14)
        cycles = request_cycles(sizes, of["mean_history"], of["items"], K)
        row = {"cycles": cycles, "us": cycles / found["mhz"], "lacks": shortage(sizes, device) or None}
        found[f"{dimensions}x{wide}"] = {"dimensions": dimensions, "lanes": wide, **row}
    return found


def accelerator_tests() -> dict[str, Any]:
    """Seconds of the tests that concern the accelerator, as the continuous integration runs them."""
    begun = time.perf_counter()
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], cwd=ROOT, capture_output=True, text=True)
    seconds, said = time.perf_counter() - begun, ran.stdout.strip().splitlines()
    return {"tag": "measured", "tests": TESTS, "passed": not ran.returncode, "said": said[-1], "seconds": seconds}


def paper(results: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a request with a new text by component: as published, on a processor, and with the accelerator.

    Processor: the components of ``compression.json``, each column timed inside the requests of one system; without
    them the requests of ml-1m alone. Accelerator: the mean history and catalogue in one table of 64 dimensions, at the
    routed clock, without the link; it aggregates and scores, and replaces the GNN only.
    """
    recorded = json.loads(RESULTS.with_name("compression.json").read_text())
    processor = recorded["results"].get("components") or _requests_alone(recorded)
    name = "85f" if "85f" in results["routed"] else "25f"
    lanes, mhz = BUILDS[name][0], results["routed"][name]["mhz_median"]
    items = results["exactness"]["items"]
    cycles = request_cycles(Parameters(DIMENSIONS, lanes, items, items), results["exactness"]["mean_history"], items, K)
    return {
        "published": {"tag": "published", "unoptimised": 140.0, "optimised": 45.0},
        "processor": {name: processor[name] for name in ("threads", "rounds", "commit")},
        "unoptimised": {"tag": "measured", **processor["unoptimised"]},
        "optimised": {"tag": "measured", **processor["optimised"]},
        "accelerator": {"tag": "predicted", "build": name, "lanes": lanes, "mhz": mhz, "gnn": cycles / mhz / 1000},
    }


def _requests_alone(recorded: dict[str, Any]) -> dict[str, Any]:
    """The whole requests of ``compression.json``: its stages were timed in another system than its baseline."""
    rows, best = recorded["results"]["ml-1m"], recorded["results"]["summary"]["best_variant"]
    variant, runtime = best.split("/")
    columns = {"unoptimised": ("baseline", "torch"), "optimised": (variant, runtime)}
    found = {
        column: {"row": f"{name}/{backend}", "request": rows[name][backend]["p50_ms"]}
        for column, (name, backend) in columns.items()
    }
    return {name: recorded["settings"][name] for name in ("threads", "rounds")} | {"commit": rows["commit"]} | found


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """The tracked figures of the sections that ran."""
    found: dict[str, Any] = {}
    if "exactness" in results:
        names = (
            "users_bit_exact",
            "mismatches",
            "cycle_model_error",
            "simulation_cycles_per_s",
            "latency_p99_over_p50",
        )
        found |= {name: results["exactness"][name] for name in names if name in results["exactness"]}
    losses = [row["ndcg_loss_full"] for row in results.get("quality", {}).values() if "ndcg_loss_full" in row]
    if losses:
        found["ndcg_loss"] = max(losses)
    for name, row in results.get("routed", {}).items():
        if isinstance(row, dict):
            found[f"clock_mhz_{name}"] = row["mhz_median"]
    if "clock_mhz_85f" in found and "exactness" in results:
        found["latency_us_3706"] = results["exactness"]["cycles_mean_history"] / found["clock_mhz_85f"]
    if "chi2" in results.get("sampler", {}):
        found["sampler_cycles_per_neighbour"] = results["sampler"]["cycles_per_neighbour"]
        found["sampler_chi2_p"] = min(results["sampler"]["chi2"]["p"].values())
    if "proofs" in results:
        found["proofs"] = sum(one["holds"] for one in results["proofs"].values())
    if "external" in results:
        found["external_share_of_peak"] = results["external"]["stream"]["share_of_peak"]
        found["external_mismatches"] = results["external"]["exact"]["mismatches"]
    if "mutants" in results:
        found |= {"mutants": results["mutants"]["mutants"], "mutants_killed_share": results["mutants"]["killed_share"]}
    if "tests" in results:
        found["ci_seconds"] = results["tests"]["seconds"]
    return found


def _digest() -> str:
    """Hash of the accelerator's sources: a simulator compiled from other sources is not used."""
    folder = Path(__file__).parents[1] / "src" / "lanner" / "accelerators"
    sources = sorted([*folder.rglob("*.py"), *folder.rglob("*.cpp")])
    return hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["quality", "bundles", "exactness", "cpu", "routed", "estimated", "external", "paper", "lanes", "sampler"]
    names += ["proofs", "mutants", "tests"]
    parser.add_argument("--only", nargs="+", choices=names)
    parser.add_argument("--bundles", nargs="*", type=Path, default=[])
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--quality-users", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--builds", nargs="+", choices=list(BUILDS), default=list(BUILDS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lanner-fpga")
    options = parser.parse_args()
    chosen = options.only or [name for name in names if options.bundles or name not in OF_BUNDLES]
    if not options.bundles and set(chosen) & OF_BUNDLES:
        parser.error(f"{' and '.join(sorted(set(chosen) & OF_BUNDLES))}: give compressed bundles with --bundles")
    recorded = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"results": {}, "settings": {}}
    results = recorded["results"]
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "quality": lambda: quality(options.bundles, options.quality_users),
        "bundles": lambda: real_bundles(options.bundles),
        "exactness": lambda: exactness(options.users, options.work / _digest() / "verilated"),
        "cpu": processor,
        "routed": lambda: results.get("routed", {}) | routed(options.seeds, options.builds, options.work),
        "estimated": lambda: estimated(options.work),
        "external": external,
        "paper": lambda: paper(results),
        "lanes": lambda: lanes(results),
        "sampler": sampler,
        "proofs": prove_all,
        "mutants": run_mutants,
        "tests": accelerator_tests,
    }
    plain = {**vars(options), "bundles": [path.name for path in options.bundles]}
    settings = {name: one for name, one in recorded["settings"].items() if name in names}
    commits = results.setdefault("commits", {})
    for name in chosen:
        print(name, flush=True)
        commits[name] = _record._commit()  # before it runs: the sources may change meanwhile
        results[name] = sections[name]()
        settings[name] = {option: plain[option] for option in USED.get(name, ())}
        results["summary"] = summary(results)
        print(_record.record("fpga", seed=SEED, settings=settings, results=results), flush=True)


if __name__ == "__main__":
    main()
