"""How well step times are predicted: calibrated on half of ``benchmarks.parallel``'s runs, tested on the other half.

    python -m benchmarks.training_simulator    needs results/parallel.json; writes training_simulator.json

Three figures are calibrated: the fixed seconds of an operation, the fixed seconds of a sum over a tensor group, and the
fraction of a link's bandwidth that is reached.
The curves to 1,024 devices are extrapolated: nothing of that size was run.
"""

import itertools
import json
import sys
from dataclasses import replace
from typing import Any

from benchmarks._record import RESULTS, record
from benchmarks.parallel import CORES, ROWS, SLOW, TABLE, cluster, plans
from lanner.distributed.cluster import Cluster, Device, Link
from lanner.distributed.planner import search
from lanner.distributed.prediction import CostTable, Plan, predict

OVERHEADS = [step / 1000 for step in range(0, 11, 2)]
SUM_OVERHEADS = [step / 1000 for step in range(13)]
REACHED = [1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5]


def runs() -> list[tuple[str, Cluster, Plan, float]]:
    """Name, cluster, plan and measured seconds of each row of ``parallel.json``."""
    path = RESULTS / "parallel.json"
    if not path.exists():
        sys.exit(f"{path.name} is missing; run python -m benchmarks.parallel first")
    cases = json.loads(path.read_text())["results"]["cases"]
    found = []
    for core, slow in itertools.product(CORES, SLOW):
        rows = cases[f"core {core}, slow {slow:g}"]
        for name, plan in plans(core, slow).items():
            found.append((f"{name}, core {core}, slow {slow:g}", cluster(core, slow), plan, rows[name]["seconds"]))
    return found


def slower(where: Cluster, part: float) -> Cluster:
    """The cluster with links that reach only a fraction of their bandwidth."""

    def reached(link: Link) -> Link:
        return Link(link.bandwidth * part, link.latency)

    return Cluster(
        where.devices,
        {rack: reached(link) for rack, link in where.inside.items()},
        {racks: reached(link) for racks, link in where.between.items()},
    )


def errors(
    chosen: list[tuple[str, Cluster, Plan, float]], overhead: float, sum_overhead: float, part: float
) -> dict[str, float]:
    """Relative errors of predicted steps, by name."""
    table = replace(TABLE, overhead=overhead, sum_overhead=sum_overhead)
    return {
        name: predict(table, slower(where, part), plan, ROWS).seconds / seconds - 1
        for name, where, plan, seconds in chosen
    }


def scaling() -> list[dict[str, Any]]:
    """Best plan and efficiency for 8 to 1,024 devices in racks of 8; extrapolated."""
    layers, inside, between = 32, Link(100e9, 5e-6), Link(12.5e9, 2e-5)
    gradient = 4.0 * 12 * 2048**2
    table = CostTable(
        (0.0008,) * layers, (0.0016,) * layers, (gradient,) * layers, (gradient,) * layers,
        hop=512 * 2048 * 2.0, kept=(34.0 * 512 * 2048,) * layers, heads=8, overhead=2e-5,
    )  # fmt: skip
    curve = []
    for devices in (8, 32, 128, 512, 1024):
        racks = [f"rack {number}" for number in range(devices // 8)]
        where = Cluster(
            tuple(Device(rack, 1.0, 80 * 2.0**30) for rack in racks for _ in range(8)),
            dict.fromkeys(racks, inside),
            {frozenset(pair): between for pair in itertools.combinations(racks, 2)},
        )
        best = search(table, where, 4 * devices, compressions=("none", "int8"))[0]
        curve.append(
            {"devices": devices, "estimated": True, "plan": best.name, "rows_per_s": 4 * devices / best.seconds,
             "utilisation": best.utilisation}
        )  # fmt: skip
    return curve


def main() -> None:
    known = runs()
    calibration, tested = known[::2], known[1::2]
    grid = itertools.product(OVERHEADS, SUM_OVERHEADS, REACHED)
    overhead, sum_overhead, part = min(
        grid, key=lambda one: sum(abs(error) for error in errors(calibration, *one).values())
    )
    found = errors(tested, overhead, sum_overhead, part)
    summary = {"largest_error": max(map(abs, found.values()))}
    settings = {
        "overhead_s": overhead, "sum_overhead_s": sum_overhead, "bandwidth_reached": part,
        "calibrated_on": len(calibration),
    }  # fmt: skip
    print(summary, settings)
    results = {"summary": summary, "errors": found, "scaling_estimated": scaling()}
    print(record("training_simulator", seed=0, settings=settings, results=results))


if __name__ == "__main__":
    main()
