"""Replicas on a Ray cluster, of all items or of each shard: started, found again, and stopped."""

import os
import signal
import threading
from typing import Any

from lanner.errors import ConfigError
from lanner.serving.many_machines.autoscaling import ElasticReplicas
from lanner.serving.many_machines.config import RayConfig
from lanner.serving.many_machines.replica import Replica

_APPLICATION = "lanner"
_MOST_AT_ONCE = 4096
"""Requests that may be with one replica: its scheduler refuses what would be late long before."""
_MOST_QUEUED = 1024
"""Requests that may wait for a replica while there is none."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A request then costs a third less: straight to the replica's process, and there to its only loop.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Read when Ray is imported, and by the processes that it starts; what is set already stays."""
_OBJECTS_BYTES = 80_000_000
"""Of shared memory, which requests do not use: the least that Ray takes."""


def connect(config: RayConfig) -> None:
    """Join the cluster, or start one of this machine alone.

    Raises:
        ConfigError: no cluster answers there.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    here: dict[str, Any] = {
        "num_cpus": max(1, round(config.shards * config.most * config.cpus + 0.5)),
        "object_store_memory": _OBJECTS_BYTES,
        "include_dashboard": False,
    }
    settings = {"address": config.address} if config.address else {"address": "local", **here}
    try:
        ray.init(**settings, logging_level="warning", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"no Ray cluster at '{config.address or 'this machine'}': {reason}") from None


def take_back_sigterm() -> None:
    """Let a SIGTERM end the server in peace again; for the main thread, once Ray has been joined.

    Ray takes it for a crash: it writes the stack, and sets an alarm that aborts the process 3 s later, whatever it is
    still at.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def deploy(config: RayConfig, settings: bytes) -> list[Any]:
    """Start the replicas, or find them running with the same settings; returns a shard's handle each once all answer.

    settings: of each replica, see ``Replica``.

    Raises:
        RuntimeError: a replica does not start; Ray's log of it says why.
    """
    from ray import serve

    from lanner.serving.many_machines.router import LessWork

    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(
        Replica,
        name="replica",
        **_how_many(config),
        max_ongoing_requests=_MOST_AT_ONCE,
        max_queued_requests=_MOST_QUEUED,
        ray_actor_options={"num_cpus": config.cpus},
        request_router_config={"request_router_class": LessWork, "request_routing_stats_period_s": 1.0},
        health_check_period_s=1.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=10.0,
        max_constructor_retry_count=3,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    # Together, for each takes as long to open as a server does.
    shards = [
        serve.RunTarget(deployment.bind(settings, shard), name=f"{_APPLICATION}-{shard}", route_prefix=None)
        for shard in range(config.shards)
    ]
    return list(serve.run_many(shards))


def leave(config: RayConfig) -> None:
    """Stop a cluster of this machine alone; on another, replicas go on for whoever asks them next."""
    import ray
    from ray import serve

    if not config.address:
        serve.shutdown()
    ray.shutdown()


def _how_many(config: RayConfig) -> dict[str, Any]:
    if config.most == config.replicas:
        return {"num_replicas": config.replicas}
    limits = {
        "minimum": config.replicas,
        "maximum": config.most,
        "grow_after_s": config.grow_after_s,
        "shrink_after_s": config.shrink_after_s,
    }
    bounds: dict[str, Any] = {
        "min_replicas": config.replicas,
        "max_replicas": config.most,
        "look_back_period_s": config.grow_after_s,
        # The policy has its own patience; Ray's would come on top of it.
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {"policy_function": ElasticReplicas, "policy_kwargs": limits},
    }
    return {"num_replicas": None, "autoscaling_config": bounds}
