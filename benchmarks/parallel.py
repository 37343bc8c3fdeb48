"""Throughput and utilisation of four ranks in two racks: single modes, hybrids, and the planner's choice.

    python -m benchmarks.parallel            every case, five interleaved repeats (80 minutes); writes parallel.json
    python -m benchmarks.parallel --kept     the same, reusing cases already measured in runs/parallel
    python -m benchmarks.parallel --short    100 Mbit/s and one slow rank, one repeat; writes nothing

Devices are emulated (``_emulated``); the engine, its traffic and the links (``_racks``) are real. Utilisation is the
devices' busy time ÷ (ranks × seconds of a step). Plain rows have equal stages and shares and no compression; aided
rows have stages and shares balanced to the devices' speeds, and int8 gradients.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import _record
from benchmarks._emulated import Device
from benchmarks._racks import NetworkRacks, can_be_built
from benchmarks._ranks import run_ranks
from benchmarks._small_towers import pairs, small_chain
from benchmarks.parity import adamw
from lanner.distributed.balance import Balancer
from lanner.distributed.cluster import Cluster, cluster_of
from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.engine import Engine
from lanner.distributed.migration import LoadBalancing
from lanner.distributed.planner import plan_of, search
from lanner.distributed.prediction import CostTable, Plan, predict

RANKS, RACK, HOST_MBIT = 4, 2, 1000
LAYERS, WIDTH, LENGTH, ROWS = 8, 128, 64, 16
FORWARD, BACKWARD = 0.015, 0.030
CORES, SLOW = (1000, 100, 25), (1.0, 3.0)
STEPS, REPEATS = 2, 5
LAYER_BYTES = 4.0 * (4 * WIDTH * WIDTH + 2 * 2 * WIDTH * WIDTH + 11 * WIDTH)
TABLE = CostTable(
    (FORWARD,) * LAYERS,
    (BACKWARD,) * LAYERS,
    (LAYER_BYTES + 4.0 * 512 * WIDTH,) + (LAYER_BYTES,) * (LAYERS - 1),
    (LAYER_BYTES,) * LAYERS,
    hop=4.0 * LENGTH * WIDTH,
    kept=(64.0 * LENGTH * WIDTH,) * LAYERS,
    heads=4,
    overhead=0.001,
)
MODES = {
    "DP": Degrees(replicas=4),
    "TP": Degrees(tensor=4),
    "PP": Degrees(pipeline=4),
    "DP between racks × TP": Degrees.parse("replicate=2,tp=2"),
    "PP between racks × TP": Degrees.parse("pp=2,tp=2"),
    "PP between racks × DP": Degrees.parse("pp=2,replicate=2"),
    "DP between racks × PP": Degrees.parse("replicate=2,pp=2"),
}
SINGLE = ("DP", "TP", "PP")


def cluster(core: float, slow: float) -> Cluster:
    racks = [
        {"name": name, "devices": RACK, "slowness": slowness, "bandwidth_mbit": HOST_MBIT}
        for name, slowness in (("left", [1.0, slow]), ("right", [1.0, 1.0]))
    ]
    link = {"racks": ["left", "right"], "bandwidth_mbit": core}
    return cluster_of({"rack": racks, "link": [link]}, Path("cluster.toml"))


def plans(core: float, slow: float) -> dict[str, Plan]:
    """Every mode, plain and aided, and the planner's choice."""
    where = cluster(core, slow)
    made: dict[str, Plan] = {}
    for name, degrees in MODES.items():
        count = ROWS if degrees.tensor < 4 else 4
        for aided in (False, True):
            compression = "int8" if aided and degrees.replicas > 1 else "none"
            schedule = "1f1b" if degrees.pipeline > 1 else "gpipe"
            plan = plan_of(TABLE, where, degrees, schedule, count, compression, balanced=aided)
            assert plan is not None
            made[f"{name}, aided" if aided else name] = plan
    made["planner"] = search(TABLE, where, ROWS, compressions=("none", "int8"))[0].plan
    return made


def run(plan: Plan, slow: float, steps: int = STEPS) -> dict[str, float]:
    """Seconds of a step and the ranks' share of work; called on every rank."""
    engine, device = make(plan, slow)
    seconds, busy = [], []
    for step in range(steps + 1):
        device.busy = 0.0
        ids, mask, rows = pairs(step, ROWS, LENGTH)
        dist.barrier()
        begun = time.perf_counter()
        engine.step(ids, mask, rows, no_loss)
        dist.barrier()
        seconds.append(time.perf_counter() - begun)
        busy.append(device.busy)
    told = torch.tensor([median(busy[1:]), device.overruns / max(1, device.passes)])
    dist.all_reduce(told)
    step_seconds = median(seconds[1:])
    return {
        "seconds": step_seconds,
        "utilisation": float(told[0]) / (RANKS * step_seconds),
        "overruns": float(told[1]) / RANKS,
    }


def no_loss(vectors_BD: torch.Tensor, row_B: Any) -> torch.Tensor:
    """A loss that also exists for micro-batches of one row."""
    return vectors_BD.square().sum(dim=1).sub(0.5).square().mean() + vectors_BD[:, 0].mean()


def make(plan: Plan, slow: float, **others: Any) -> tuple[Engine, Device]:
    """others: of ``EngineConfig``."""
    shares = plan.shares if plan.degrees.replicas > 1 and plan.degrees.shards == 1 else None
    config = EngineConfig(
        plan.degrees,
        plan.schedule,
        plan.micro_batches // plan.degrees.data,
        bounds=plan.bounds if plan.degrees.pipeline > 1 else None,
        shares=shares,
        checkpointing=plan.checkpointing,
        compression=plan.compression,
        **others,
    )
    chain = small_chain("bert", layers=LAYERS, width=WIDTH)
    device = Device(FORWARD, BACKWARD, slow if dist.get_rank() == 1 else 1.0, plan.degrees.tensor)
    device.emulate(chain)
    return Engine(chain, config, adamw), device


def rebalanced(mode: str, slow: float, local_steps: int = 0) -> dict[str, float]:
    """Seconds of a step of even ranks, before and after rebalancing by measured times alone.

    Layers move between the stages of ``PP``, micro-batches between the replicas of ``DP``.
    """
    plan = plan_of(TABLE, cluster(1000, slow), MODES[mode], "1f1b", ROWS, balanced=False)
    assert plan is not None
    engine, _ = make(plan, slow, local_steps=local_steps)
    balancing = LoadBalancing(engine, Balancer(every=3))
    seconds = []
    for step in range(9):
        dist.barrier()
        begun = time.perf_counter()
        with balancing.step():
            engine.step(*pairs(step, ROWS, LENGTH), no_loss)
        dist.barrier()
        seconds.append(time.perf_counter() - begun)
    moves = len(balancing.balancer.moves) + len(balancing.sharing.moves)
    return {"before": median(seconds[1:3]), "after": median(seconds[4:]), "moves": float(moves)}


def all_rebalanced(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Layers of a pipeline, micro-batches of replicas, and those of replicas that average every third batch."""
    ways = {"layers": ("PP", 3.0), "micro-batches": ("DP", 3.0), "local steps": ("DP", 3.0, 3)}
    return {way: [run_ranks(RANKS, rebalanced, *given) for _ in range(repeats)] for way, given in ways.items()}


def measured(core: int, slow: float, made: dict[str, Plan], repeats: int) -> dict[str, Any]:
    """Some plans of one case, interleaved, ``repeats`` times. Rows of the same plan are one measurement."""
    commit = _record._commit()  # before they run: the sources may change meanwhile
    first = {name: next(one for one in made if made[one] == plan) for name, plan in made.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in dict.fromkeys(first.values())}
    with NetworkRacks(RANKS, RACK, HOST_MBIT, core):
        for _ in range(repeats):
            for name, done in runs.items():
                done.append(run_ranks(RANKS, run, made[name], slow, in_racks=True))
    rows = {}
    for name, plan in made.items():
        times = [one["seconds"] for one in runs[first[name]]]
        rows[name] = {
            "samples_per_s": ROWS / median(times),
            "utilisation": median(one["utilisation"] for one in runs[first[name]]),
            "seconds": median(times),
            "seconds_range": [min(times), max(times)],
            "overruns": max(one["overruns"] for one in runs[first[name]]),
            "settings": settings_of(plan),
            "commit": commit,
        }
    return rows


def settings_of(plan: Plan) -> dict[str, Any]:
    """A plan as JSON holds it."""
    settings = asdict(replace(plan, degrees=Degrees())) | {"degrees": plan.degrees.arithmetic}
    kept: dict[str, Any] = json.loads(json.dumps(settings))
    return kept


def case(core: int, slow: float, repeats: int, kept: bool = False) -> dict[str, Any]:
    """Every plan of one case, measured and predicted.

    kept: take what ``runs/parallel`` has; each row has the commit at which it was measured. A plan that it lacks is
    measured along with the best of its plans, so that both are of one run.
    """
    path = Path("runs") / "parallel" / f"{core}-{slow:g}-{STEPS}-{repeats}.json"
    made, rows = plans(core, slow), {}
    if kept and path.exists():
        rows = {name: {"commit": "unknown"} | row for name, row in json.loads(path.read_text()).items()}
    known = {json.dumps(row["settings"]): row for row in rows.values()}
    missing = {name: plan for name, plan in made.items() if json.dumps(settings_of(plan)) not in known}
    rows = {name: known[json.dumps(settings_of(plan))] for name, plan in made.items() if name not in missing}
    if missing:
        best = sorted(rows, key=lambda name: rows[name]["samples_per_s"])[-1:]
        rows |= measured(core, slow, {**missing, **{name: made[name] for name in best}}, repeats)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    for name, plan in made.items():
        predicted, row = predict(TABLE, cluster(core, slow), plan, ROWS), rows[name]
        rows[name] = row | {"predicted_seconds": predicted.seconds, "plan": predicted.name}
        print(f"core {core} slow {slow:g} {name:28s} {row['samples_per_s']:6.2f} samples/s {row['utilisation']:4.0%} "
              f"predicted {predicted.seconds:.2f} measured {row['seconds']:.2f} s", flush=True)  # fmt: skip
    return rows


def summary(cases: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The gain of the planner's choice, compared with plain single modes and with the same aided."""
    hard = cases["core 100, slow 3"]

    def best(rows: dict[str, Any], names: list[str]) -> Any:
        return max((rows[name] for name in names), key=lambda row: row["samples_per_s"])

    plain = best(hard, list(SINGLE))
    aided = best(hard, [f"{name}, aided" for name in SINGLE] + list(SINGLE))
    planner = hard["planner"]
    regrets = [
        1 - rows["planner"]["samples_per_s"] / best(rows, list(rows))["samples_per_s"] for rows in cases.values()
    ]
    return {
        "hybrid_over_best_single": planner["samples_per_s"] / plain["samples_per_s"] - 1,
        "hybrid_over_best_aided_single": planner["samples_per_s"] / aided["samples_per_s"] - 1,
        "utilisation_gain": planner["utilisation"] / plain["utilisation"] - 1,
        "worst_regret": max(regrets),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--kept", action="store_true")
    given = parser.parse_args()
    if not can_be_built():
        sys.exit("benchmarks.parallel needs root and the commands ip and tc, for network namespaces")
    torch.set_num_threads(1)
    if given.short:
        cases = {"core 100, slow 3": case(100, 3.0, repeats=1)}
    else:
        cases = {
            f"core {core}, slow {slow:g}": case(core, slow, REPEATS, given.kept) for core in CORES for slow in SLOW
        }
    moved = all_rebalanced(1 if given.short else REPEATS)
    found = summary(cases)
    gains = {way: median(one["before"] / one["after"] for one in runs) for way, runs in moved.items()}
    found |= {"balancing_speedup": gains["layers"], "sharing_speedup": gains["micro-batches"]}
    found["local_steps_sharing_speedup"] = gains["local steps"]
    print(found)
    if given.short:
        return
    settings = {
        "ranks": RANKS, "rack": RACK, "host_mbit": HOST_MBIT, "core_mbit": CORES, "slowness_of_rank_1": SLOW,
        "layers": LAYERS, "width": WIDTH, "tokens": LENGTH, "rows": ROWS, "steps": STEPS, "repeats": REPEATS,
        "forward_s": FORWARD, "backward_s": BACKWARD, "devices": "emulated by sleeping",
    }  # fmt: skip
    results = {"summary": found, "cases": cases, "balancing": moved}
    print(_record.record("parallel", seed=0, settings=settings, results=results))


if __name__ == "__main__":
    main()
