"""The request scheduler of a worker process: a pure policy, and the batcher that runs it on the event loop."""

from lanner.serving.scheduler.batcher import Batcher, Done, Rank
from lanner.serving.scheduler.latency_profile import LatencyProfile, Times, VariantId
from lanner.serving.scheduler.policy import Batch, Request, Scheduler, SchedulerConfig

__all__ = [
    "Batch",
    "Batcher",
    "Done",
    "LatencyProfile",
    "Rank",
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "Times",
    "VariantId",
]
