"""What the scheduler's simulation predicts, compared with the server at three loads.

The simulation runs the production policy, in as many workers as the server has. Batch latencies are calibrated on this
machine by the code that a worker uses, times the slowdown that the server reports; the event loop takes as much CPU
time per request as the server's processes did besides ranking. The remaining latency (sockets, wake-ups, the other
processes) is added percentile by percentile. All three are measured at separate loads, none of them predicted, and
interpolated between the two around a predicted load. Only recommendations are sent, at the simulated arrival times.
Without answers there is no latency: None, here as everywhere.

It also simulates what one machine cannot measure: many workers, with arrivals following the ratings of ml-1m in its
busiest hours (needs LANNER_DATA; only the 39 % with known times are used); and the same overload with a fixed window
for batches, as most servers schedule them.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._serving_arrivals import like_timestamps, poisson
from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import Load, Outcome, send
from benchmarks._serving_servers import DEADLINE_MS, Launcher, Running, lanner
from benchmarks._serving_simulation import Loop, Outcomes, Policy, Service, fixed_window, log_normal, simulate
from benchmarks._serving_work import CANDIDATES
from lanner.inference.ranker import Query
from lanner.serving.calibration import calibration_histories, measure_profile
from lanner.serving.deployment import Deployment, ModelConfig
from lanner.serving.scheduler import LatencyProfile, Scheduler, VariantId
from lanner.serving.store import open_store
from lanner.serving.thread_limits import thread_environment

_LOADS = (0.3, 0.6, 0.9)
"""Relative to the saturation."""
_CALIBRATING = (0.15, 0.45, 0.75, 1.05)
"""Loads at which the simulation's unknowns are measured."""
_SLOWNESS = re.compile(r'^lanner_batch_slowness\{variant="([^"]+)"\} (\S+)$', re.MULTILINE)
_READING = 0.6
"""Share of the loop's time for a request that is spent before it is scheduled."""
_PERCENTILES = np.linspace(0, 100, 1001)
_FEWEST = 300
"""Minimum requests per load, however low the measured saturation."""
_SEED = 7
_MANY = (1, 4, 16, 64, 256)
_MANY_LOADS = (0.7, 1.5)
"""Relative to the capacity of all workers with the best variant."""
_ARRIVALS_PER_S = 3_333
"""Arrivals of each simulation of many workers per second of measured load: 100,000 in the full form."""
_OVERLOAD = 3.0


@dataclass(frozen=True)
class Calibrated:
    """The calibration of the benchmark's bundle: batch latencies, and the variants, personal ones best first."""

    profile: LatencyProfile
    variants: tuple[VariantId, ...]
    fallback: VariantId

    def scheduler(self) -> Scheduler:
        """As in a worker, with its own corrections."""
        return Scheduler(LatencyProfile(self.profile.measured), self.variants, None, self.fallback)

    def service(self, slowness: Mapping[str, float]) -> Service:
        """Batch latencies as calibrated, times each variant's slowdown."""
        alone = log_normal(LatencyProfile(self.profile.measured))

        def seconds(name: VariantId, size: int, random: np.random.Generator) -> float:
            return alone(name, size, random) * slowness.get(name.variant, 1.0)

        return seconds


def calibrated(bundle: Path) -> Calibrated:
    """With the code a worker uses to calibrate itself, in a separate process with the same thread limits."""
    command = [sys.executable, "-m", "benchmarks._serving_simulator", str(bundle)]
    environment = os.environ | thread_environment()
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    measured = {
        VariantId(backend, variant): {int(size): (p50, p99) for size, (p50, p99) in times.items()}
        for backend, variant, times in json.loads(printed)
    }
    *personal, fallback = measured
    return Calibrated(LatencyProfile(measured), tuple(personal), fallback)


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """Measured and predicted, by load."""
    model, seconds = calibrated(launcher.work.bundle), lengths.simulated_s
    whole = max(saturation, _FEWEST / (_CALIBRATING[0] * seconds))
    with launcher.running(lanner()) as server:
        workers = server.workers()
        asked = {share: _asked(launcher, server, share * whole, seconds) for share in sorted((*_CALIBRATING, *_LOADS))}
    names = [one.variant for one in (*model.variants, model.fallback)]
    loop_s = [_loop_s(model, workers, asked[one], one * whole, seconds) for one in _CALIBRATING]
    simulated: dict[float, NDArray[np.float64]] = {}
    for share in asked:
        slower = {one: _between(share, [asked[at].slowness.get(one, 1.0) for at in _CALIBRATING]) for one in names}
        outcomes = _simulated(model, workers, slower, _between(share, loop_s), share * whole, seconds)
        latency_ms = 1e3 * (outcomes.ends - outcomes.arrivals)
        simulated[share] = latency_ms[~np.isnan(latency_ms)]
    missing = [Missing.of(asked[one].answered_ms, simulated[one]) for one in _CALIBRATING]
    rows = {
        share: {
            "rate_per_s": share * whole,
            "measured": one.outcome.figures(seconds, DEADLINE_MS / 1e3),
            "predicted": predicted(simulated[share], Missing.between(share, missing), seconds),
            "loop_us": 1e6 * _between(share, loop_s),
            "slowness": one.slowness,
        }
        for share, one in asked.items()
    }
    return {
        "workers": workers,
        "missing_ms": [{f"p{place}": float(one.ms[10 * place]) for place in (50, 90, 99)} for one in missing],
        "profile": {one.variant: times for one, times in model.profile.measured.items()},
        "calibrating": [rows[share] for share in _CALIBRATING],
        "loads": [rows[share] for share in _LOADS],
        "many_workers": many_workers(model, round(_ARRIVALS_PER_S * seconds), Loop(*_split(loop_s[-1]))),
        "overload": overloaded(model, workers, Loop(*_split(loop_s[-1])), _OVERLOAD * whole, seconds),
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The largest relative error of p99 and goodput at any load with answers in time; and the simulated figures of an
    overload."""
    names = ("p99_ms", "goodput_per_s")
    pairs = [(row["predicted"][name], row["measured"][name]) for row in found["loads"] for name in names]
    errors = [abs(guess / truth - 1) for guess, truth in pairs if guess is not None and truth]
    figures = {"simulator_error": max(errors)} if errors else {}
    if "overload" in found:
        ours, fixed = (found["overload"][name]["goodput_per_s"] for name in ("scheduler", "fixed_window"))
        figures["simulated_overload_over_fixed_window"] = ours / max(fixed, 1.0)
    return figures


def overloaded(model: Calibrated, workers: int, loop: Loop, rate: float, seconds: float) -> dict[str, Any]:
    """Goodput at one rate with the scheduler, with its best variant alone, and with a fixed window."""
    arrivals, (best, *_) = poisson([(rate, seconds)], _SEED), model.variants
    window = min(16, model.profile.curve(best).largest)
    policies: dict[str, Callable[[], Policy]] = {
        "scheduler": model.scheduler,
        "best_alone": lambda: Scheduler(LatencyProfile(model.profile.measured), [best]),
        "fixed_window": lambda: fixed_window(model.profile, best, batch=window),
    }
    service, found = log_normal(model.profile), {}
    for name, make in policies.items():
        policies_of_workers = [make() for _ in range(workers)]
        report = simulate(policies_of_workers, arrivals, DEADLINE_MS / 1e3, service, _SEED, loop).report()
        found[name] = {"goodput_per_s": report.goodput_per_s, "p99_ms": report.p99_ms}
    return {"rate_per_s": rate, **found}


def many_workers(model: Calibrated, number: int, loop: Loop) -> dict[str, Any]:
    """Predictions by number of workers and load, with the given number of arrivals each; or why there are none."""
    file = Path(os.environ.get("LANNER_DATA", "")) / "ml-1m" / "ratings.parquet"
    if not file.is_file():
        return {"skipped": "no ml-1m; set LANNER_DATA to the folder that holds the datasets"}
    known = pl.read_parquet(file, columns=["timestamp"])["timestamp"].drop_nulls().sort().to_numpy()
    busiest = int(np.argmin(known[number:] - known[:-number]))
    pattern = known[busiest : busiest + number]
    capacity = 1 / (model.profile.curve(model.variants[0]).mean_s(1) + loop.read_s + loop.write_s)
    rows = [
        _of_many(model, workers, share, loop, like_timestamps(pattern, share * capacity * workers))
        for workers in _MANY
        for share in _MANY_LOADS
    ]
    return {"capacity_per_s": capacity, "pattern_h": float(np.ptp(pattern)) / 3600, "rows": rows}


def _of_many(
    model: Calibrated, workers: int, share: float, loop: Loop, arrivals: NDArray[np.float64]
) -> dict[str, Any]:
    schedulers, service = [model.scheduler() for _ in range(workers)], log_normal(model.profile)
    report = simulate(schedulers, arrivals, DEADLINE_MS / 1e3, service, _SEED, loop).report()
    return {
        "workers": workers,
        "load": share,
        "simulated_s": float(arrivals[-1]),
        "goodput_share": report.in_time / report.offered,
        "p99_ms": report.p99_ms,
        "best_share": report.variant_shares.get(model.variants[0].variant, 0.0),
        "personal_share": 1 - report.variant_shares.get(model.fallback.variant, 0.0),
        "late": report.late,
    }


@dataclass(frozen=True)
class _Asked:
    """The result of a load. cpu_s: of all the server's processes per request. slowness: see ``State``."""

    outcome: Outcome
    cpu_s: float
    slowness: dict[str, float]

    @property
    def answered_ms(self) -> NDArray[np.float64]:
        return 1e3 * self.outcome.latency_s[self.outcome.answered]


def _asked(launcher: Launcher, server: Running, rate: float, seconds: float) -> _Asked:
    before = _cpu_s(server)
    load = Load(server.port, [(rate, seconds)], str(launcher.work.requests), _SEED, events=0, new_items=0)
    outcome = send(load)
    return _Asked(outcome, (_cpu_s(server) - before) / len(outcome.due_s), _slowness(server))


def _slowness(server: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
        return {name: float(ratio) for name, ratio in _SLOWNESS.findall(reply.read().decode())}


def _cpu_s(server: Running) -> float:
    return float(sum(sum(one.cpu_times()[:2]) for one in server.family()))


def _loop_s(model: Calibrated, workers: int, asked: _Asked, rate: float, seconds: float) -> float:
    """The loops' time per request besides ranking: the CPU time minus the simulated ranking.

    The variants chosen depend on it, and the ranking time on them: a few iterations settle both.
    """
    loop_s = asked.cpu_s / 2
    for _ in range(8):
        outcomes = _simulated(model, workers, {}, loop_s, rate, seconds)
        ranked_s = outcomes.ranking_s / max(1, len(outcomes.arrivals))
        loop_s = (loop_s + max(asked.cpu_s - ranked_s, 0.05 * asked.cpu_s)) / 2
    return loop_s


def _split(loop_s: float) -> tuple[float, float]:
    """Before and after a request is ranked."""
    return _READING * loop_s, (1 - _READING) * loop_s


def _simulated(
    model: Calibrated, workers: int, slowness: Mapping[str, float], loop_s: float, rate: float, seconds: float
) -> Outcomes:
    """The policies get the calibrated values and learn the rest."""
    schedulers, arrivals = [model.scheduler() for _ in range(workers)], poisson([(rate, seconds)], _SEED)
    service = model.service(slowness)
    return simulate(schedulers, arrivals, DEADLINE_MS / 1e3, service, _SEED, Loop(*_split(loop_s)))


def _between(share: float, known: Sequence[float]) -> float:
    """At a load, interpolated from the values at each of ``_CALIBRATING``."""
    return float(np.interp(share, _CALIBRATING, known))


@dataclass(frozen=True)
class Missing:
    """What the simulated latencies lack. ms: by percentile, see ``_PERCENTILES``. least_ms: the lowest measured."""

    ms: NDArray[np.float64]
    least_ms: float

    @classmethod
    def of(cls, measured_ms: NDArray[np.float64], simulated_ms: NDArray[np.float64]) -> "Missing":
        """Empty if nothing was answered: it is not known."""
        if not len(measured_ms) or not len(simulated_ms):
            return cls(np.zeros(len(_PERCENTILES)), 0.0)
        measured, simulated = (np.percentile(one, _PERCENTILES) for one in (measured_ms, simulated_ms))
        return cls(measured - simulated, float(measured[0]))

    @classmethod
    def between(cls, share: float, known: Sequence["Missing"]) -> "Missing":
        """At a load, interpolated from the values at each of ``_CALIBRATING``."""
        ms = [_between(share, column.tolist()) for column in np.transpose([one.ms for one in known])]
        return cls(np.array(ms), _between(share, [one.least_ms for one in known]))


def predicted(simulated_ms: NDArray[np.float64], missing: Missing, seconds: float) -> dict[str, float | None]:
    """For a load of the given seconds; no prediction is faster than the fastest measured answer."""
    if not len(simulated_ms):
        return {"p50_ms": None, "p99_ms": None, "goodput_per_s": 0.0}
    places = np.argsort(np.argsort(simulated_ms)) / max(1, len(simulated_ms) - 1)
    latency_ms = np.maximum(simulated_ms + np.interp(100 * places, _PERCENTILES, missing.ms), missing.least_ms)
    p50, p99 = np.percentile(latency_ms, (50, 99))
    in_time = np.count_nonzero(latency_ms <= DEADLINE_MS)
    return {"p50_ms": float(p50), "p99_ms": float(p99), "goodput_per_s": float(in_time / seconds)}


def _calibrate(bundle: Path) -> None:
    """Print the batch latencies of a bundle's variants, best first, as ``Deployment.warm_up`` measures them."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "events.db"))
        deployment = Deployment.open(bundle, store, ModelConfig(candidates=CANDIDATES))
        rankers, histories = deployment.rankers, calibration_histories(deployment.dataset)
        names = [VariantId("numpy", name) for name in rankers]
        queries = [Query(rows, seen=rows) for rows in histories]
        profile = measure_profile(lambda name, batch: rankers[name.variant].rank(batch), names, queries)
        print(json.dumps([[*name, times] for name, times in profile.measured.items()]))
        deployment.close()
        store.close()


if __name__ == "__main__":
    _calibrate(Path(sys.argv[1]))
