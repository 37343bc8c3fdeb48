"""Figure 4: what the scheduler's simulation predicts, against the server at three loads.

The simulation runs the policy that serves, on service times measured on this machine by the code with which the server
measures its own, times what the server says that batches take longer, behind a shell that takes as much of its thread's
time for a request as the server's own thread did. What the simulation still lacks of the latencies (sockets, wake-ups)
is added, percentile by percentile. All three are measured at loads apart, none of which is predicted, and taken in
between those to both sides of a predicted one. Recommendations alone are sent, on the very
arrivals that are simulated. Where nothing is answered there is no latency: None, here as everywhere.

Besides, what one machine cannot measure: many replicas, each with the measured service times, under requests that
arrive as the ratings of ml-1m did in its busiest hours (needs LANNER_DATA; 39 % of its times are known, and those are
taken). Each goes to the better of two replicas drawn at random.
"""

import os
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import Load, Outcome, send
from benchmarks._serving_servers import DEADLINE_MS, Launcher, Running, lanner
from benchmarks._serving_work import CANDIDATES, HISTORY
from lanner.serving.measuring import asked_histories, measure_profile
from lanner.serving.model import ModelConfig, ServedModel
from lanner.serving.scheduling import Batch, LatencyProfile, Policy
from lanner.serving.scheduling.arrivals import like_timestamps, poisson
from lanner.serving.scheduling.simulation import Shell, log_normal, simulate

_LOADS = (0.3, 0.6, 0.9)
"""Of the saturation."""
_CALIBRATING = (0.15, 0.45, 0.75, 1.05)
"""Loads from which is taken what the simulation cannot know."""
_SLOWNESS = re.compile(r'^lanner_batch_slowness\{rung="([^"]+)"\} (\S+)$', re.MULTILINE)
_READING = 0.6
"""Of the shell's time for a request, what goes by before it is scheduled."""
_PERCENTILES = np.linspace(0, 100, 1001)
_FEWEST = 300
"""Requests of a load, however little was answered in time while the saturation was looked for."""
_SEED = 7
_REPLICAS = (1, 4, 16, 64, 256)
_REPLICA_LOADS = (0.7, 1.5)
"""Of what all replicas carry at the top rung."""
_ARRIVALS_PER_S = 3_333
"""Arrivals of each simulation of replicas, by the seconds that a load is measured for: 100,000 in the full form."""


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """Measured and predicted, by load."""
    model = _profiled(launcher)
    seconds = lengths.simulated_s
    whole = max(saturation, _FEWEST / (_CALIBRATING[0] * seconds))
    with launcher.running(lanner()) as server:
        asked = {share: _asked(launcher, server, share * whole, seconds) for share in sorted((*_CALIBRATING, *_LOADS))}
    rungs = [f"{variant}/{backend}" for variant in model.variants for backend in model.backends]
    simulated: dict[float, NDArray[np.float64]] = {}
    for share in asked:
        slower = {rung: _between(share, [asked[one].slowness[rung] for one in _CALIBRATING]) for rung in rungs}
        shell_s = _between(share, [asked[one].shell_s for one in _CALIBRATING])
        shell = Shell(_READING * shell_s, (1 - _READING) * shell_s, model.spare, is_alone=True)
        simulated[share] = _simulated(model, slower, shell, share * whole, seconds)
    missing = [Missing.of(asked[one].answered_ms, simulated[one]) for one in _CALIBRATING]
    rows = {
        share: {
            "rate_per_s": share * whole,
            "measured": one.outcome.figures(seconds, DEADLINE_MS / 1e3),
            "predicted": predicted(simulated[share], Missing.between(share, missing), seconds),
            "shell_us": 1e6 * one.shell_s,
            "slowness": one.slowness,
        }
        for share, one in asked.items()
    }
    return {
        "missing_ms": [{f"p{place}": float(one.ms[10 * place]) for place in (50, 90, 99)} for one in missing],
        "profile": model.profile.to_dict(),
        "calibrating": [rows[share] for share in _CALIBRATING],
        "loads": [rows[share] for share in _LOADS],
        "replicas": many_replicas(model, round(_ARRIVALS_PER_S * seconds)),
    }


def _between(share: float, known: Sequence[float]) -> float:
    """At a load, of what is known at each of ``_CALIBRATING``."""
    return float(np.interp(share, _CALIBRATING, known))


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The largest relative error of p99 and goodput at any load; no figure where none was answered in time."""
    names = ("p99_ms", "goodput_per_s")
    pairs = [(row["predicted"][name], row["measured"][name]) for row in found["loads"] for name in names]
    errors = [abs(guess / truth - 1) for guess, truth in pairs if guess is not None and truth]
    return {"simulator_error": max(errors)} if errors else {}


def many_replicas(model: "_Model", number: int) -> dict[str, Any]:
    """Predicted by number of replicas and load, of so many arrivals each; or why it is not."""
    file = Path(os.environ.get("LANNER_DATA", "")) / "ml-1m" / "ratings.parquet"
    if not file.is_file():
        return {"skipped": "no ml-1m; set LANNER_DATA to the folder that holds the datasets"}
    known = pl.read_parquet(file, columns=["timestamp"])["timestamp"].drop_nulls().sort().to_numpy()
    busiest = int(np.argmin(known[number:] - known[:-number]))
    pattern = known[busiest : busiest + number]
    curves = [(model.profile.curve(backend, model.variants[0]), workers) for backend, workers in model.backends.items()]
    capacity = sum(workers / curve.mean_s(1) for curve, workers in curves if curve is not None)
    rows = [
        _replicated(model, replicas, share, like_timestamps(pattern, share * capacity * replicas))
        for replicas in _REPLICAS
        for share in _REPLICA_LOADS
    ]
    return {"capacity_per_s": capacity, "pattern_h": float(np.ptp(pattern)) / 3600, "rows": rows}


def _replicated(model: "_Model", number: int, share: float, arrivals: NDArray[np.float64]) -> dict[str, Any]:
    fresh = [LatencyProfile.from_dict(model.profile.to_dict()) for _ in range(number)]
    replicas = [Policy(one, model.variants, model.backends, sheds=True) for one in fresh]
    workers, balance = number * sum(model.backends.values()), "two" if number > 1 else "least"
    service = log_normal(LatencyProfile.from_dict(model.profile.to_dict()))
    shell = Shell(spare=model.spare, is_alone=True)
    outcomes = simulate(replicas, workers, arrivals, DEADLINE_MS / 1e3, service, _SEED, balance, shell)
    report = outcomes.report()
    return {
        "replicas": number,
        "load": share,
        "simulated_s": float(arrivals[-1]),
        "goodput_share": report.in_time / report.offered,
        "p99_ms": report.p99_ms,
        "top_rung_share": report.variant_shares.get(model.variants[0], 0.0),
        "spare_share": report.variant_shares.get(model.spare, 0.0),
        "late": report.late,
    }


@dataclass(frozen=True)
class _Model:
    profile: LatencyProfile
    variants: tuple[str, ...]
    backends: dict[str, int]
    spare: str


def _profiled(launcher: Launcher) -> _Model:
    model = ServedModel.open(launcher.work.bundle, ModelConfig(candidates=CANDIDATES))
    model.warm_up()
    profile = measure_profile(model.engines, asked_histories(model.dataset, HISTORY))
    model.close()
    spare = model.quickest
    assert spare is not None, "the benchmark's ladder ends with popularity"
    variants = tuple(name for name in model.variants if name != spare[1])
    return _Model(profile, variants, dict.fromkeys(model.backends, 1), spare[1])


@dataclass(frozen=True)
class _Asked:
    """What came of a load. shell_s: what the server's main thread worked for each request. slowness: see ``State``."""

    outcome: Outcome
    shell_s: float
    slowness: dict[str, float]

    @property
    def answered_ms(self) -> NDArray[np.float64]:
        return 1e3 * self.outcome.latency_s[self.outcome.answered]


def _asked(launcher: Launcher, server: Running, rate: float, seconds: float) -> _Asked:
    before = _main_thread_s(server)
    load = Load(server.port, [(rate, seconds)], str(launcher.work.requests), _SEED, events=0, new_items=0)
    outcome = send(load)
    return _Asked(outcome, (_main_thread_s(server) - before) / len(outcome.due_s), _slowness(server))


def _slowness(server: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
        return {rung: float(ratio) for rung, ratio in _SLOWNESS.findall(reply.read().decode())}


def _main_thread_s(server: Running) -> float:
    main = next(thread for thread in server.process.threads() if thread.id == server.process.pid)
    return float(main.user_time + main.system_time)


def _simulated(
    model: _Model, slower: Mapping[str, float], shell: Shell, rate: float, seconds: float
) -> NDArray[np.float64]:
    """Milliseconds of the requests that are answered. The policy is told what was measured and learns the rest."""
    told, alone = (LatencyProfile.from_dict(model.profile.to_dict()) for _ in range(2))
    arrivals, at_best = poisson([(rate, seconds)], _SEED), log_normal(alone)
    replica, workers = Policy(told, model.variants, model.backends, sheds=True), sum(model.backends.values())

    def service(batch: Batch, random: np.random.Generator) -> float:
        return at_best(batch, random) * slower[f"{batch.variant}/{batch.backend}"]

    outcomes = simulate([replica], workers, arrivals, DEADLINE_MS / 1e3, service, _SEED, shell=shell)
    latency_ms = 1e3 * (outcomes.ends - outcomes.arrivals)
    return latency_ms[~np.isnan(latency_ms)]


@dataclass(frozen=True)
class Missing:
    """What the simulation lacks of measured latencies. ms: by percentile, see ``_PERCENTILES``. least_ms: of those."""

    ms: NDArray[np.float64]
    least_ms: float

    @classmethod
    def of(cls, measured_ms: NDArray[np.float64], simulated_ms: NDArray[np.float64]) -> "Missing":
        """Nothing, where nothing was answered: it is not known."""
        if not len(measured_ms) or not len(simulated_ms):
            return cls(np.zeros(len(_PERCENTILES)), 0.0)
        measured, simulated = (np.percentile(one, _PERCENTILES) for one in (measured_ms, simulated_ms))
        return cls(measured - simulated, float(measured[0]))

    @classmethod
    def between(cls, share: float, known: Sequence["Missing"]) -> "Missing":
        """At a load, of what is known at each of ``_CALIBRATING``."""
        ms = [_between(share, column.tolist()) for column in np.transpose([one.ms for one in known])]
        return cls(np.array(ms), _between(share, [one.least_ms for one in known]))


def predicted(simulated_ms: NDArray[np.float64], missing: Missing, seconds: float) -> dict[str, float | None]:
    """Of a load of so many seconds; no answer is predicted to be quicker than any was."""
    if not len(simulated_ms):
        return {"p50_ms": None, "p99_ms": None, "goodput_per_s": 0.0}
    places = np.argsort(np.argsort(simulated_ms)) / max(1, len(simulated_ms) - 1)
    latency_ms = np.maximum(simulated_ms + np.interp(100 * places, _PERCENTILES, missing.ms), missing.least_ms)
    p50, p99 = np.percentile(latency_ms, (50, 99))
    in_time = np.count_nonzero(latency_ms <= DEADLINE_MS)
    return {"p50_ms": float(p50), "p99_ms": float(p99), "goodput_per_s": float(in_time / seconds)}
