"""The elastic scheduler: deadlines, batches, variants and backends, decided by one pure policy."""

from lanner.serving.scheduling.config import SchedulerConfig
from lanner.serving.scheduling.contract import Admitted, Batch, Idle, Rejected, Request, Scheduler, WaitUntil
from lanner.serving.scheduling.elastic import Elastic, ElasticConfig
from lanner.serving.scheduling.policy import Policy
from lanner.serving.scheduling.profile import LatencyProfile

__all__ = [
    "Admitted",
    "Batch",
    "Elastic",
    "ElasticConfig",
    "Idle",
    "LatencyProfile",
    "Policy",
    "Rejected",
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "WaitUntil",
]
