"""Replicas on a Ray cluster, with Ray Serve's deployment, HTTP ingress, routing, autoscaling and health checks.

Every replica is one worker, as on a single machine; they share a PostgreSQL store. Ray shows a replica's arguments to
anyone with access to the cluster, so the store's URL, which may contain a password, comes from the node's environment
(``LANNER_STORE``), and keys from the file named in the settings. When a replica dies, Ray answers its pending requests
with 500; events retried with the same keys are stored once.
"""

import importlib.util
import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanner.errors import ConfigError, LannerError, MissingExtraError, StoreUnavailableError

if TYPE_CHECKING:
    from lanner.serving.bootstrap import ServerConfig
    from lanner.serving.http.app import App

STORE_VARIABLE = "LANNER_STORE"
_APPLICATION = "lanner"
_MAX_ONGOING = 1024
"""Maximum requests in flight per replica; its own scheduler rejects late requests well before."""
_STOP_SECONDS = 10.0
_OBJECT_STORE_BYTES = 80_000_000
"""The minimum that Ray accepts; requests do not use it."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A third cheaper per request: routed straight to the replica process and its single event loop.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Read when Ray is imported, and by the processes it starts; existing values are kept."""


@dataclass(frozen=True)
class RayConfig:
    """Number and placement of replicas."""

    replicas: int = 2
    """Minimum number of replicas."""
    most_replicas: int = 0
    """Maximum number of replicas under load; 0: no autoscaling."""
    address: str = ""
    """Address of a running Ray cluster, or ``auto``; empty: start Ray on this machine for the server's lifetime."""
    cpus: float = 1.0
    """CPU cores reserved per replica."""
    requests_per_replica: float = 8.0
    """Autoscaling target: requests in flight per replica. Used with ``most_replicas``."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"ray.replicas is {self.replicas}, it must be at least 1")
        if self.most_replicas and self.most_replicas < self.replicas:
            raise ConfigError(f"ray.most_replicas is {self.most_replicas}, below ray.replicas, {self.replicas}")
        for name in ("cpus", "requests_per_replica"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"ray.{name} is {getattr(self, name)}, it must be above 0 and finite")


def check_ray(store: str) -> None:
    """Check that Ray is installed and replicas can share the store.

    Raises:
        ConfigError: a store that replicas cannot share. MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "serving on Ray")
    if not store.startswith("postgresql://"):
        raise ConfigError("--engine ray needs a shared store: --store postgresql://…")


def serve(config: "ServerConfig") -> None:
    """Serve with replicas until SIGTERM or Ctrl-C. Call it in the main thread.

    Raises:
        ConfigError: no cluster at the address. LannerError: the replicas failed to start; see Ray's log.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[STORE_VARIABLE] = config.store  # inherited by a local cluster
    import ray
    from ray import serve as ray_serve

    stopped = threading.Event()
    _connect(config.ray)
    try:
        # Ray treats SIGTERM as a crash and aborts the process after 3 s, so its handlers are replaced.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        ray_serve.start(
            proxy_location="EveryNode" if config.ray.address else "HeadOnly",
            http_options={"host": config.host, "port": config.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        ray_serve.run(_application(config), name=_APPLICATION, route_prefix="/", blocking=False)
        stopped.wait()
        ray_serve.delete(_APPLICATION)
    except RuntimeError as error:
        raise LannerError(f"the replicas failed to start: {_one_line(error)}") from error
    finally:
        if not config.ray.address:
            ray_serve.shutdown()
        ray.shutdown()


class Replica:
    """One worker in a Ray process. Methods without a docstring are Ray hooks."""

    def __init__(self, settings: bytes) -> None:
        """settings: a ``ServerConfig`` as JSON, without its store."""
        import msgspec

        from lanner.serving.bootstrap import ServerConfig, build
        from lanner.serving.thread_limits import limit_threads

        limit_threads()
        store = os.environ.get(STORE_VARIABLE)
        if not store:
            raise ConfigError(f"{STORE_VARIABLE} is not set on this node; set it before 'ray start'")
        self._app = build(replace(msgspec.json.decode(settings, type=ServerConfig), store=store))

    def __serve_build_asgi_app__(self) -> "App":
        return self._app

    async def check_health(self) -> None:
        """Ray replaces a replica whose health check raises or times out.

        Raises:
            StoreUnavailableError: no champion is served.
        """
        if not (await self._app.service.health()).ready:
            raise StoreUnavailableError("no champion is being served")


def _application(config: "ServerConfig") -> Any:
    import msgspec
    from ray import serve as ray_serve

    keys = str(Path(config.keys).absolute()) if config.keys else ""
    settings = replace(config, engine="local", bundle=str(Path(config.bundle).absolute()), store="", keys=keys)
    deployment = ray_serve.deployment(
        ray_serve.ingress()(Replica),
        name="replica",
        **_scale(config.ray),
        max_ongoing_requests=_MAX_ONGOING,
        ray_actor_options={"num_cpus": config.ray.cpus},
        health_check_period_s=1.0,
        health_check_timeout_s=5.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=_STOP_SECONDS,
        max_constructor_retry_count=3,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return deployment.bind(msgspec.json.encode(settings))


def _scale(config: RayConfig) -> dict[str, Any]:
    if config.most_replicas <= config.replicas:
        return {"num_replicas": config.replicas}
    bounds = {"min_replicas": config.replicas, "max_replicas": config.most_replicas}
    return {"autoscaling_config": {**bounds, "target_ongoing_requests": config.requests_per_replica}}


def _connect(config: RayConfig) -> None:
    """Join a cluster, or start a local one."""
    import ray

    settings: dict[str, Any] = {"address": config.address}
    if not config.address:
        most = max(config.replicas, config.most_replicas)
        cpus = max(1, round(most * config.cpus + 0.5))
        settings = {"address": "local", "num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES}
        settings["include_dashboard"] = False
    try:
        ray.init(**settings, logging_level="warning", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = config.address or "this machine"
        raise ConfigError(f"no Ray cluster at '{place}': {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
