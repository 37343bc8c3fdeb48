"""One replica: a whole service as a Ray actor, asked by operation."""

import time
from typing import Any

import msgspec

from lanner import errors
from lanner.errors import LannerError, OverloadedError
from lanner.serving.http.contract import State


class Refused(msgspec.Struct, frozen=True):
    """An error as an answer: most tell of a caller's mistake, and Ray would log each as a replica's failure."""

    kind: str
    line: str
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, error: LannerError) -> "Refused":
        """What a replica sends."""
        return cls(type(error).__name__, str(error), getattr(error, "retry_after_s", 0.0))

    def error(self) -> LannerError:
        """The error that the replica met."""
        if self.kind == OverloadedError.__name__:
            return OverloadedError(self.line, self.retry_after_s)
        kind: type[LannerError] = getattr(errors, self.kind)
        return kind(self.line)


class Replica:
    """What Ray makes in a process of its own. The methods without a line of their own here are Ray's hooks."""

    async def __init__(self, settings: bytes, shard: int) -> None:  # type: ignore[misc]
        """settings: a ``ServerConfig`` in JSON. shard: of its ``ray.shards``; of a single one there are all items."""
        from lanner.serving.running import ServerConfig, service_of, shard_of

        config = msgspec.json.decode(settings, type=ServerConfig)
        self._service = service_of(config) if config.ray.shards == 1 else shard_of(config, shard)
        await self._service.start()
        self._looked, self._before = time.monotonic(), self._service.occupied()

    async def ask(self, operation: str, *arguments: Any) -> Any:
        """The answer of one method of ``http.contract.Service`` or of a ``ShardService``, or why there is none."""
        try:
            return await getattr(self._service, operation)(*arguments)
        except LannerError as error:
            return Refused.of(error)

    async def state(self) -> State:
        """What this replica holds now."""
        return self._service.state()

    async def record_routing_stats(self) -> dict[str, float]:
        """What routers weigh this replica's requests by; two digits, for every change is told to every router."""
        return {"request_s": float(f"{self._service.occupied().request_s:.2g}")}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Since the last call: what share of its workers' time was taken, and how many requests were refused."""
        now, before, occupied = time.monotonic(), self._before, self._service.occupied()
        passed_s = max(now - self._looked, 1e-3) * max(occupied.workers, 1)
        self._looked, self._before = now, occupied
        # After another version has taken its place the champion's counts begin anew.
        busy = min(1.0, max(0.0, occupied.worked_s - before.worked_s) / passed_s)
        return {"busy": busy, "waiting": occupied.depth, "misses": max(0, occupied.refused - before.refused)}

    async def __del__(self) -> None:
        await self._service.stop()
