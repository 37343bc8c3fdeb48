"""From settings to a running server: what ``lanner serve`` starts, and what each worker process builds."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from lanner.artifacts.bundle import read_manifest
from lanner.artifacts.ladder import read_ladder
from lanner.errors import ConfigError, LannerError, MissingExtraError
from lanner.serving.http.app import App
from lanner.serving.http.contract import Service
from lanner.serving.http.keys import KeyFile, check_address
from lanner.serving.http.limits import Limits
from lanner.serving.many_machines.config import RayConfig, check_sharded, check_shared
from lanner.serving.many_machines.front import Replicas
from lanner.serving.many_machines.shard import ModelPart, ShardService
from lanner.serving.many_machines.shards import Shards
from lanner.serving.model import Indexed, ModelConfig, ServedModel
from lanner.serving.redis_entries import RedisConfig, RedisEntries
from lanner.serving.scheduling import LatencyProfile
from lanner.serving.scheduling.fixed_window import FixedWindow
from lanner.serving.served_version import MakePolicy, Scheduling, ServiceConfig, ladder_policy
from lanner.serving.service import LannerService
from lanner.serving.sharding import Part
from lanner.serving.store import open_store
from lanner.serving.store.retention import RetentionConfig
from lanner.serving.versions.experiment import Experiment
from lanner.serving.versions.following import OneBundle, Versions
from lanner.serving.versions.registry import CHAMPION, Registry
from lanner.serving.versions.trials import check_arms

SCHEDULERS = ("ladder", "fixed-window")
ENGINES = ("single", "ray")
Kind = TypeVar("Kind", bound=LannerService)


@dataclass(frozen=True)
class TracingConfig:
    """Traces of requests for a collector of OpenTelemetry; headers for it come from its usual environment variables."""

    endpoint: str = ""
    """OTLP over HTTP, such as ``http://collector:4318/v1/traces``; empty: no traces."""
    ratio: float = 0.01
    """Of the traces that begin here, so many are recorded; what a caller's ``traceparent`` has decided is followed."""
    service: str = "lanner"
    """By which name the collector knows this server."""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"tracing.endpoint is '{self.endpoint}', expected http://host:4318/v1/traces")
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"tracing.ratio is {self.ratio}, it must lie between 0 and 1")


@dataclass(frozen=True)
class ServerConfig:
    """A server: what it serves, where, to whom."""

    bundle: str
    """A bundle, or the folder of a registry, whose aliases are followed."""
    store: str
    """Where events lie: a path or a URL, see ``store.open_store``."""
    host: str = "127.0.0.1"
    port: int = 8080
    keys: str = ""
    """The file with the hashes of API keys; empty: everyone may ask everything."""
    open_to_all: bool = False
    """Without keys, listen beyond this machine all the same."""
    scheduler: str = "ladder"
    """``ladder``, or ``fixed-window`` to compare with: a fixed batch window and the best variant alone."""
    experiment: Experiment | None = None
    """Its arms are aliases: ``{name = "new-ladder", arms = {champion = 0.9, challenger = 0.1}}``."""
    shadow_share: float = 0.0
    """Of the champion's requests: so many are asked of the challenger, too, whose answers are only compared."""
    engine: str = "single"
    """``single``: this process answers. ``ray``: replicas on a Ray cluster do, and this process passes requests on."""
    ray: RayConfig = field(default_factory=RayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    limits: Limits = field(default_factory=Limits)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise ConfigError(f"serving.scheduler is '{self.scheduler}', it must be one of {', '.join(SCHEDULERS)}")
        if self.engine not in ENGINES:
            raise ConfigError(f"serving.engine is '{self.engine}', it must be one of {', '.join(ENGINES)}")
        if not 0 < self.port < 65536:
            raise ConfigError(f"serving.port is {self.port}, it must be within 1 … 65535")
        if not 0 <= self.shadow_share <= 1:
            raise ConfigError(f"serving.shadow_share is {self.shadow_share}, it must lie between 0 and 1")
        if self.redis.url and not self.service.watch_seconds:
            raise ConfigError("redis.url without service.watch_seconds: servers that share must also ask the store")
        if self.experiment is not None:
            check_arms(self.experiment)


def with_engine(config: ServerConfig, engine: str, replicas: int | None) -> ServerConfig:
    """Another engine, and so many replicas where a number is given.

    Raises:
        ConfigError: replicas of an engine that has none.
    """
    if replicas is None:
        return replace(config, engine=engine)
    if engine != "ray":
        raise ConfigError(f"--replicas {replicas} needs --engine ray; the engine '{engine}' is one process")
    return replace(config, engine=engine, ray=replace(config.ray, replicas=replicas))


def serve(config: ServerConfig) -> None:
    """Serve until stopped what ``check`` has found no fault with.

    Raises:
        MissingExtraError: uvicorn or httptools is missing. LannerError: the service did not start; its log says why.
    """
    try:
        from lanner.serving.http import server
    except ImportError:
        raise MissingExtraError("uvicorn", "serving", "the server") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if not server.run(build(config), config.host, config.port):
        raise LannerError(f"the server on {config.host}:{config.port} did not start; the lines above say why")


def check(config: ServerConfig) -> None:
    """What can be known to fail before a worker is started.

    Raises:
        ConfigError: no keys for an address that others reach, a variant or champion that is not there, a store that
            replicas could not share, what cannot be dealt into shards, or an address that Redis' client cannot read.
        MissingExtraError: replicas are asked for where Ray is not installed.
        BundleError: no bundle or ladder there. What opening the store raises.
    """
    check_address(config.host, KeyFile(Path(config.keys)) if config.keys else None, config.open_to_all)
    if config.engine == "ray":
        check_shared(config.ray, config.store, config.service.watch_seconds)
    check_sharded(config.ray, config.engine, config.model.variants, Registry(Path(config.bundle)).has_aliases)
    versions = versions_of(config)
    champion = versions.aliases().get(CHAMPION)
    if champion is None:
        raise ConfigError(f"{config.bundle} has no {CHAMPION}; choose one: lanner bundles promote VERSION")
    bundle = versions.path(champion)
    read_manifest(bundle)
    ladder = read_ladder(bundle)
    unknown = [name for name in config.model.variants if name not in ladder.names]
    if unknown:
        raise ConfigError(f"no variant '{unknown[0]}' in {bundle}; it has {', '.join(ladder.names)}")
    if config.redis.url:
        RedisEntries(config.redis)
    if config.tracing.endpoint and importlib.util.find_spec("opentelemetry.sdk") is None:
        raise MissingExtraError("opentelemetry-sdk", "tracing", "traces of requests")
    open_store(config.store).close()


def build(config: ServerConfig) -> App:
    """An ASGI application over a bundle or a registry, and a store; or over replicas of that."""
    service: Service = replicas_of(config) if config.engine == "ray" else service_of(config)
    keys = KeyFile(Path(config.keys)) if config.keys else None
    deadline_s = config.service.deadline_ms / 1e3
    if not config.tracing.endpoint:
        return App(service, keys, config.limits, deadline_s=deadline_s)
    from lanner.serving.http.tracing import TracedApp, Tracing

    tracing = config.tracing
    exported = Tracing(tracing.endpoint, tracing.ratio, tracing.service)
    return TracedApp(service, keys, config.limits, deadline_s, exported)


def replicas_of(config: ServerConfig) -> Replicas:
    """Replicas of ``service_of``, or of ``shard_of``; they may run in another folder than this process."""
    store = config.store if "://" in config.store else str(Path(config.store).absolute())
    each = replace(config, engine="single", bundle=str(Path(config.bundle).absolute()), store=store)
    kind = Replicas if config.ray.shards == 1 else Shards
    return kind(config.ray, msgspec.json.encode(each), config.service.deadline_ms)


def service_of(config: ServerConfig) -> LannerService:
    """The service of one process: the whole server, or one replica."""
    return _service(LannerService, config, lambda path, indexed: ServedModel.open(path, config.model, indexed))


def shard_of(config: ServerConfig, shard: int) -> ShardService:
    """The service of one replica of a shard."""
    part = Part(shard, config.ray.shards)
    return _service(ShardService, config, lambda path, indexed: ModelPart.open_part(path, config.model, part))


def _service(kind: type[Kind], config: ServerConfig, open_model: Callable[[Path, Indexed | None], ServedModel]) -> Kind:
    make: MakePolicy = ladder_policy if config.scheduler == "ladder" else fixed_window
    return kind(
        versions_of(config),
        open_model,
        open_store(config.store),
        config.service,
        make,
        config.experiment,
        config.shadow_share,
        config.retention,
        config.redis,
    )


def versions_of(config: ServerConfig) -> Versions:
    """What is served: the versions of a registry, or one bundle.

    Raises:
        ConfigError: an experiment or shadow traffic without a registry.
    """
    registry = Registry(Path(config.bundle))
    if registry.has_aliases:
        return registry
    if config.experiment is not None or config.shadow_share:
        raise ConfigError(f"{config.bundle} is no registry with a challenger to try; see lanner bundles add")
    return OneBundle(Path(config.bundle))


def fixed_window(profile: LatencyProfile, model: ServedModel) -> Scheduling:
    """The common way, to compare with: batches of 16 or of what came within 5 ms, by the best variant, first come."""
    one = {model.backends[0]: 1}
    return Scheduling(FixedWindow(profile, model.variants[0], one, window_s=0.005, batch=16, queue_limit=4096))
