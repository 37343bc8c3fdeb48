"""Figure 4: what the scheduler's simulation predicts, against the server at three loads.

The simulation runs the policy that serves, on service times measured on this machine by the code with which the server
measures its own. It knows nothing of HTTP: what a request spends there is taken from one light load, as the difference
of the medians, and added to every prediction. Recommendations alone are sent, on the very arrivals that are simulated.

Besides, what one machine cannot measure: many replicas, each with the measured service times, under requests that
arrive as the ratings of ml-1m did in its busiest hours (needs LANNER_DATA; 39 % of its times are known, and those are
taken). Each goes to the better of two replicas drawn at random.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import Load, send
from benchmarks._serving_servers import DEADLINE_MS, Launcher, lanner
from benchmarks._serving_work import CANDIDATES, HISTORY
from lanner.serving.measuring import measure_profile
from lanner.serving.model import ModelConfig, ServedModel
from lanner.serving.scheduling import LatencyProfile, Policy
from lanner.serving.scheduling.arrivals import like_timestamps, poisson
from lanner.serving.scheduling.simulation import log_normal, simulate

_LOADS = (0.3, 0.6, 0.9)
"""Of the saturation."""
_LIGHT_PER_S = 50.0
_SEED = 7
_REPLICAS = (1, 4, 16, 64, 256)
_REPLICA_LOADS = (0.7, 1.5)
"""Of what all replicas carry at the top rung."""
_ARRIVALS = 100_000
"""Of each simulation: all ten within a minute."""


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """Measured and predicted, by load."""
    profile, variants, backends = _profiled(launcher)
    rates = [_LIGHT_PER_S, *(share * saturation for share in _LOADS)]
    with launcher.running(lanner()) as server:
        measured = [_measured(launcher, server.port, rate, lengths.simulated_s) for rate in rates]
    latencies = [_predicted(profile, variants, backends, rate, lengths.simulated_s) for rate in rates]
    http_ms = float(measured[0]["p50_ms"] - np.nanmedian(latencies[0]))
    rows = [
        {"rate_per_s": rate, "measured": seen, "predicted": _figures(times + http_ms, lengths.simulated_s)}
        for rate, seen, times in zip(rates, measured, latencies, strict=True)
    ]
    replicas = many_replicas(profile, variants, backends)
    return {
        "http_ms": http_ms,
        "profile": profile.to_dict(),
        "light": rows[0],
        "loads": rows[1:],
        "replicas": replicas,
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The largest relative error of p99 and goodput at any load."""
    errors = [
        abs(row["predicted"][name] / row["measured"][name] - 1)
        for row in found["loads"]
        for name in ("p99_ms", "goodput_per_s")
    ]
    return {"simulator_error": max(errors)}


def many_replicas(profile: LatencyProfile, variants: tuple[str, ...], backends: dict[str, int]) -> dict[str, Any]:
    """Predicted by number of replicas and load, or why it is not."""
    file = Path(os.environ.get("LANNER_DATA", "")) / "ml-1m" / "ratings.parquet"
    if not file.is_file():
        return {"skipped": "no ml-1m; set LANNER_DATA to the folder that holds the datasets"}
    known = pl.read_parquet(file, columns=["timestamp"])["timestamp"].drop_nulls().sort().to_numpy()
    busiest = int(np.argmin(known[_ARRIVALS:] - known[:-_ARRIVALS]))
    pattern = known[busiest : busiest + _ARRIVALS]
    curves = [(profile.curve(backend, variants[0]), workers) for backend, workers in backends.items()]
    capacity = sum(workers / curve.mean_s(1) for curve, workers in curves if curve is not None)
    rows = [
        _replicated(profile, variants, backends, number, share, like_timestamps(pattern, share * capacity * number))
        for number in _REPLICAS
        for share in _REPLICA_LOADS
    ]
    return {"capacity_per_s": capacity, "pattern_h": float(np.ptp(pattern)) / 3600, "rows": rows}


def _replicated(
    profile: LatencyProfile,
    variants: tuple[str, ...],
    backends: dict[str, int],
    number: int,
    share: float,
    arrivals: NDArray[np.float64],
) -> dict[str, Any]:
    fresh = [LatencyProfile.from_dict(profile.to_dict()) for _ in range(number)]
    replicas = [Policy(one, variants, backends) for one in fresh]
    workers, balance = number * sum(backends.values()), "two" if number > 1 else "least"
    service = log_normal(LatencyProfile.from_dict(profile.to_dict()))
    report = simulate(replicas, workers, arrivals, DEADLINE_MS / 1e3, service, _SEED, balance).report()
    return {
        "replicas": number,
        "load": share,
        "simulated_s": float(arrivals[-1]),
        "goodput_share": report.in_time / report.offered,
        "p99_ms": report.p99_ms,
        "top_rung_share": report.variant_shares.get(variants[0], 0.0),
        "late": report.late,
    }


def _profiled(launcher: Launcher) -> tuple[LatencyProfile, tuple[str, ...], dict[str, int]]:
    model = ServedModel.open(launcher.work.bundle, ModelConfig(candidates=CANDIDATES))
    model.warm_up()
    profile = measure_profile(model, HISTORY)
    model.close()
    return profile, model.variants, dict.fromkeys(model.backends, 1)


def _measured(launcher: Launcher, port: int, rate: float, seconds: float) -> dict[str, Any]:
    load = Load(port, [(rate, seconds)], str(launcher.work.requests), _SEED, events=0, new_items=0)
    return send(load).figures(seconds, DEADLINE_MS / 1e3)


def _predicted(
    profile: LatencyProfile, variants: tuple[str, ...], backends: dict[str, int], rate: float, seconds: float
) -> Any:
    """Milliseconds of each request in the engine, NaN where it is not answered."""
    fresh = LatencyProfile.from_dict(profile.to_dict())
    arrivals = poisson([(rate, seconds)], _SEED)
    replica = Policy(fresh, variants, backends)
    outcomes = simulate([replica], sum(backends.values()), arrivals, DEADLINE_MS / 1e3, log_normal(fresh), _SEED)
    return 1e3 * (outcomes.ends - outcomes.arrivals)


def _figures(latency_ms: Any, seconds: float) -> dict[str, float]:
    answered = latency_ms[~np.isnan(latency_ms)]
    p50, p99 = np.percentile(answered, (50, 99))
    in_time = np.count_nonzero(answered <= DEADLINE_MS)
    return {"p50_ms": float(p50), "p99_ms": float(p99), "goodput_per_s": in_time / seconds}
