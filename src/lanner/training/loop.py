"""The training loop: AdamW, early stopping on validation, and checkpoints that resume to identical weights."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Display
from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor, nn

from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import ConfigError, DivergedError, Interrupted
from lanner.models.network import RecommenderNetwork
from lanner.models.recommender import below
from lanner.models.views import LanguageView, View
from lanner.training.checkpoint import (
    CheckpointTimer,
    Progress,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from lanner.training.config import REFIT, TrainingConfig
from lanner.training.divergence import first_not_finite
from lanner.training.interrupts import interrupts_held
from lanner.training.tasks import LOWER_RATE, FusionTask, Task, ViewTask
from lanner.training.tracking import Rates, Tracker, tracker_of
from lanner.training.weights import choose_weights

__all__ = ["Loop", "Trainer", "TrainingConfig"]


_TRACKED = 10
"""Interval in steps at which the tracker logs metrics; the last step of each epoch is always logged."""


class Limits(Protocol):
    """Stopping criteria and seed."""

    @property
    def epochs(self) -> int:
        """Maximum number of epochs of a task."""

    @property
    def patience(self) -> int:
        """Epochs without improvement before stopping."""

    @property
    def seed(self) -> int:
        """Seed of dropout."""


class Loop:
    """Minimises tasks in sequence. With a ``folder`` it can be interrupted and resumed.

    run: fingerprint of everything that must match for a run to resume. kept: tensors that a checkpoint holds besides
    the state of the task. checkpoint_seconds: see ``TrainingConfig``. tracker: logs metrics of the steps.
    """

    def __init__(
        self,
        limits: Limits,
        kept: Callable[[], Mapping[str, Tensor]],
        *,
        folder: Path | None = None,
        run: str = "",
        checkpoint_seconds: float = math.inf,
        progress: bool = True,
        tracker: Tracker | None = None,
    ) -> None:
        self._limits, self._kept, self._folder, self._run, self._progress = limits, kept, folder, run, progress
        self._timer, self._tracker = CheckpointTimer(checkpoint_seconds), tracker
        self.resumed = load_checkpoint(folder, run) if folder else None
        """The checkpoint resumed from, if any."""
        self.qualities: dict[str, float] = {}
        """Best validation ndcg@10 of every task."""
        self.trained_qualities: dict[str, float] = {}
        """The same after at least one epoch of this process, even if the untrained state was better and was kept."""
        self.epochs: dict[str, int] = dict(self.resumed[0].epochs) if self.resumed else {}
        """Best epoch of each finished task."""

    def minimise(self, task: Task, number: int = 0, epochs: int | None = None) -> None:
        """Train ``task.module`` in place and restore its best state on validation.

        number: index of the task in the run; tasks before the checkpoint's are skipped. epochs: maximum; None: from the
        limits.

        Raises:
            Interrupted: Ctrl-C; a checkpoint was written if there is a folder.
            DivergedError: a loss or a validation score is not finite; no checkpoint was written after it.
        """
        resumed = self.resumed
        if resumed is not None and number < resumed[0].task:
            return
        if resumed is not None and number > resumed[0].task:
            resumed = None
        limits, optimizer = self._limits, task.optimizer()
        step, best_step, best_quality = 0, 0, -math.inf
        best = _copy(trained_parameters(task.module))
        # At step 0 a checkpoint holds only ``kept``, so the task starts from scratch.
        if resumed is not None and resumed[0].step:
            step, best_step, best_quality = resumed[0].step, resumed[0].best_step, resumed[0].best_quality
            best = below("best.", resumed[1]) or best
            restore_optimizer(optimizer, resumed[1])
        elif task.counts_untrained:
            best_quality = _untrained_quality(task)

        @self._timer.measured()
        def save(task_number: int) -> None:
            if self._folder is not None:
                tensors = {f"network.{name}": value for name, value in self._kept().items()}
                if task_number == number:
                    tensors |= {f"best.{name}": value for name, value in best.items()} | flatten_optimizer(optimizer)
                done = step if task_number == number else 0
                progress = Progress(self._run, task_number, done, best_quality, best_step, self.epochs)
                save_checkpoint(self._folder, progress, tensors)

        last = (limits.epochs if epochs is None else epochs) * task.steps_per_epoch
        with self._display(task, last, step) as show, interrupts_held() as must_stop:
            while step < last and step - best_step < (limits.patience + 1) * task.steps_per_epoch:
                if must_stop():
                    save(number)
                    raise Interrupted(self._interruption_message(task.name, step))
                with _named(task, step):
                    loss = self._step(task, optimizer, number, step)
                    step += 1
                    ends_epoch = step % task.steps_per_epoch == 0
                    quality = self._validated(task) if ends_epoch else None
                # Without validation events, the last epoch wins.
                if ends_epoch and (quality is None or quality > best_quality):
                    best_quality = math.nan if quality is None else quality
                    best_step, best = step, _copy(trained_parameters(task.module))
                if ends_epoch or self._timer.is_due():
                    save(number)
                show(step, loss, quality, best_quality)
            task.module.load_state_dict(best, strict=False)
            self.qualities[task.name], self.epochs[task.name] = best_quality, best_step // task.steps_per_epoch
            best_quality, best_step = -math.inf, 0
            save(number + 1)
            if must_stop():
                raise Interrupted(self._interruption_message(task.name, step))

    def _validated(self, task: Task) -> float | None:
        quality = task.quality()
        if quality is not None:
            self.trained_qualities[task.name] = max(quality, self.trained_qualities.get(task.name, -math.inf))
        return quality

    def _step(self, task: Task, optimizer: torch.optim.Optimizer, number: int, step: int) -> float:
        def run() -> Tensor:
            # Dropout uses the global generator: seeding each step makes it a function of (seed, task, step).
            torch.manual_seed(int(np.random.SeedSequence((self._limits.seed, number, step)).generate_state(1)[0]))
            return task.loss(step)

        task.module.train()
        loss = run()
        value = float(loss.detach())
        if not math.isfinite(value):
            batch = ", ".join(f"{count:,} {name}" for name, count in task.sizes(step).items())
            place = first_not_finite(task.module, run) or "the loss itself"
            raise DivergedError(f"the loss is {value} for {batch}, from {place} on; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    def _interruption_message(self, name: str, step: int) -> str:
        if self._folder is None:
            return f"training stopped in '{name}' after {step} steps; nothing was kept"
        return f"training stopped in '{name}' after {step} steps; the same command resumes from {self._folder}"

    @contextmanager
    def _display(
        self, task: Task, last: int, start: int
    ) -> Iterator[Callable[[int, float, float | None, float], None]]:
        note = TextColumn("{task.fields[note]}", table_column=Column())  # may wrap to two lines
        columns = ("{task.description}", note, TimeElapsedColumn(), TimeRemainingColumn())
        with Display(*columns, console=Console(stderr=True), disable=not self._progress) as display:
            bar = display.add_task(f"train {task.name}", total=last, completed=start, note="")
            rates = Rates(task.sent)

            def show(step: int, loss: float, quality: float | None, best: float) -> None:
                rates.add(task.sizes(step - 1))
                figures = rates.figures(task.sent)
                shown = {"step": step, "loss": loss} | ({"best ndcg@10": best} if math.isfinite(best) else {}) | figures
                display.update(bar, completed=step, note=" · ".join(map(_in_words, shown, shown.values())))
                if self._tracker is not None and (step % _TRACKED == 0 or step % task.steps_per_epoch == 0):
                    measured = {} if quality is None else {"ndcg_at_10": quality}
                    self._tracker(task.name, step, {"loss": loss, **measured, **figures})

            yield show


def _untrained_quality(task: Task) -> float:
    with _named(task, 0):
        quality = task.quality()
    return -math.inf if quality is None else quality


@contextmanager
def _named(task: Task, step: int) -> Iterator[None]:
    """Says where in the training an error of divergence was raised."""
    try:
        yield
    except DivergedError as error:
        epoch = step // task.steps_per_epoch + 1
        raise DivergedError(f"'{task.name}' diverged in epoch {epoch} after {step} steps: {error}") from error


class Trainer:
    """Trains every trainable view, then the fusion. With a ``folder`` it can be interrupted and resumed."""

    def __init__(
        self,
        config: TrainingConfig | None = None,
        folder: Path | None = None,
        progress: bool = True,
        *,
        fuses: bool = True,
    ) -> None:
        """fuses: whether to choose the views' weights and train the head; the hybrid combines its views itself."""
        self.config = config or TrainingConfig()
        self.folder, self.progress, self._fuses = folder, progress, fuses
        self.qualities: dict[str, float] = {}
        """Best validation ndcg@10 of every task of the last run."""
        self.trained_qualities: dict[str, float] = {}
        """The same after at least one epoch: lower than ``qualities`` for a ranking head that did not help."""
        self.epochs: dict[str, int] = {}
        """Best epoch of every task of the last run."""
        self._fixed_epochs: dict[str, int] | None = None
        """Exact number of epochs of each task, by name; None: early stopping."""

    def __call__(self, network: RecommenderNetwork, dataset: Dataset, validation: HeldOut) -> None:
        """Train in place.

        Raises:
            Interrupted: Ctrl-C; a checkpoint was written if there is a folder.
        """
        self._train(network, dataset, validation)

    def refit(self, network: RecommenderNetwork, dataset: Dataset) -> None:
        """Train every view on ``dataset`` for its best number of epochs in the last run; the fusion is not trained.

        Raises:
            Interrupted: as in ``__call__``.
        """
        again = Trainer(self.config, None if self.folder is None else self.folder / REFIT, self.progress)
        again._fixed_epochs = self.epochs
        again._train(network, dataset, None)

    def _train(self, network: RecommenderNetwork, dataset: Dataset, validation: HeldOut | None) -> None:
        network.to(device_of(self.config.device))
        run = _fingerprint_of_run(self.config, network, dataset, validation)
        tracker = tracker_of(self.config)
        loop = Loop(
            self.config,
            network.state_dict,
            folder=self.folder,
            run=run,
            checkpoint_seconds=self.config.checkpoint_seconds,
            progress=self.progress,
            tracker=tracker,
        )
        if loop.resumed is not None:
            network.load_state_dict(below("network.", loop.resumed[1]))
        self.epochs = loop.epochs
        for number, task in enumerate(self._tasks(network, dataset, validation)):
            loop.minimise(task, number, None if self._fixed_epochs is None else self._fixed_epochs.get(task.name, 0))
            self.qualities |= loop.qualities
            self.trained_qualities |= loop.trained_qualities

    def fuse(self, network: RecommenderNetwork, validation: HeldOut) -> None:
        """Train only the fusion, over frozen views; fast, and therefore without checkpoints."""
        network.to(device_of(self.config.device))
        loop = Loop(self.config, network.state_dict, progress=self.progress, tracker=tracker_of(self.config))
        for task in self._fusion_tasks(network, validation):
            loop.minimise(task)
        self.qualities |= loop.qualities
        self.trained_qualities |= loop.trained_qualities

    def _tasks(self, network: RecommenderNetwork, dataset: Dataset, validation: HeldOut | None) -> Iterator[Task]:
        config = self.config
        for name, view in network.views.items():
            if isinstance(view, View) and view.is_trained:
                own = replace(config, seed=config.seed + 1000 * list(network.views).index(name))
                yield ViewTask(network, name, dataset, validation, own)
                if isinstance(view, LanguageView):
                    # Every step moves all items through the same maps: at the full rate they never settle.
                    lower = replace(own, learning_rate=own.learning_rate / 10)
                    yield ViewTask(network, name, dataset, validation, lower, goes_on=True)
        if validation is not None and self._fuses:
            yield from self._fusion_tasks(network, validation)

    def _fusion_tasks(self, network: RecommenderNetwork, validation: HeldOut) -> Iterator[Task]:
        """Choose the weights, then yield the ranking head's task, if there is a head."""
        # A fast function of the trained views: a resumed run finds the same weights again.
        self.qualities["weights"] = choose_weights(network, validation)
        if any(True for _ in network.fusion.parameters()):
            yield FusionTask(network, validation, self.config)


def device_of(choice: str) -> torch.device:
    """Where to train; raises ``ConfigError`` for ``cuda`` if there is no CUDA device."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was requested, but no CUDA device is available; use 'auto' or 'cpu'")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def _fingerprint_of_run(
    config: TrainingConfig, network: RecommenderNetwork, dataset: Dataset, validation: HeldOut | None
) -> str:
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    parts = [
        asdict(config.decisive),
        shapes,
        str(network),
        LOWER_RATE,  # runs before there was this task had other numbers for their tasks
        [name for name, view in network.views.items() if isinstance(view, View) and view.starts_trained],
        fingerprint(dataset),
        0 if validation is None else len(validation),
        0 if validation is None else int(validation.positives.values.sum()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def trained_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _in_words(name: str, value: float) -> str:
    if name == "replica_mb_per_step":
        return f"{value:,.2f} MB to other replicas a step"
    if name == "memory_mib":
        return f"{value:,.0f} MiB"
    if name.endswith("_per_s"):
        return f"{value:,.0f} {name.removesuffix('_per_s')}/s"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
