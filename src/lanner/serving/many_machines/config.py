"""Settings of a service of several replicas, and what can be known to fail before one is started."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from lanner.errors import ConfigError, MissingExtraError


@dataclass(frozen=True)
class RayConfig:
    """How many replicas, and where."""

    replicas: int = 2
    """Replicas that are kept whatever the load."""
    most_replicas: int = 0
    """Replicas under load; 0: never more than ``replicas``."""
    address: str = ""
    """Of a running Ray cluster, or ``auto``; empty: Ray is started on this machine, and stopped with the server."""
    cpus: float = 1.0
    """Cores that Ray reserves for each replica."""
    shards: int = 1
    """Parts into which the items are dealt where one machine cannot hold all, each with ``replicas`` of its own."""
    grow_after_s: float = 10.0
    """Seconds between two steps up: a new replica must be seen to help before the next."""
    shrink_after_s: float = 60.0
    """Seconds for which fewer replicas must have been enough before one is stopped."""

    def __post_init__(self) -> None:
        for name in ("replicas", "shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ray.{name} is {getattr(self, name)}, it must be at least 1")
        if self.most_replicas and self.most_replicas < self.replicas:
            raise ConfigError(f"ray.most_replicas is {self.most_replicas}, fewer than the {self.replicas} to be kept")
        for name in ("cpus", "grow_after_s", "shrink_after_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"ray.{name} is {getattr(self, name)}, it must be above 0 and finite")

    @property
    def most(self) -> int:
        """Replicas at most."""
        return self.most_replicas or self.replicas


def check_shared(config: RayConfig, store: str, watch_seconds: float) -> None:
    """Whether replicas can be started and will hear of one another.

    Raises:
        ConfigError: a store that one machine alone reaches, or one that is never looked at again.
        MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "serving with several replicas")
    if config.address and not store.startswith("postgresql://"):
        raise ConfigError(f"the store '{store}' lies on one machine; a cluster needs --store postgresql://…")
    if not watch_seconds:
        raise ConfigError("service.watch_seconds is 0, but replicas hear of one another through the store alone")


def check_sharded(config: RayConfig, engine: str, variants: Sequence[str], has_aliases: bool) -> None:
    """Whether what is served can be dealt into shards; without shards everything can.

    Raises:
        ConfigError: one process, several variants, or a folder of versions is to be served.
    """
    if config.shards == 1:
        return
    if engine != "ray":
        raise ConfigError(f"ray.shards is {config.shards}, but the engine '{engine}' holds all items; use --engine ray")
    if len(variants) > 1:
        raise ConfigError(f"ray.shards serve one variant, whose scores compare; model.variants names {len(variants)}")
    if has_aliases:
        raise ConfigError("ray.shards serve one bundle; give a version's own folder instead of all versions'")
