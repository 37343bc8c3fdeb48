"""Training checkpoints: tensors as safetensors, the rest as JSON in the header; no pickle."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lanner.errors import DataError, StorageError
from lanner.training.config import CHECKPOINT as FILE


@dataclass(frozen=True)
class Progress:
    """Progress of a run. ``task`` counts finished tasks, ``step`` the finished steps of the current one."""

    run: str
    """Fingerprint of everything that must match for a run to resume."""
    task: int
    step: int
    best_quality: float
    best_step: int
    epochs: dict[str, int] = field(default_factory=dict)
    """Best epoch of each finished task."""


_LARGEST_SHARE = 0.05
"""Largest share of the time that checkpoints within an epoch may take."""


class CheckpointTimer:
    """Says when the next checkpoint is due."""

    def __init__(self, seconds: float) -> None:
        """seconds: between two of them; more while they would take over a twentieth of the time. 0: always due."""
        self._seconds, self._cost, self._last = seconds, 0.0, time.monotonic()

    def is_due(self) -> bool:
        wait = max(self._seconds, self._cost / _LARGEST_SHARE) if self._seconds else 0.0
        return time.monotonic() - self._last >= wait

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the writing of a checkpoint, or as a decorator of what writes it."""
        began = time.monotonic()
        yield
        self._last = time.monotonic()
        self._cost = self._last - began


def save_checkpoint(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> Path:
    """Write atomically: a kill at any time leaves either the old file or the new one.

    Raises:
        StorageError: the file could not be written.
    """
    path, draft = folder / FILE, folder / f"{FILE}.{os.getpid()}.tmp"
    # Copied, since safetensors rejects tensors that share memory.
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(owned, draft, metadata={"progress": json.dumps(asdict(progress))})
        draft.replace(path)
    except (OSError, SafetensorError) as failure:
        draft.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot write the checkpoint ({failure}); free some space and resume") from failure
    return path


def load_checkpoint(folder: Path, run: str) -> tuple[Progress, dict[str, Tensor]] | None:
    """The checkpoint in ``folder``; None if there is none.

    Raises:
        DataError: the file is damaged, or belongs to a run with different data or settings.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as failure:
        raise DataError(f"not a readable checkpoint ({failure}); delete it to start again", path=path) from failure
    if progress.run != run:
        raise DataError(
            "checkpoint of a run with other data or settings; delete it or choose another folder", path=path
        )
    return progress, tensors


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of ``flatten_optimizer``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
