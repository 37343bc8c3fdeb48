"""How many replicas there should be: the rule that also gives a process its workers, asked by Ray's controller."""

from collections.abc import Mapping
from typing import Any, Protocol

from lanner.serving.scheduling import Elastic, ElasticConfig


class Context(Protocol):
    """What is read of Ray's ``AutoscalingContext``."""

    target_num_replicas: int
    total_queued_requests: float
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None
    current_time: float


class ElasticReplicas:
    """Pure but for what it remembers of its last steps: time comes with the context."""

    def __init__(self, **limits: Any) -> None:
        """limits: fields of ``ElasticConfig``, whose workers are replicas here."""
        self._config = ElasticConfig(**limits)
        self._elastic = Elastic(self._config)

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """(replicas to have from now on, nothing to keep)."""
        told = context.aggregated_metrics or {}
        busy, waiting, misses = (list(told.get(name, {}).values()) for name in ("busy", "waiting", "misses"))
        now_wanted = min(max(context.target_num_replicas, self._config.minimum), self._config.maximum)
        self._elastic.workers = now_wanted
        wanted = self._elastic.wanted(
            waiting=round(sum(waiting) + context.total_queued_requests),
            utilisation=sum(busy) / len(busy) if busy else 0.0,
            misses=int(sum(misses) > 0),
            now=context.current_time,
        )
        return wanted, {}
