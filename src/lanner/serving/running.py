"""From settings to a running server: what ``lanner serve`` starts, and what each worker process builds."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lanner.artifact.bundle import read_manifest
from lanner.artifact.ladder import read_ladder
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile, check_address
from lanner.serving.http.limits import Limits
from lanner.serving.model import ModelConfig, ServedModel
from lanner.serving.scheduling import LatencyProfile, Scheduler
from lanner.serving.scheduling.fixed_window import FixedWindow
from lanner.serving.service import LannerService, MakePolicy, ServiceConfig, ladder_policy
from lanner.serving.store import open_store
from lanner.vocabulary import ConfigError, MissingExtraError

_SETTINGS = "LANNER_SERVER_SETTINGS"
SCHEDULERS = ("ladder", "fixed-window")


@dataclass(frozen=True)
class ServerConfig:
    """A server: what it serves, where, to whom."""

    bundle: str
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
    model: ModelConfig = field(default_factory=ModelConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise ConfigError(f"serving.scheduler is '{self.scheduler}', it must be one of {', '.join(SCHEDULERS)}")
        if not 0 < self.port < 65536:
            raise ConfigError(f"serving.port is {self.port}, it must be within 1 … 65535")


def serve(config: ServerConfig) -> None:
    """Serve until stopped. What cannot work is said before the address is taken.

    Raises:
        ConfigError: no keys for an address that others reach, or a setting that makes no sense.
        BundleError: no bundle or ladder there. MissingExtraError: Granian is not installed.
    """
    try:
        from granian import Granian
        from granian.constants import Interfaces, Loops
    except ImportError:
        raise MissingExtraError("granian", "serving", "the server") from None
    check_address(config.host, KeyFile(Path(config.keys)) if config.keys else None, config.open_to_all)
    _check(config)
    os.environ[_SETTINGS] = msgspec.json.encode(config).decode()
    Granian(
        f"{__name__}:application",
        address=config.host,
        port=config.port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=1,
        loop=Loops.uvloop,
        websockets=False,
        log_level="warning",
    ).serve()


def _check(config: ServerConfig) -> None:
    """What can be known to fail before a worker is started.

    Only the seals are read: whatever starts threads here (Polars, the runtimes) would be dead in the worker, which is a
    fork of this process.
    """
    bundle = Path(config.bundle)
    read_manifest(bundle)
    ladder = read_ladder(bundle)
    unknown = [name for name in config.model.variants if name not in ladder.names]
    if unknown:
        raise ConfigError(f"no variant '{unknown[0]}' in {bundle}; it has {', '.join(ladder.names)}")
    open_store(config.store).close()


def application() -> App:
    """The application of one worker process, from the settings that ``serve`` left."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = msgspec.json.decode(os.environ[_SETTINGS].encode(), type=ServerConfig)
    return build(config)


def build(config: ServerConfig) -> App:
    """An ASGI application over a bundle and a store."""
    model = ServedModel.open(Path(config.bundle), config.model)
    make: MakePolicy = ladder_policy if config.scheduler == "ladder" else fixed_window
    service = LannerService(model, open_store(config.store), config.service, make)
    return App(service, KeyFile(Path(config.keys)) if config.keys else None, config.limits)


def fixed_window(profile: LatencyProfile, model: ServedModel) -> Scheduler:
    """The common way, to compare with: batches of 16 or of what came within 5 ms, by the best variant, first come."""
    return FixedWindow(profile, model.variants[0], {model.backends[0]: 1}, window_s=0.005, batch=16, queue_limit=4096)
