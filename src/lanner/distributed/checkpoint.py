"""Checkpoints of an engine: written by all ranks beside training, read back by any number of ranks.

A checkpoint is a folder ``step-N`` of safetensors files, one a rank, with a file of what it is of: torch's own format
has a pickled index. It counts from the moment its name is there; until then the one before it stays whole.
"""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as torch_checkpoint

from lanner.distributed.engine import Engine
from lanner.distributed.tensor import local
from lanner.errors import ConfigError, StorageError
from lanner.files import write_file

dcp: Any = torch_checkpoint  # which does not say what it exports
_MOMENTS = ("exp_avg", "exp_avg_sq")
_ABOUT = "about.json"


class Checkpoints:
    """The checkpoints of one run, in ``folder``; the newest and the one before are kept."""

    def __init__(self, folder: Path, engine: Engine, run: str) -> None:
        """run: what must be the same for a run to go on, such as a fingerprint of model and settings.

        Must be made by every rank: writing beside training needs a group of its own.

        Raises:
            ConfigError: replicas learn alone, so that no state is that of all.
        """
        if engine.config.local_steps:
            raise ConfigError("checkpoints of replicas that learn alone are not supported; leave out local_steps")
        self.folder, self._engine, self._run = folder, engine, run
        self._group = dist.new_group(backend="gloo")
        self._coming: tuple[Path, Future[Any], int] | None = None

    def save(self) -> None:
        """Begin to write the state as it is now; training may go on. Waits for the checkpoint before.

        Raises:
            StorageError: the checkpoint before could not be written; those that were are whole.
        """
        self.finish()
        draft = self.folder / f".step-{self._engine.steps}.partial"
        if dist.get_rank() == 0:
            shutil.rmtree(draft, ignore_errors=True)
        dist.barrier(self._group)
        state = {name: one.clone() for name, one in self._state().items()}
        try:
            writer = dcp.HuggingFaceStorageWriter(str(draft), save_distributed=True)
            future = dcp.async_save(state, storage_writer=writer, process_group=self._group)
        except OSError as error:
            raise self._refusal(error) from error
        self._coming = (draft, future, self._engine.steps)

    def finish(self) -> None:
        """Wait for what is being written; raises as ``save``."""
        if self._coming is None:
            return
        draft, future, steps = self._coming
        self._coming = None
        problem: BaseException | None = None
        try:
            future.result()
            if dist.get_rank() == 0:
                about = {"run": self._run, "steps": steps, "lanner": version("lanner")}
                write_file(draft / _ABOUT, json.dumps(about).encode())
                shutil.rmtree(self.folder / f"step-{steps}", ignore_errors=True)
                draft.rename(self.folder / f"step-{steps}")
                for old in self.found()[:-2]:
                    shutil.rmtree(old, ignore_errors=True)
        except (OSError, StorageError, dcp.CheckpointException) as error:
            problem = error
        failed = torch.tensor([problem is not None], dtype=torch.int32)
        dist.all_reduce(failed, dist.ReduceOp.MAX, group=self._group)
        if int(failed):
            shutil.rmtree(draft, ignore_errors=True)
            raise self._refusal(problem)

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        able = [one for one in self.folder.glob("step-*") if (one / _ABOUT).is_file()]
        return sorted(able, key=lambda one: int(one.name.removeprefix("step-")))

    def load(self) -> int:
        """Take over the newest checkpoint, whatever the degrees that wrote it; the number of steps done, 0 for none.

        Raises:
            ConfigError: it is of another model or of another run, or of another version of this package, or damaged.
        """
        found = self.found()
        if not found:
            return 0
        try:
            about = json.loads((found[-1] / _ABOUT).read_bytes())
            steps, run, written_by = int(about["steps"]), about["run"], about["lanner"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{found[-1] / _ABOUT}: damaged ({error!r}); remove this checkpoint") from error
        if written_by != version("lanner"):
            raise ConfigError(
                f"{found[-1]}: written by lanner {written_by}, this is {version('lanner')}; use that version"
            )
        if run != self._run:
            raise ConfigError(f"{found[-1]}: the checkpoint of another model or run; give another folder or remove it")
        state = self._state()
        try:
            reader = dcp.HuggingFaceStorageReader(str(found[-1]))
            dcp.load(state, storage_reader=reader, process_group=self._group)
        except (dcp.CheckpointException, SafetensorError, RuntimeError, ValueError) as failure:
            line = str(failure).strip().splitlines()[-1]
            raise ConfigError(f"{found[-1]}: cannot be read into this model ({line})") from failure
        self._engine.steps = steps
        self._take_over(state)
        return self._engine.steps

    def _state(self) -> dict[str, Tensor]:
        """Trained parameters and the optimiser's moments, by names that no division changes."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._engine.trained().items():
            moments: Mapping[str, Any] = self._engine.optimizer.state.get(parameter, {})
            state[name] = parameter.detach()
            for moment in _MOMENTS:
                state[f"{name}.{moment}"] = moments[moment] if moment in moments else torch.zeros_like(state[name])
        return state

    @torch.no_grad()
    def _take_over(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._engine.trained().items():
            local(parameter).copy_(local(state[name]))
            moments = {moment: state[f"{name}.{moment}"] for moment in _MOMENTS}
            self._engine.optimizer.state[parameter] = {"step": torch.tensor(float(self._engine.steps)), **moments}

    def _refusal(self, problem: BaseException | None) -> StorageError:
        free = shutil.disk_usage(self.folder).free / 2**20 if self.folder.is_dir() else 0.0
        last = self.found()
        kept = f"the last whole one is {last[-1]}" if last else "there is none before it"
        cause = (str(problem).strip().splitlines() or ["another rank failed"])[-1] if problem else "another rank failed"
        return StorageError(f"{self.folder}: a checkpoint could not be written ({cause}; {free:.0f} MiB free); {kept}")
