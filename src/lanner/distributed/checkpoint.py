"""Engine checkpoints: written asynchronously by all ranks, loaded by any number of ranks (resharding).

A checkpoint is a folder ``step-N`` of safetensors files, one per rank, with a metadata file; torch's own format has a
pickled index. It becomes valid once the folder is renamed to its final name; until then its predecessor stays intact.
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

dcp: Any = torch_checkpoint  # implicit re-exports
_MOMENTS = ("exp_avg", "exp_avg_sq")
_METADATA = "about.json"


class Checkpoints:
    """The checkpoints of one run, in ``folder``; the newest two are kept."""

    def __init__(self, folder: Path, engine: Engine, run: str) -> None:
        """run: what must match for a run to resume, such as a fingerprint of model and settings.

        Must be constructed on every rank: asynchronous writing needs a process group of its own.

        Raises:
            ConfigError: replicas take local steps, so there is no shared state.
        """
        if engine.config.local_steps:
            raise ConfigError(
                "checkpoints of replicas that train independently are not supported; leave out local_steps"
            )
        self.folder, self._engine, self._run = folder, engine, run
        self._group = dist.new_group(backend="gloo")
        self._coming: tuple[Path, Future[Any], int] | None = None

    def save(self) -> None:
        """Start writing the current state; training may continue. Waits for the previous checkpoint.

        Raises:
            StorageError: the previous checkpoint could not be written; older ones are intact.
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
        """Wait for the checkpoint being written; raises as ``save`` does."""
        if self._coming is None:
            return
        draft, future, steps = self._coming
        self._coming = None
        problem: BaseException | None = None
        try:
            future.result()
            if dist.get_rank() == 0:
                about = {"run": self._run, "steps": steps, "lanner": version("lanner")}
                write_file(draft / _METADATA, json.dumps(about).encode())
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
        """Complete checkpoints, oldest first."""
        able = [one for one in self.folder.glob("step-*") if (one / _METADATA).is_file()]
        return sorted(able, key=lambda one: int(one.name.removeprefix("step-")))

    def load(self) -> int:
        """Load the newest checkpoint, whatever degrees wrote it; returns the number of steps done, 0 if there is none.

        Raises:
            ConfigError: it belongs to another model, run or version of this package, or is damaged.
        """
        found = self.found()
        if not found:
            return 0
        try:
            about = json.loads((found[-1] / _METADATA).read_bytes())
            steps, run, written_by = int(about["steps"]), about["run"], about["lanner"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{found[-1] / _METADATA}: damaged ({error!r}); remove this checkpoint") from error
        if written_by != version("lanner"):
            raise ConfigError(
                f"{found[-1]}: written by lanner {written_by}, this is {version('lanner')}; use that version"
            )
        if run != self._run:
            raise ConfigError(f"{found[-1]}: a checkpoint of another model or run; give another folder or remove it")
        state = self._state()
        try:
            reader = dcp.HuggingFaceStorageReader(str(found[-1]))
            dcp.load(state, storage_reader=reader, process_group=self._group)
        except (dcp.CheckpointException, SafetensorError, RuntimeError, ValueError) as failure:
            line = str(failure).strip().splitlines()[-1]
            raise ConfigError(f"{found[-1]}: cannot be read into this model ({line})") from failure
        self._engine.steps = steps
        self._load_state(state)
        return self._engine.steps

    def _state(self) -> dict[str, Tensor]:
        """Trained parameters and optimiser moments, by names that do not depend on the degrees."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._engine.trained().items():
            moments: Mapping[str, Any] = self._engine.optimizer.state.get(parameter, {})
            state[name] = parameter.detach()
            for moment in _MOMENTS:
                state[f"{name}.{moment}"] = moments[moment] if moment in moments else torch.zeros_like(state[name])
        return state

    @torch.no_grad()
    def _load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._engine.trained().items():
            local(parameter).copy_(local(state[name]))
            moments = {moment: state[f"{name}.{moment}"] for moment in _MOMENTS}
            self._engine.optimizer.state[parameter] = {"step": torch.tensor(float(self._engine.steps)), **moments}

    def _refusal(self, problem: BaseException | None) -> StorageError:
        free = shutil.disk_usage(self.folder).free / 2**20 if self.folder.is_dir() else 0.0
        last = self.found()
        kept = f"the last complete one is {last[-1]}" if last else "there is no earlier one"
        cause = (str(problem).strip().splitlines() or ["another rank failed"])[-1] if problem else "another rank failed"
        return StorageError(f"{self.folder}: a checkpoint could not be written ({cause}; {free:.0f} MiB free); {kept}")
