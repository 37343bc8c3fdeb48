"""Training on a Ray cluster: Ray Train starts the ranks and restarts them, as torchrun does elsewhere."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lanner.errors import ConfigError, LannerError, optional_module


def train_on_ray(
    function: Callable[[], Any],
    ranks: int | tuple[int, int],
    *,
    storage: Path,
    gpus: bool = False,
    restarts: int = 3,
) -> Any:
    """What ``function`` gives on rank 0. It runs on every rank, in a group that is ready for an ``Engine``.

    ranks: how many, or the fewest and the most that the cluster may have room for. storage: a folder that all nodes
    share; Ray writes there, and so may the function's ``Checkpoints``. restarts: of all ranks, when one is lost.
    The cluster is the one that this process has joined (``ray.init``), or one that is started on this machine.

    Raises:
        MissingExtraError: Ray Train is not installed.
        ConfigError: there is no cluster.
        LannerError: a rank failed once more than ``restarts``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    train = optional_module("ray.train", "ray", "ray", "training on Ray")
    torch_trainer = optional_module("ray.train.torch", "ray", "ray", "training on Ray").TorchTrainer
    if not storage.is_absolute():
        raise ConfigError(f"storage '{storage}': give an absolute path, the same on every node")
    trainer = torch_trainer(
        lambda: function(),  # Ray passes settings to functions that take an argument
        scaling_config=train.ScalingConfig(num_workers=ranks, use_gpu=gpus),
        run_config=train.RunConfig(
            storage_path=str(storage), failure_config=train.FailureConfig(max_failures=restarts)
        ),
    )
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        return trainer.fit().return_value
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster: {_one_line(error)}") from error
    except train.TrainingFailedError as error:
        rank, failure = next(iter(sorted(getattr(error, "worker_failures", {}).items())), (None, error))
        where = "" if rank is None else f"rank {rank}: "
        raise LannerError(f"training on Ray failed: {where}{_one_line(failure)}") from error
    finally:
        # Ray takes Ctrl-C for itself, and does not give it back.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
