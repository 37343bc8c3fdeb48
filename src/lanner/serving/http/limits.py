"""How much one caller may ask: a bucket of tokens each, bounded in number; time comes from outside."""

from collections import OrderedDict
from dataclasses import dataclass

from lanner.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds of the HTTP shell. Those of single fields stand in ``messages``."""

    body_bytes: int = 4 * 2**20
    """A longer body is refused with 413."""
    body_seconds: float = 10.0
    """How long a body may take to arrive; then 408."""
    requests_per_second: float = 0.0
    """Of one key, or one address where the server is open, in each worker; 0: no limit."""
    burst: int = 100
    """Requests that a caller who was silent may send at once."""
    callers: int = 10_000
    """Callers remembered; the one silent longest is forgotten first."""

    def __post_init__(self) -> None:
        for name, least in {"body_bytes": 1, "body_seconds": 0.001, "burst": 1, "callers": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"limits.{name} must be at least {least}, received {getattr(self, name)}")
        if self.requests_per_second < 0:
            raise ConfigError(f"limits.requests_per_second is {self.requests_per_second}; give 0 or more")


class RateLimit:
    """Token buckets by caller. A bucket is (tokens, seconds of its last change)."""

    def __init__(self, limits: Limits) -> None:
        self._rate, self._burst, self._callers = limits.requests_per_second, float(limits.burst), limits.callers
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
