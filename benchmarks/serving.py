"""Serving under load: goodput, latency, overload, crashes, memory growth and abuse, compared with other servers.

``python -m benchmarks.serving`` writes ``serving.json``: ``results[part]`` and ``results.summary``. Everything runs
on the cores of one machine, including the load generator: its own cost is in every row.

The workload, the same for all: a request is a history of 50 items, answered with the ten best of 100,000 or 1,000,000
by a FAISS index and an MLP head over 200 candidates; in addition, 10 % of the traffic are events and 1 % texts of new
items (``_serving_work.py``: the catalogue is simulated). Open loop, Poisson arrivals, latencies from the intended send
time (``_serving_load.py``). Peers wrap the same index, head and encoder; they store no events and keep no new items,
which favours them (``_serving_peers/``). They have one variant. Lanner's full variant is searched as theirs is; those
that answer under load rank half as many candidates and search less thoroughly, and a row's ``answered_by`` has their
shares. The deadline is 20 ms.

Parts, and their figures in ``results.summary``:

- saturation (figures for 1,000,000 items have the suffix ``_1m``): personal_goodput_over_fastapi,
  personal_goodput_over_best_peer, personal_goodput_over_raw_asgi, personal_share, full_share (the full model's share of
  all answers), light_load_p50_over_fastapi, light_load_p99_over_p50, p99_over_best_peer, ready_s;
- overload: overload_goodput_kept, overload_personal_kept;
- simulator: simulator_error, simulated_overload_over_fixed_window (no server has a fixed window: it is simulated);
- kills: kills, acknowledged_events_lost, restart_s; soak: soak_memory_growth;
- abuse: abuse_p99_ratio, abuse_memory_mib, schema_server_errors, malformed_5xx.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import (
    _record,
    _serving_abuse,
    _serving_kills,
    _serving_overload,
    _serving_saturation,
    _serving_simulator,
    _serving_soak,
)
from benchmarks._clustered import HISTORY
from benchmarks._serving_lengths import SHORT, Lengths
from benchmarks._serving_load import Load
from benchmarks._serving_servers import DEADLINE_MS, LANNER, PEERS, Launcher, lanner
from benchmarks._serving_work import CANDIDATES, SEED, K, prepared

PARTS = {
    "saturation": _serving_saturation,
    "overload": _serving_overload,
    "simulator": _serving_simulator,
    "kills": _serving_kills,
    "soak": _serving_soak,
    "abuse": _serving_abuse,
}
_OF_SATURATION = ("overload", "simulator", "soak")
"""Parts whose loads are multiples of Lanner's saturation."""
_PINS = Path(__file__).parent / "_serving_peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*PARTS, "summary"), help="measure one part (or none), keep the others")
    parser.add_argument("--short", action="store_true", help="a few minutes on a small catalogue; nothing is recorded")
    parser.add_argument("--items", type=int, help="one catalogue of this size instead of those of the figures")
    parser.add_argument(
        "--beside",
        nargs="+",
        choices=_serving_saturation.OTHERS,
        default=_serving_saturation.OTHERS,
        help="servers that saturation measures beside Lanner; the figures of the best peer need all of them",
    )
    parser.add_argument("--lanner", default=LANNER, help="how Lanner is started, with {bundle}, {port} and {store}")
    options = parser.parse_args()
    lengths = SHORT if options.short else Lengths()
    if options.items:
        lengths = Lengths(**{**asdict(lengths), "catalogues": (options.items,)})
    earlier = _earlier() if options.only and not options.short else {}
    chosen = tuple(PARTS) if options.only is None else tuple(part for part in PARTS if part == options.only)
    results = measure(lengths, chosen, options.lanner, earlier, options.beside)
    if options.short:
        print(json.dumps(results["summary"], indent=1))
        return
    print(_record.record("serving", seed=SEED, settings=_settings(lengths), results=results))


def measure(
    lengths: Lengths,
    parts: tuple[str, ...],
    lanner_command: str = LANNER,
    earlier: dict[str, Any] | None = None,
    beside: Sequence[str] = _serving_saturation.OTHERS,
) -> dict[str, Any]:
    """Measure some parts; the others are kept from ``earlier``. All but the first run on the first catalogue."""
    results = dict(earlier or {})
    first = Launcher(prepared(lengths.catalogues[0]), lanner_command)
    for part in parts:
        if part == "saturation":
            results[part] = results.get(part, {})
            usual, *_ = Lengths().catalogues
            smaller: dict[str, Any] = results[part].get(str(usual), {}) if usual < lengths.catalogues[0] else {}
            for items in lengths.catalogues:
                launcher = Launcher(prepared(items), lanner_command)
                smaller = results[part][str(items)] = _serving_saturation.measure(launcher, lengths, smaller, beside)
        elif part in _OF_SATURATION:
            results[part] = PARTS[part].measure(first, lengths, _saturation(results, first, lengths))
        else:
            results[part] = PARTS[part].measure(first, lengths)
        results[part]["commit"] = _record._commit()
        print(part, "measured", flush=True)
    results["summary"] = _summary(results)
    return results


def _saturation(results: dict[str, Any], launcher: Launcher, lengths: Lengths) -> float:
    """Answers a second in time, of any kind, at the rate with most personal ones: as recorded, else measured now."""
    row = results.get("saturation", {}).get(str(launcher.work.items), {}).get("lanner", {})
    if "confirmed" not in row:
        with launcher.running(lanner()) as server:
            row = _serving_saturation.saturate(server, launcher, lengths)
    return float(row["confirmed"]["goodput_per_s"])


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    """The figures by name, of the parts that were measured."""
    found: dict[str, Any] = {}
    for part, module in PARTS.items():
        if part in results:
            measured = {name: value for name, value in results[part].items() if name != "commit"}
            found |= module.summary(measured)
    return found


def _settings(lengths: Lengths) -> dict[str, Any]:
    pins = {name: (_PINS / f"{name}.txt").read_text().splitlines() for name in (*PEERS, "raw_asgi")}
    return {
        **asdict(lengths),
        "deadline_ms": DEADLINE_MS,
        "history": HISTORY,
        "candidates": CANDIDATES,
        "k": K,
        "events": Load.events,
        "new_items": Load.new_items,
        "connections": Load.connections,
        "generator": "open loop, Poisson and bursts, one process on the same cores",
        "peer_versions": pins,
    }


def _earlier() -> dict[str, Any]:
    path = _record.RESULTS / "serving.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


if __name__ == "__main__":
    main()
