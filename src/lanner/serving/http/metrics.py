"""Prometheus metrics. Label values are routes and names from the bundle, never user input."""

import os
import re
from pathlib import Path
from typing import Any

from lanner.errors import ConfigError, MissingExtraError
from lanner.files import is_running
from lanner.serving.http.contract import State
from lanner.serving.messages import Served

SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the latency buckets, in seconds."""
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"[a-z_]+_(\d+)\.db")
_MAX_LABEL_SETS = 64


def share_between_workers(folder: Path) -> None:
    """Let the workers that this process starts share their metrics through ``folder``, which is emptied.

    Call it before the first worker and before prometheus_client is imported, which reads the setting once.

    Raises:
        ConfigError: the folder cannot be created, or contains other files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot store the workers' metrics ({error.strerror})") from None
    if strange := [one.name for one in present if not _FILE.fullmatch(one.name)]:
        raise ConfigError(f"{folder}: contains '{strange[0]}'; use a separate folder for the workers' metrics")
    for one in present:
        one.unlink()
    os.environ[_FOLDER] = str(folder)


class Metrics:
    """One worker's metrics; ``text`` sums those of all workers."""

    def __init__(self) -> None:
        """Raises MissingExtraError if prometheus_client is not installed."""
        try:
            import prometheus_client
        except ImportError:
            raise MissingExtraError("prometheus-client", "serving", "the server") from None
        self._library = prometheus_client
        self._registry = one = prometheus_client.CollectorRegistry()

        def counter(name: str, description: str, *labels: str) -> Any:
            return prometheus_client.Counter(name, description, labels, registry=one)

        def gauge(name: str, description: str, *labels: str, over_workers: str = "livesum") -> Any:
            return prometheus_client.Gauge(name, description, labels, registry=one, multiprocess_mode=over_workers)

        self._requests = counter("lanner_requests", "HTTP requests by route and status.", "method", "route", "status")
        self._seconds = prometheus_client.Histogram(
            "lanner_request_seconds",
            "Request latency in seconds, from request head to response.",
            ["route"],
            registry=one,
            buckets=SECONDS,
        )
        self._answers = counter(
            "lanner_answers", "Responses by model variant, backend and cache hit.", "variant", "backend", "cached"
        )
        self._in_flight = gauge("lanner_in_flight", "HTTP requests in flight.")
        self._queued = gauge("lanner_queue_depth", "Requests waiting in the scheduler's queue.")
        self._by_what = {
            "held_bytes": gauge("lanner_held_bytes", "Bytes in memory by content.", "what"),
            "held_entries": gauge("lanner_held_entries", "Entries in memory by content.", "what"),
            "store": gauge("lanner_store", "Statistics of the event store.", "what", over_workers="livemax"),
            "experiments": gauge(
                "lanner_experiments", "Statistics of experiments and shadow traffic.", "what", over_workers="livemax"
            ),
            "background": gauge(
                "lanner_background_jobs", "Statistics of background jobs.", "what", over_workers="livemax"
            ),
            "slowness": gauge(
                "lanner_batch_slowness",
                "Batch latency relative to its calibrated value, by variant.",
                "variant",
                over_workers="livemax",
            ),
            "accelerator": gauge(
                "lanner_accelerator",
                "Requests that the accelerator answered or failed, their cycles, and the time predicted from these.",
                "what",
            ),
        }
        """By field of ``State``."""
        self._kinds: dict[tuple[str, str, bool], Any] = {}

    def route(self, method: str, path: str) -> "RouteMetrics":
        """The metrics of one route, resolved once."""
        return RouteMetrics(self._requests, self._seconds.labels(path), method, path)

    def answered(self, served: Served) -> None:
        """Count a response by variant and backend."""
        kind = (served.variant, served.backend, served.cached)
        child = self._kinds.get(kind)
        if child is None:
            if len(self._kinds) >= _MAX_LABEL_SETS:
                return
            child = self._kinds[kind] = self._answers.labels(kind[0], kind[1], str(kind[2]).lower())
        child.inc()

    def observe(self, state: State, in_flight: int) -> None:
        """Update the gauges."""
        self._in_flight.set(in_flight)
        self._queued.set(state.queue_depth)
        for field, gauge in self._by_what.items():
            for name, value in getattr(state, field).items():
                gauge.labels(name).set(value)

    def text(self) -> bytes:
        """The metrics of all workers in the Prometheus text format; reads files, so call it in a thread."""
        folder = os.environ.get(_FOLDER)
        if folder is None:
            return bytes(self._library.generate_latest(self._registry))
        from prometheus_client import multiprocess

        for gone in {pid for pid in _workers(Path(folder)) if not is_running(pid)}:
            multiprocess.mark_process_dead(gone, folder)
        joined = self._library.CollectorRegistry()
        multiprocess.MultiProcessCollector(joined, path=folder)
        return bytes(self._library.generate_latest(joined))


class RouteMetrics:
    """Requests and latency of one route. Label children are cached: looking them up costs more than counting."""

    __slots__ = ("_by_status", "_method", "_path", "_requests", "_seconds")

    def __init__(self, requests: Any, seconds: Any, method: str, path: str) -> None:
        self._requests, self._seconds, self._method, self._path = requests, seconds, method, path
        self._by_status: dict[int, Any] = {}

    def observe(self, status: int, seconds: float) -> None:
        """Count one request."""
        child = self._by_status.get(status)
        if child is None:
            child = self._by_status[status] = self._requests.labels(self._method, self._path, status)
        child.inc()
        self._seconds.observe(seconds)


def _workers(folder: Path) -> set[int]:
    return {int(found[1]) for one in folder.iterdir() if (found := _FILE.fullmatch(one.name))}
