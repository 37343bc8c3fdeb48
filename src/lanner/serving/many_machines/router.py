"""Which replica is asked: of two drawn by lot, the one with less work, as replicas are compared in the simulator.

A router knows what it has sent and what replicas said of their queues with their last answers. It weighs each request
by the time that it takes at a replica's best variant, so that unlike machines can be compared, and so that a replica
that has fallen to a quicker variant is not sent everybody.
"""

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class LessWork(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Two choices by predicted work."""

    async def choose_replicas(
        self, candidate_replicas: Sequence[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas; the next rank is tried where nobody in the one before has room."""
        if pending_request is not None:
            # Otherwise a router whose replicas are all full would ask them again without a pause.
            pending_request.routing_context.should_backoff = True
        two = random.sample(list(candidate_replicas), min(2, len(candidate_replicas)))
        lengths = [self.replica_queue_len_cache.get(replica.replica_id) for replica in two]
        if None in lengths:
            return [two]  # Ray asks those that are not known, and takes the shorter queue
        works = [work(length, replica.routing_stats) for length, replica in zip(lengths, two, strict=True)]
        return [[replica] for _, replica in sorted(zip(works, two, strict=True), key=lambda pair: pair[0])]


def work(requests: int, told: dict[str, Any]) -> float:
    """Seconds that a replica's requests and one more take; a replica that has told nothing yet is like any other."""
    return (requests + 1) * float(told.get("request_s", 0.0) or 1.0)
