"""Figures 1 and 2: how much each server answers in time, and how quickly at half of Lanner's saturation.

Goodput counts recommendations answered within the deadline; events and new items are sent beside them and reported
apart. A rate is raised by half until goodput no longer grows, then rates around the best one are tried. A peer is
searched with one worker process and with two on the first catalogue, and measured with whichever does more there.
Servers run one after another.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import KINDS, RECOMMEND, Load, Outcome, send
from benchmarks._serving_servers import (
    DEADLINE_MS,
    PEERS,
    RAW,
    WORKERS,
    Contender,
    Launcher,
    NotStartedError,
    Running,
    lanner,
)

_FIRST_RATE = 100.0
_STEP, _GROWTH = 1.5, 1.03
_WARM_UP_S = 1.0
"""Before each measurement, at its rate; not counted."""


def measure(launcher: Launcher, lengths: Lengths, smaller: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every server on one catalogue, Lanner first: the rate of the latency figure is half of what it saturates at.

    smaller: what was found on a smaller catalogue, whose numbers of workers are taken.
    """
    found: dict[str, Any] = {}
    for contender in (lanner(), *PEERS.values(), RAW):
        half = found.get("lanner", {}).get("goodput_per_s", 0.0) / 2
        try:
            counts = _counts(contender, (smaller or {}).get(contender.name, {}))
            found[contender.name] = _best(launcher, contender, counts, lengths, half)
        except NotStartedError as error:
            found[contender.name] = {"error": str(error)}
        print(launcher.work.items, contender.name, shown(found[contender.name]), flush=True)
    return found


def _counts(contender: Contender, before: dict[str, Any]) -> tuple[str, ...]:
    """Numbers of worker processes to try."""
    return (str(before["workers"]),) if "workers" in before else WORKERS.get(contender.name, ("1", "2"))


def _best(
    launcher: Launcher, contender: Contender, counts: Sequence[str], lengths: Lengths, half: float
) -> dict[str, Any]:
    """The better of a contender's settings."""
    if contender.name == "lanner":
        return _measured(launcher, contender, lengths, half)
    tried = [
        _measured(launcher, contender.with_options(workers), lengths, half) | {"workers": int(workers)}
        for workers in counts
    ]
    best = max(tried, key=lambda one: one["goodput_per_s"])
    return best | {"tried": [{key: one[key] for key in ("workers", "goodput_per_s")} for one in tried]}


def _measured(launcher: Launcher, contender: Contender, lengths: Lengths, half: float) -> dict[str, Any]:
    """half: of what Lanner saturates at; 0: it is not known, so half of this one's own."""
    with launcher.running(contender) as server:
        found = saturate(server, launcher, lengths)
        rate = half or found["goodput_per_s"] / 2
        for name, phases in (("at_half_of_lanner", [(rate, lengths.steady_s)]), ("in_bursts", _bursts(rate, lengths))):
            found[name] = figures(sent(server, launcher, phases), lengths.steady_s)
        return found | {"memory_mib": server.memory_mib(), "ready_s": server.ready_s}


def saturate(server: Running, launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """The most that a server answers in time, at which offered rate, and the most that it answers at all.

    Of a dozen short probes the best is also the luckiest: its rate is asked once more, for longer, and that counts.
    """
    steps: dict[float, dict[str, Any]] = {}

    def probe(rate: float) -> float:
        outcome = sent(server, launcher, [(rate, lengths.probe_s)])
        steps[rate] = outcome.of_kind(RECOMMEND).figures(lengths.probe_s, DEADLINE_MS / 1e3)
        return float(steps[rate]["goodput_per_s"])

    best, rate, failures = probe(_FIRST_RATE), _FIRST_RATE, 0
    while failures < 2:
        rate *= _STEP
        goodput = probe(rate)
        failures = 0 if goodput > _GROWTH * best else failures + 1
        best = max(best, goodput)
    for _ in range(lengths.refinements):
        probe(_between(steps))
    rate = _best_rate(steps)
    outcome = sent(server, launcher, [(rate, lengths.steady_s)])
    confirmed = outcome.of_kind(RECOMMEND).figures(lengths.steady_s, DEADLINE_MS / 1e3)
    return {
        "goodput_per_s": confirmed["goodput_per_s"],
        "at_rate_per_s": rate,
        "confirmed": confirmed,
        "throughput_per_s": max(step["answered_per_s"] for step in steps.values()),
        "generator_cpu_us_per_request": confirmed["generator_cpu_us_per_request"],
        "steps": [{"rate_per_s": rate, **steps[rate]} for rate in sorted(steps)],
    }


def sent(server: Running, launcher: Launcher, phases: Sequence[tuple[float, float]]) -> Outcome:
    """What came of a load once its first rate had run for a moment."""
    warmed = [(phases[0][0], _WARM_UP_S), *phases]
    load = Load(server.port, warmed, str(launcher.work.requests), 1, server.contender.addresses)
    server.settle()
    return send(load).within(_WARM_UP_S, _WARM_UP_S + sum(seconds for _, seconds in phases))


def _bursts(rate: float, lengths: Lengths) -> list[tuple[float, float]]:
    """The same number of requests, but every fourth half second brings five times what the others do."""
    quiet, burst = (1.5, 0.5 * rate), (0.5, 2.5 * rate)
    number = max(1, round(lengths.steady_s / (quiet[0] + burst[0])))
    return [(per_s, seconds) for seconds, per_s in [quiet, burst] * number]


def figures(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """By kind of request."""
    return {name: outcome.of_kind(kind).figures(seconds, DEADLINE_MS / 1e3) for kind, name in enumerate(KINDS)}


def shown(row: dict[str, Any]) -> str:
    """A line for whoever watches."""
    if "error" in row:
        return str(row["error"])
    p99 = row["at_half_of_lanner"]["recommend"]["p99_ms"]
    late = "none answered" if p99 is None else f"p99 {p99:.1f} ms"
    return (
        f"goodput {row['goodput_per_s']:.0f}/s, throughput {row['throughput_per_s']:.0f}/s, at half of Lanner: {late}"
    )


def summary(catalogues: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The worst of the catalogues. The best peer by goodput is another than FastAPI; by latency it may be FastAPI."""
    ratios = [_ratios(rows) for rows in catalogues.values() if "error" not in rows["lanner"]]
    worst = {"goodput_over_best_peer": min, "goodput_over_fastapi": min, "personal_goodput_over_fastapi": min}
    worst |= {"p99_over_best_peer": max, "throughput_over_raw_asgi": min}
    known = {name: [one[name] for one in ratios if name in one] for name in worst}
    return {name: float(choose(known[name])) for name, choose in worst.items() if known[name]}


def _ratios(rows: dict[str, Any]) -> dict[str, float]:
    ours, started = rows["lanner"], {name: row for name, row in rows.items() if "error" not in row}
    peers = {name: row for name, row in started.items() if name in PEERS}
    ratios: dict[str, float] = {}
    others = [row["goodput_per_s"] for name, row in peers.items() if name != "fastapi"]
    if others:
        ratios["goodput_over_best_peer"] = ours["goodput_per_s"] / max(*others, 1e-9)
    if "fastapi" in peers:
        ratios["goodput_over_fastapi"] = ours["goodput_per_s"] / peers["fastapi"]["goodput_per_s"]
        ratios["personal_goodput_over_fastapi"] = _personal(ours) / peers["fastapi"]["goodput_per_s"]
    quickest = [p99 for row in peers.values() if (p99 := row["at_half_of_lanner"]["recommend"]["p99_ms"]) is not None]
    if quickest:
        ratios["p99_over_best_peer"] = ours["at_half_of_lanner"]["recommend"]["p99_ms"] / min(quickest)
    if RAW.name in started:
        ratios["throughput_over_raw_asgi"] = ours["throughput_per_s"] / started[RAW.name]["throughput_per_s"]
    return ratios


def _personal(row: dict[str, Any]) -> float:
    """The most answers in time that are not the one list for everybody."""
    return max(float(step["goodput_per_s"]) * (1 - step["answered_by"].get("popularity", 0.0)) for step in row["steps"])


def _best_rate(steps: dict[float, dict[str, Any]]) -> float:
    return max(steps, key=lambda rate: float(steps[rate]["goodput_per_s"]))


def _between(steps: dict[float, dict[str, Any]]) -> float:
    """Half way, on a scale of ratios, from the best rate to the better of its neighbours."""
    rates = sorted(steps)
    place = rates.index(_best_rate(steps))
    neighbours = [rates[n] for n in (place - 1, place + 1) if 0 <= n < len(rates)]
    other = max(neighbours, key=lambda rate: float(steps[rate]["goodput_per_s"]))
    return float((rates[place] * other) ** 0.5)
