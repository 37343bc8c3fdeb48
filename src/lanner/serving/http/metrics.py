"""Figures for Prometheus. Labels are routes of the table and words of the bundle, never what a caller wrote."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from lanner.errors import ConfigError, MissingExtraError
from lanner.serving.http.contract import State
from lanner.serving.messages import Served

SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the latency's buckets."""
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"[a-z_]+_(\d+)\.db")
_MOST_KINDS_OF_ANSWERS = 64


def share_between_workers(folder: Path) -> None:
    """Let the workers that this process will start add their figures up in ``folder``, emptied of older ones.

    Called before the first worker and before anything imports prometheus_client, which reads the setting once.

    Raises:
        ConfigError: the folder cannot be made, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot hold the workers' figures ({error.strerror})") from None
    if strange := [one.name for one in present if not _FILE.fullmatch(one.name)]:
        raise ConfigError(f"{folder}: holds '{strange[0]}'; give a folder for the workers' figures alone")
    for one in present:
        one.unlink()
    os.environ[_FOLDER] = str(folder)


class Metrics:
    """One worker's figures, and the text that joins those of all workers."""

    def __init__(self) -> None:
        """Raises MissingExtraError where prometheus_client is not installed."""
        try:
            import prometheus_client
        except ImportError:
            raise MissingExtraError("prometheus-client", "serving", "the server") from None
        self._library = prometheus_client
        self._registry = one = prometheus_client.CollectorRegistry()
        add, gauge = prometheus_client.Counter, prometheus_client.Gauge
        self._requests = add("lanner_requests", "Requests.", ["method", "route", "status"], registry=one)
        self._seconds = prometheus_client.Histogram(
            "lanner_request_seconds",
            "From the head of a request to its reply.",
            ["route"],
            registry=one,
            buckets=SECONDS,
        )
        self._answers = add(
            "lanner_answers", "Answers by what made them.", ["variant", "backend", "cached"], registry=one
        )
        self._in_flight = gauge("lanner_in_flight", "Requests at work.", registry=one, multiprocess_mode="livesum")
        self._queued = gauge("lanner_queue_depth", "Requests that wait.", registry=one, multiprocess_mode="livesum")
        self._held = gauge("lanner_held_bytes", "Memory.", ["what"], registry=one, multiprocess_mode="livesum")
        self._entries = gauge("lanner_held_entries", "In memory.", ["what"], registry=one, multiprocess_mode="livesum")
        self._store = gauge("lanner_store", "The store.", ["what"], registry=one, multiprocess_mode="livemax")
        self._trials = gauge("lanner_trials", "Trials.", ["what"], registry=one, multiprocess_mode="livemax")
        self._replicas = gauge("lanner_replicas", "Replicas.", ["what"], registry=one, multiprocess_mode="livemax")
        self._beside = gauge(
            "lanner_beside", "Work beside the requests.", ["what"], registry=one, multiprocess_mode="livemax"
        )
        self._slowness = gauge(
            "lanner_batch_slowness",
            "Times as long as when it was opened.",
            ["rung"],
            registry=one,
            multiprocess_mode="livemax",
        )
        self._kinds: dict[tuple[str, str, bool], Any] = {}

    def route(self, method: str, path: str) -> "RouteMetrics":
        """Figures of one route, bound once."""
        return RouteMetrics(self._requests, self._seconds.labels(path), method, path)

    def answered(self, served: Served) -> None:
        """Count an answer by rung and backend."""
        kind = (served.variant, served.backend, served.cached)
        child = self._kinds.get(kind)
        if child is None:
            if len(self._kinds) >= _MOST_KINDS_OF_ANSWERS:
                return
            child = self._kinds[kind] = self._answers.labels(kind[0], kind[1], str(kind[2]).lower())
        child.inc()

    def observe(self, state: State, in_flight: int) -> None:
        """Set what is held now."""
        self._in_flight.set(in_flight)
        self._queued.set(state.queue_depth)
        for name, value in state.held_bytes.items():
            self._held.labels(name).set(value)
        for name, value in state.held_entries.items():
            self._entries.labels(name).set(value)
        for name, value in state.store.items():
            self._store.labels(name).set(value)
        for name, value in state.trials.items():
            self._trials.labels(name).set(value)
        for name, value in state.replicas.items():
            self._replicas.labels(name).set(value)
        for name, value in state.beside.items():
            self._beside.labels(name).set(value)
        for name, value in state.slowness.items():
            self._slowness.labels(name).set(value)

    def text(self) -> bytes:
        """All workers' figures in Prometheus' text format; reads files, so it runs beside the loop."""
        folder = os.environ.get(_FOLDER)
        if folder is None:
            return bytes(self._library.generate_latest(self._registry))
        from prometheus_client import multiprocess

        for gone in {pid for pid in _workers(Path(folder)) if not _runs(pid)}:
            multiprocess.mark_process_dead(gone, folder)
        joined = self._library.CollectorRegistry()
        multiprocess.MultiProcessCollector(joined, path=folder)
        return bytes(self._library.generate_latest(joined))


class RouteMetrics:
    """Requests and latency of one route; the labels' children are kept, for finding one costs more than counting."""

    __slots__ = ("_by_status", "_method", "_path", "_requests", "_seconds")

    def __init__(self, requests: Any, seconds: Any, method: str, path: str) -> None:
        self._requests, self._seconds, self._method, self._path = requests, seconds, method, path
        self._by_status: dict[int, Any] = {}

    def observe(self, status: int, seconds: float) -> None:
        """Count one request."""
        self._count(status).inc()
        self._seconds.observe(seconds)

    def refused(self, status: int, number: int) -> None:
        """Count requests that were not begun, and so took no time."""
        if number:
            self._count(status).inc(number)

    def _count(self, status: int) -> Any:
        child = self._by_status.get(status)
        if child is None:
            child = self._by_status[status] = self._requests.labels(self._method, self._path, status)
        return child


def _workers(folder: Path) -> set[int]:
    return {int(found[1]) for one in folder.iterdir() if (found := _FILE.fullmatch(one.name))}


def _runs(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
