"""Figures of a training while it runs: how they are counted, and who keeps them."""

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
"""Keeps the figures of a task after a step."""
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboard"), "mlflow": ("mlflow", "mlflow-skinny")}
"""Modules and packages by the name of a log."""


def check_log(config: TrainingConfig) -> None:
    """Raises ``MissingExtraError`` where the log's package is not installed."""
    if config.log != "none" and find_spec(_PACKAGES[config.log][0]) is None:
        raise MissingExtraError(_PACKAGES[config.log][1], "tracking", f"training.log={config.log}")


def tracker_of(config: TrainingConfig) -> Tracker:
    """The tracker of ``training.log``; all tasks of a process have the same one."""
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
    """What a task read and sent since it began."""

    def __init__(self, sent: int) -> None:
        """sent: bytes that were sent before."""
        self._begun, self._read, self._steps, self._before = time.perf_counter(), Counter[str](), 0, sent

    def add(self, sizes: Mapping[str, int]) -> None:
        """Count one step."""
        self._read.update(sizes)
        self._steps += 1

    def figures(self, sent: int) -> dict[str, float]:
        """By name: so much a second, memory, and bytes that this process sent in a step, if any."""
        seconds = time.perf_counter() - self._begun
        found = {f"{name}_per_s": count / seconds for name, count in self._read.items()}
        found["memory_mib"] = memory_mib()
        if sent:
            found["sent_mb_per_step"] = (sent - self._before) / self._steps / 1e6
        return found


def memory_mib() -> float:
    """The most memory that this process has had: of its GPU, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
