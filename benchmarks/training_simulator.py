"""How well step times are predicted: calibrated on half of ``benchmarks.parallel``'s runs, tested on the other half.

    python -m benchmarks.training_simulator    needs results/parallel.json; writes training_simulator.json

Four figures are calibrated: the fixed seconds of an operation and of an all-reduce, the fraction of a link's bandwidth
that is reached, and its latency. The links of the predictions have the token buckets of the links that were measured:
after a pause, 2 ms of the bandwidth pass at once, and a message's latency is a pause too.
The curves to 1,024 devices are extrapolated: nothing of that size was run.
"""

import itertools
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks._racks import burst_bytes
from benchmarks._record import RESULTS, record
from benchmarks.parallel import CORES, ROWS, SLOW, TABLE, cluster
from lanner.distributed.cluster import Cluster, Device, Link
from lanner.distributed.degrees import Degrees
from lanner.distributed.planner import search
from lanner.distributed.prediction import CostTable, Plan, predict

OVERHEADS = [step / 1000 for step in range(0, 7, 2)]
SUM_OVERHEADS = [step / 1000 for step in range(9)]
REACHED = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7]
LATENCIES = [step / 10_000 for step in range(1, 22, 2)]


def runs() -> list[tuple[str, Cluster, Plan, float]]:
    """Name, cluster, plan and measured seconds of each row of ``parallel.json``."""
    path = RESULTS / "parallel.json"
    if not path.exists():
        sys.exit(f"{path.name} is missing; run python -m benchmarks.parallel first")
    cases = json.loads(path.read_text())["results"]["cases"]
    found = []
    for core, slow in itertools.product(CORES, SLOW):
        rows = cases[f"core {core}, slow {slow:g}"]
        for name, row in rows.items():
            plan = measured_plan(row["settings"])
            found.append((f"{name}, core {core}, slow {slow:g}", cluster(core, slow), plan, row["seconds"]))
    return found


def measured_plan(settings: dict[str, Any]) -> Plan:
    """The plan of a row; today's planner may choose another one."""
    degrees = Degrees.parse(re.sub(r" = .*", "", settings["degrees"]).replace(" × ", ",").replace(" ", "="))
    lists = {name: tuple(settings[name]) for name in ("bounds", "shares")}
    return Plan(**{**settings, **lists, "degrees": degrees})


class ShapedLink(Link):
    """A link behind a token bucket, as ``_racks`` builds it."""

    def seconds(self, size: float, messages: int = 1) -> float:
        """Seconds of a transfer of ``size`` bytes after a pause, in ``messages`` messages.

        While a message waits for its latency, the bucket fills for the next one.
        """
        return max(messages * self.latency, max(0.0, size - burst_bytes(self.bandwidth)) / self.bandwidth)


class ShapedCluster(Cluster):
    """A cluster of shaped links."""

    def link(self, ranks: Sequence[int]) -> Link:
        slowest = super().link(ranks)
        return ShapedLink(slowest.bandwidth, slowest.latency)


def shaped(where: Cluster, part: float, latency: float) -> Cluster:
    """The cluster with shaped links that reach only a fraction of their bandwidth."""

    def reached(link: Link) -> Link:
        return Link(link.bandwidth * part, latency)

    return ShapedCluster(
        where.devices,
        {rack: reached(link) for rack, link in where.inside.items()},
        {racks: reached(link) for racks, link in where.between.items()},
    )


def errors(
    chosen: list[tuple[str, Cluster, Plan, float]], overhead: float, sum_overhead: float, part: float, latency: float
) -> dict[str, float]:
    """Relative errors of predicted steps, by name."""
    table = replace(TABLE, overhead=overhead, sum_overhead=sum_overhead)
    return {
        name: predict(table, shaped(where, part, latency), plan, ROWS).seconds / seconds - 1
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
    grid = itertools.product(OVERHEADS, SUM_OVERHEADS, REACHED, LATENCIES)
    overhead, sum_overhead, part, latency = min(
        grid, key=lambda one: max(abs(error) for error in errors(calibration, *one).values())
    )
    found = errors(tested, overhead, sum_overhead, part, latency)
    summary = {"largest_error": max(map(abs, found.values()))}
    settings = {
        "overhead_s": overhead, "sum_overhead_s": sum_overhead, "bandwidth_reached": part, "latency_s": latency,
        "calibrated_on": len(calibration),
    }  # fmt: skip
    print(summary, settings)
    results = {"summary": summary, "errors": found, "scaling_estimated": scaling()}
    print(record("training_simulator", seed=0, settings=settings, results=results))


if __name__ == "__main__":
    main()
