"""Training on a Ray cluster: Ray Train starts and restarts the ranks, in place of torchrun."""

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
    """The result of ``function`` on rank 0. It runs on every rank, in a process group ready for an ``Engine``.

    ranks: their number, or the minimum and maximum for elastic training. storage: a folder shared by all nodes; Ray
    writes there, and so may the function's ``Checkpoints``. restarts: of all ranks, after one is lost. The cluster is
    the one that this process has joined (``ray.init``), or a local one that is started.

    Raises:
        MissingExtraError: Ray Train is not installed.
        ConfigError: there is no cluster, or ``storage`` is a relative path.
        LannerError: a rank failed more than ``restarts`` times.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    train = optional_module("ray.train", "ray", "ray", "training on Ray")
    torch_trainer = optional_module("ray.train.torch", "ray", "ray", "training on Ray").TorchTrainer
    if not storage.is_absolute():
        raise ConfigError(f"storage '{storage}': give an absolute path, the same on every node")
    trainer = torch_trainer(
        lambda: function(),  # Ray passes a config to functions that take an argument
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
        # Ray installs its own signal handlers and does not restore ours.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
