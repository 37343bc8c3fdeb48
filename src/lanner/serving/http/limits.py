"""Limits per client: bytes, seconds, connections, requests per second, and the accepted Host names."""

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from lanner.errors import ConfigError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Limits:
    """HTTP limits of each worker process. Limits of single fields are in ``messages``."""

    head_bytes: int = 64 * 2**10
    """Maximum size of a request head in bytes; larger ones are rejected with 431."""
    head_seconds: float = 10.0
    """Timeout in seconds for receiving a request head; then the connection is closed."""
    body_bytes: int = 4 * 2**20
    """Maximum size of a request body in bytes; larger ones are rejected with 413."""
    body_seconds: float = 10.0
    """Timeout in seconds for receiving a request body; then 408."""
    pending_body_bytes: int = 64 * 2**20
    """Maximum total size in bytes of bodies being received; further ones are rejected with 503."""
    connections: int = 1000
    """Maximum number of open connections; a new one closes the one idle longest."""
    requests_per_second: float = 0.0
    """Rate limit per API key (per IP address without keys), over all workers; 0: no limit."""
    burst: int = 100
    """Requests that a caller may send at once after being idle (token bucket size)."""
    callers: int = 10_000
    """Callers tracked by the rate limit; the least recent is forgotten first."""
    hosts: tuple[str, ...] = ()
    """Host names accepted besides localhost and the bound address; ``*``: any. Empty with keys: any."""
    proxies: tuple[str, ...] = ()
    """IP addresses or networks of reverse proxies whose X-Forwarded-For is trusted."""

    def __post_init__(self) -> None:
        least: dict[str, float] = {"head_bytes": 1024, "head_seconds": 0.001, "body_bytes": 1, "body_seconds": 0.001}
        least |= {"pending_body_bytes": self.body_bytes, "connections": 1, "burst": 1, "callers": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"limits.{name} must be at least {bound}, received {getattr(self, name)}")
        if self.requests_per_second < 0:
            raise ConfigError(f"limits.requests_per_second is {self.requests_per_second}, it must be 0 or more")


class RateLimit:
    """Token buckets by caller. A bucket is (tokens, seconds of the last change)."""

    def __init__(self, limits: Limits, workers: int = 1) -> None:
        """workers: the rate is divided by this number."""
        self._rate, self._burst = limits.requests_per_second / workers, max(1.0, limits.burst / workers)
        self._callers = limits.callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, now: float) -> float:
        """Take a token. Returns the seconds to wait, 0: allowed. now: monotonic seconds."""
        if not self._rate:
            return 0.0
        tokens, changed = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - changed) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[caller] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return wait


class AllowedHosts:
    """Validates Host headers.

    Without keys a web page could reach the server under its own name that resolves to this machine (DNS rebinding), so
    only names that cannot belong to an attacker are accepted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """names: accepted beside loopback names and the connection's local address; ``*``: any."""
        self._names = _LOOPBACK | {name.lower() for name in names}

    def accepts(self, host: bytes, server: tuple[str, int | None] | None) -> bool:
        """host: the header's value. server: local address of the connection."""
        name = _name(host)
        return (
            name in self._names or "*" in self._names or is_loopback(name) or (server is not None and name == server[0])
        )


def is_loopback(name: str) -> bool:
    """Whether a host name or address always refers to this machine."""
    try:
        return name in _LOOPBACK or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: bytes) -> str:
    text = host.decode("latin-1").strip().lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0].rstrip(".")
