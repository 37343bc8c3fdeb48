"""Experiment tracking: training metrics, and the backends that log them."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from lanner.errors import MissingExtraError, optional_module
from lanner.training.config import TrainingConfig

Tracker = Callable[[str, int, Mapping[str, float]], None]
"""Logs a task's metrics after a step: task, step, metrics by name."""
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboard"), "mlflow": ("mlflow", "mlflow-skinny")}
"""Module and package of each backend."""


def check_log(config: TrainingConfig) -> None:
    """Raises ``MissingExtraError`` if the backend's package is not installed."""
    if config.log != "none" and find_spec(_PACKAGES[config.log][0]) is None:
        raise MissingExtraError(_PACKAGES[config.log][1], "tracking", f"training.log={config.log}")


def tracker_of(config: TrainingConfig) -> Tracker:
    """The tracker of ``training.log``, shared by all tasks of a process."""
    check_log(config)
    return _LOGS[config.log](Path(config.log_folder))


@cache
def _tensorboard(folder: Path) -> Tracker:
    module = optional_module("torch.utils.tensorboard", "tensorboard", "tracking", "training.log=tensorboard")
    writer = module.SummaryWriter(str(folder / time.strftime("%Y-%m-%d-%H-%M-%S")))

    def keep(task: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(f"{task}/{name}", value, step)
        writer.flush()

    return keep


@cache
def _mlflow(folder: Path) -> Tracker:
    mlflow = optional_module("mlflow", "mlflow-skinny", "tracking", "training.log=mlflow")
    if not mlflow.environment_variables.MLFLOW_TRACKING_URI.get():
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder.absolute()}/mlflow.db")
    run = mlflow.active_run() or mlflow.start_run()

    def keep(task: str, step: int, figures: Mapping[str, float]) -> None:
        mlflow.log_metrics({f"{task}/{name}": value for name, value in figures.items()}, step, run_id=run.info.run_id)

    return keep


def _nothing(folder: Path) -> Tracker:
    return lambda task, step, figures: None


_LOGS: Mapping[str, Callable[[Path], Tracker]] = {"none": _nothing, "tensorboard": _tensorboard, "mlflow": _mlflow}


class Rates:
    """Throughput of a task since it began, and traffic between replicas; other traffic of ranks is not counted."""

    def __init__(self, sent: int) -> None:
        """sent: bytes sent to other replicas before the task began."""
        self._started, self._read, self._steps, self._before = time.perf_counter(), Counter[str](), 0, sent

    def add(self, sizes: Mapping[str, int]) -> None:
        """Count one step."""
        self._read.update(sizes)
        self._steps += 1

    def figures(self, sent: int) -> dict[str, float]:
        """By name: amounts per second, peak memory, and MB sent to other replicas per step, if any."""
        seconds = time.perf_counter() - self._started
        found = {f"{name}_per_s": count / seconds for name, count in self._read.items()}
        found["memory_mib"] = memory_mib()
        if sent:
            found["replica_mb_per_step"] = (sent - self._before) / self._steps / 1e6
        return found


def memory_mib() -> float:
    """Peak memory of this process: GPU memory if there is a GPU, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
