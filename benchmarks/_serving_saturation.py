"""Goodput of each server, and its latency at half of Lanner's saturation.

Goodput counts personal recommendations answered within the deadline: any answer except the list of popular items that
is the same for all users, for Lanner and for peers that fall back to it. Events and new items are sent alongside and
reported separately. The rate is raised by half until goodput no longer grows, then rates around the best one are tried.
A peer is searched with each of its settings on the first catalogue, and measured with its best one. Servers run one
after another; FastAPI, the reference at light load, right after Lanner.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import KINDS, RECOMMEND, Load, Outcome, send
from benchmarks._serving_servers import (
    DEADLINE_MS,
    PEERS,
    RAW,
    SETTINGS,
    Contender,
    Launcher,
    NotStartedError,
    Running,
    lanner,
)

OTHERS = (*PEERS, RAW.name)
_FIRST_RATE = 100.0
LIGHT_RATE = 100.0
"""Of the light-load figure: a worker is mostly idle."""
_STEP, _GROWTH = 1.5, 1.03
_WARM_UP_S = 1.0
"""Warm-up before each measurement, at its rate; not counted."""


def measure(
    launcher: Launcher, lengths: Lengths, smaller: dict[str, Any] | None = None, others: Sequence[str] = OTHERS
) -> dict[str, Any]:
    """Every server on one catalogue, Lanner first: latency is measured at half of Lanner's saturation.

    smaller: results on a smaller catalogue, whose numbers of workers are reused.
    others: the names of those measured besides Lanner.
    """
    found: dict[str, Any] = {}
    for contender in (lanner(), *(one for one in (*PEERS.values(), RAW) if one.name in others)):
        half = found.get("lanner", {}).get("goodput_per_s", 0.0) / 2
        try:
            settings = _settings(contender, (smaller or {}).get(contender.name, {}))
            found[contender.name] = _best(launcher, contender, settings, lengths, half)
        except NotStartedError as error:
            found[contender.name] = {"error": str(error)}
        print(launcher.work.items, contender.name, shown(found[contender.name]), flush=True)
    return found


def _settings(contender: Contender, before: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """What to try."""
    return (tuple(before["setting"]),) if "setting" in before else SETTINGS.get(contender.name, (("1",), ("2",)))


def _best(
    launcher: Launcher, contender: Contender, settings: Sequence[Sequence[str]], lengths: Lengths, half: float
) -> dict[str, Any]:
    """The best of a contender's settings."""
    if contender.name == "lanner":
        return _measured(launcher, contender, lengths, half)
    tried = [
        _measured(launcher, contender.with_options(*setting), lengths, half) | {"setting": list(setting)}
        for setting in settings
    ]
    best = max(tried, key=lambda one: float(one["goodput_per_s"]))
    return best | {"tried": [{key: one[key] for key in ("setting", "goodput_per_s")} for one in tried]}


def _measured(launcher: Launcher, contender: Contender, lengths: Lengths, half: float) -> dict[str, Any]:
    """half: of Lanner's saturation; 0: not known, so half of this server's own."""
    with launcher.running(contender) as server:
        found = saturate(server, launcher, lengths)
        rate = half or found["goodput_per_s"] / 2
        steady = [(rate, lengths.steady_s)]
        light = [(LIGHT_RATE, lengths.steady_s)]
        for name, phases in (("at_half_of_lanner", steady), ("in_bursts", _bursts(rate, lengths)), ("light", light)):
            found[name] = figures(sent(server, launcher, phases), lengths.steady_s)
        return found | {"memory_mib": server.memory_mib(), "ready_s": server.ready_s}


def saturate(server: Running, launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """A server's highest goodput, its offered rate, and the most that it answers at all.

    The best of a dozen short probes is also the luckiest: its rate is measured again, for longer, and that counts.
    """
    steps: dict[float, dict[str, Any]] = {}

    def probe(rate: float) -> float:
        outcome = sent(server, launcher, [(rate, lengths.probe_s)])
        steps[rate] = outcome.of_kind(RECOMMEND).figures(lengths.probe_s, DEADLINE_MS / 1e3)
        return float(steps[rate]["personal_goodput_per_s"])

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
        "goodput_per_s": confirmed["personal_goodput_per_s"],
        "personal_share": confirmed["personal_goodput_per_s"] / max(confirmed["goodput_per_s"], 1e-9),
        "at_rate_per_s": rate,
        "confirmed": confirmed,
        "throughput_per_s": max(step["answered_per_s"] for step in steps.values()),
        "generator_cpu_us_per_request": confirmed["generator_cpu_us_per_request"],
        "steps": [{"rate_per_s": rate, **steps[rate]} for rate in sorted(steps)],
    }


def sent(server: Running, launcher: Launcher, phases: Sequence[tuple[float, float]]) -> Outcome:
    """The result of a load after its first rate had run for a moment."""
    warmed = [(phases[0][0], _WARM_UP_S), *phases]
    load = Load(server.port, warmed, str(launcher.work.requests), 1, server.contender.addresses)
    server.settle()
    return send(load).within(_WARM_UP_S, _WARM_UP_S + sum(seconds for _, seconds in phases))


def _bursts(rate: float, lengths: Lengths) -> list[tuple[float, float]]:
    """The same number of requests, but every fourth half second has five times the rate of the others."""
    quiet, burst = (1.5, 0.5 * rate), (0.5, 2.5 * rate)
    number = max(1, round(lengths.steady_s / (quiet[0] + burst[0])))
    return [(per_s, seconds) for seconds, per_s in [quiet, burst] * number]


def figures(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """By kind of request."""
    return {name: outcome.of_kind(kind).figures(seconds, DEADLINE_MS / 1e3) for kind, name in enumerate(KINDS)}


def shown(row: dict[str, Any]) -> str:
    """A progress line."""
    if "error" in row:
        return str(row["error"])
    p99 = row["at_half_of_lanner"]["recommend"]["p99_ms"]
    late = "none answered" if p99 is None else f"p99 {p99:.1f} ms"
    rates = f"personal goodput {row['goodput_per_s']:.0f}/s, throughput {row['throughput_per_s']:.0f}/s"
    return f"{rates}, at half of Lanner: {late}"


def summary(catalogues: dict[str, dict[str, Any]]) -> dict[str, float]:
    """For each catalogue; figures of the larger one have the suffix ``_1m``."""
    found: dict[str, float] = {}
    for items, rows in catalogues.items():
        if "error" not in rows["lanner"]:
            end = "_1m" if int(items) >= 1_000_000 else ""
            found |= {f"{name}{end}": value for name, value in _ratios(rows).items()}
    return found


def _ratios(rows: dict[str, Any]) -> dict[str, float]:
    """The best peer by goodput excludes FastAPI; by latency it may be FastAPI."""
    ours, started = rows["lanner"], {name: row for name, row in rows.items() if "error" not in row}
    peers = {name: row for name, row in started.items() if name in PEERS}
    light = ours["light"]["recommend"]
    ratios = {"personal_share": ours["personal_share"], "light_load_p99_over_p50": light["p99_ms"] / light["p50_ms"]}
    ratios["full_share"] = ours["confirmed"]["answered_by"].get("full", 0.0)
    ratios["ready_s"] = ours["ready_s"]
    others = [row["goodput_per_s"] for name, row in peers.items() if name != "fastapi"]
    all_asked = all(name in rows for name in PEERS)
    if others and all_asked:
        ratios["personal_goodput_over_best_peer"] = ours["goodput_per_s"] / max(*others, 1e-9)
    if "fastapi" in peers:
        fastapi = peers["fastapi"]
        ratios["personal_goodput_over_fastapi"] = ours["goodput_per_s"] / max(fastapi["goodput_per_s"], 1e-9)
        ratios["light_load_p50_over_fastapi"] = light["p50_ms"] / fastapi["light"]["recommend"]["p50_ms"]
    quickest = [p99 for row in peers.values() if (p99 := row["at_half_of_lanner"]["recommend"]["p99_ms"]) is not None]
    if quickest and all_asked:
        ratios["p99_over_best_peer"] = ours["at_half_of_lanner"]["recommend"]["p99_ms"] / min(quickest)
    if RAW.name in started:
        ratios["personal_goodput_over_raw_asgi"] = ours["goodput_per_s"] / max(started[RAW.name]["goodput_per_s"], 1e-9)
    return ratios


def _best_rate(steps: dict[float, dict[str, Any]]) -> float:
    return max(steps, key=lambda rate: float(steps[rate]["personal_goodput_per_s"]))


def _between(steps: dict[float, dict[str, Any]]) -> float:
    """The geometric midpoint between the best rate and the better of its neighbours."""
    rates = sorted(steps)
    place = rates.index(_best_rate(steps))
    neighbours = [rates[n] for n in (place - 1, place + 1) if 0 <= n < len(rates)]
    other = max(neighbours, key=lambda rate: float(steps[rate]["personal_goodput_per_s"]))
    return float((rates[place] * other) ** 0.5)
