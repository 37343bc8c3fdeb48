"""What one client may take: bytes, seconds and connections, requests a second, and the Host names that are answered."""

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from lanner.errors import ConfigError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Limits:
    """Limits of the HTTP layer, in each worker process. Those of single fields stand in ``messages``."""

    head_bytes: int = 64 * 2**10
    """A longer request head is rejected with 431."""
    head_seconds: float = 10.0
    """Seconds that a request head may take to arrive; then the connection is closed."""
    body_bytes: int = 4 * 2**20
    """A longer body is rejected with 413."""
    body_seconds: float = 10.0
    """Seconds that a body may take to arrive; then 408."""
    pending_body_bytes: int = 64 * 2**20
    """Bytes of all bodies that are still arriving; beyond that, bodies are rejected with 503."""
    connections: int = 1000
    """Open connections; for one more, the one that has been idle longest is closed."""
    requests_per_second: float = 0.0
    """Of one key, or one address where there are no keys, over all workers; 0: no limit."""
    burst: int = 100
    """Requests that a caller who was silent may send at once."""
    callers: int = 10_000
    """Callers remembered; the one silent longest is forgotten first."""
    hosts: tuple[str, ...] = ()
    """Names accepted in the Host header beside this machine's own; ``*``: any. With keys and no names: any."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-For is believed."""

    def __post_init__(self) -> None:
        least: dict[str, float] = {"head_bytes": 1024, "head_seconds": 0.001, "body_bytes": 1, "body_seconds": 0.001}
        least |= {"pending_body_bytes": self.body_bytes, "connections": 1, "burst": 1, "callers": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"limits.{name} must be at least {bound}, received {getattr(self, name)}")
        if self.requests_per_second < 0:
            raise ConfigError(f"limits.requests_per_second is {self.requests_per_second}; give 0 or more")


class RateLimit:
    """Token buckets by caller. A bucket is (tokens, seconds of its last change)."""

    def __init__(self, limits: Limits, workers: int = 1) -> None:
        """workers: each of them gives a caller its share of the rate."""
        self._rate, self._burst = limits.requests_per_second / workers, max(1.0, limits.burst / workers)
        self._callers = limits.callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, now: float) -> float:
        """Seconds to wait before this caller may ask; 0: go on, and a token is gone. now: seconds, never falling."""
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
    """The Host headers that are answered.

    Without keys a web page could reach the server under a name of its own that resolves to this machine (DNS
    rebinding), so only names that no stranger owns are accepted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """names: accepted beside loopback names and the address that the connection reached; ``*``: any."""
        self._names = _LOOPBACK | {name.lower() for name in names}

    def accepts(self, host: bytes, server: tuple[str, int | None] | None) -> bool:
        """host: the header's value. server: the local address of the connection."""
        name = _name(host)
        return (
            name in self._names or "*" in self._names or is_loopback(name) or (server is not None and name == server[0])
        )


def is_loopback(name: str) -> bool:
    """Whether a host name or address always means this machine."""
    try:
        return name in _LOOPBACK or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: bytes) -> str:
    text = host.decode("latin-1").strip().lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0].rstrip(".")
