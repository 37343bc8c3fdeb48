"""Builds the application of one worker process from the settings, and validates them before a worker is started."""

import asyncio
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lanner.artifacts.bundle import read_bundle
from lanner.errors import ConfigError, MissingExtraError
from lanner.serving.acceleration import accelerator_of
from lanner.serving.deployment import ModelConfig, ServiceConfig, served_variants
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile, check_address
from lanner.serving.http.limits import Limits
from lanner.serving.ray_serve import RayConfig, check_ray
from lanner.serving.scheduler import SchedulerConfig
from lanner.serving.service import LannerService
from lanner.serving.store import open_store
from lanner.serving.store.retention import RetentionConfig
from lanner.serving.versions.alias_watcher import OneBundle, Versions
from lanner.serving.versions.experiments import Experiment, check_arms
from lanner.serving.versions.registry import CHAMPION, Registry
from lanner.serving.worker_sync import WorkerSync

_BEAT_SECONDS = 0.1


@dataclass(frozen=True)
class TracingConfig:
    """OpenTelemetry traces. Headers for the collector come from the standard OTEL environment variables."""

    endpoint: str = ""
    """OTLP/HTTP endpoint, such as ``http://collector:4318/v1/traces``; empty: tracing off."""
    ratio: float = 0.01
    """Sampling ratio of root traces, 0 to 1; a caller's ``traceparent`` decision is followed."""
    service: str = "lanner"
    """Service name shown by the collector."""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"tracing.endpoint is '{self.endpoint}', expected http://host:4318/v1/traces")
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"tracing.ratio is {self.ratio}, it must be between 0 and 1")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of ``lanner serve``."""

    bundle: str
    """Path of a bundle, or of a registry whose aliases are followed."""
    store: str = "events.db"
    """The event store: a path or a URL; see ``store.open_store``."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8080
    """TCP port to listen on."""
    workers: int = 0
    """Number of worker processes; 0: one per core, at most 4."""
    hung_seconds: float = 5.0
    """Seconds without a heartbeat after which a worker is killed and restarted; at least 1."""
    keys: str = ""
    """Path of the API key file; empty: no authentication."""
    open_to_all: bool = False
    """Allow listening on a public address without API keys."""
    experiment: Experiment | None = None
    """An A/B test over aliases: ``{name = "new-model", arms = {champion = 0.9, challenger = 0.1}}``."""
    shadow_share: float = 0.0
    """Share of champion requests, 0 to 1, that are also sent to the challenger for comparison (shadow traffic)."""
    engine: Literal["local", "ray"] = "local"
    """``local``: worker processes on this machine. ``ray``: replicas on a Ray cluster."""
    ray: RayConfig = field(default_factory=RayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    limits: Limits = field(default_factory=Limits)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port is {self.port}, it must be between 1 and 65535")
        if not 0 <= self.workers <= 256:
            raise ConfigError(f"workers is {self.workers}, it must be between 0 and 256")
        if not self.hung_seconds >= 1:
            raise ConfigError(f"hung_seconds is {self.hung_seconds}, it must be at least 1")
        if not 0 <= self.shadow_share <= 1:
            raise ConfigError(f"shadow_share is {self.shadow_share}, it must be between 0 and 1")
        if self.experiment is not None:
            check_arms(self.experiment)


def check(config: ServerConfig) -> None:
    """Validate the settings before a worker is started.

    Raises:
        ConfigError: a public address without keys, an unreadable key file, a missing champion or variant, an engine
            whose replicas cannot share the store, or a model that no accelerator supports.
        MissingExtraError: a package of an extra is missing. BundleError: no bundle at the path. As ``open_store``.
    """
    check_address(config.host, KeyFile(Path(config.keys)) if config.keys else None, config.open_to_all)
    if config.engine == "ray":
        check_ray(config.store)
    if config.tracing.endpoint and importlib.util.find_spec("opentelemetry.sdk") is None:
        raise MissingExtraError("opentelemetry-sdk", "tracing", "tracing")
    versions = versions_of(config)
    champion = versions.aliases().get(CHAMPION)
    if champion is None:
        raise ConfigError(f"{config.bundle} has no {CHAMPION}; set one: lanner bundles promote VERSION")
    bundle = read_bundle(versions.path(champion))
    served_variants(config.model, bundle)
    if config.model.accelerator:
        if config.model.accelerator.startswith("board:") and (config.workers != 1 or config.engine == "ray"):
            raise ConfigError("a board serves one process; add --workers 1, without --engine ray")
        accelerator = accelerator_of(bundle, config.model.accelerator, config.model.accelerator_mhz)
        accelerator.check()
        accelerator.close()
    open_store(config.store).close()


def build(config: ServerConfig, sync: WorkerSync | None = None) -> App:
    """The ASGI application of one worker. sync: shared with the other workers; None: there are none."""
    sync = sync or WorkerSync(None)
    service, keys = service_of(config, sync), KeyFile(Path(config.keys)) if config.keys else None
    deadline_s = config.service.deadline_ms / 1e3
    if not config.tracing.endpoint:
        return App(service, keys, config.limits, deadline_s=deadline_s, workers=sync.workers)
    from lanner.serving.http.tracing import TracedApp, Tracing

    tracing = Tracing(config.tracing.endpoint, config.tracing.ratio, config.tracing.service)
    return TracedApp(service, keys, config.limits, tracing, deadline_s, sync.workers)


def service_of(config: ServerConfig, sync: WorkerSync) -> LannerService:
    """The service of one worker."""
    return _HeartbeatService(
        versions_of(config),
        open_store(config.store),
        config.model,
        config.service,
        scheduler=config.scheduler,
        sync=sync,
        experiment=config.experiment,
        shadow_share=config.shadow_share,
        retention=config.retention,
    )


def versions_of(config: ServerConfig) -> Versions:
    """The versions to serve: of a registry, or a single bundle.

    Raises:
        ConfigError: an experiment or shadow traffic without a registry.
    """
    registry = Registry(Path(config.bundle))
    if registry.has_aliases:
        return registry
    if config.experiment is not None or config.shadow_share:
        raise ConfigError(f"{config.bundle} is not a registry with a challenger; see lanner bundles add")
    return OneBundle(Path(config.bundle))


class _HeartbeatService(LannerService):
    """Sends the supervisor heartbeats from the event loop."""

    async def start(self) -> None:
        await super().start()
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        self._beating.cancel()
        await super().stop()

    async def _beat(self) -> None:
        while True:
            self._sync.beat()
            await asyncio.sleep(_BEAT_SECONDS)
