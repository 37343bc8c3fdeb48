"""The ranks of a training run: rank 0 leads, the others follow.

Rank 0 runs the whole program. The others hold their part of the language model and execute rank 0's commands: a loss
that needs all vectors at once is computed once, where the data is.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from enum import IntEnum
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lanner.distributed.engine import MOMENTS, Engine
from lanner.distributed.migration import LoadBalancing
from lanner.distributed.watch import Watch
from lanner.distributed.wire import told_by_all
from lanner.errors import ConfigError, LannerError, RanksEndedError

Made = TypeVar("Made")
Prepare = Callable[[], Callable[[], Engine]]
"""Does what may fail on a single rank, such as reading the model; returns a collective factory of the engine."""
_THREADS = torch.get_num_threads()
_TIMEOUT = timedelta(days=7)
"""Timeout of collectives: another rank may be reading data; a dead rank is noticed at once."""


class _Order(IntEnum):
    BEGIN, VECTORS, VECTORS_TO_LEARN, LEARN, STATE, SET_STATE, STOP = range(7)


@contextmanager
def joined() -> Iterator[int]:
    """Join the process group as one of the ranks that torch's launcher started; yields the rank.

    Raises:
        ConfigError: this process was not started by a launcher.
    """
    if "RANK" not in os.environ:
        raise ConfigError("this process is not a rank of a run; start one with --nproc or torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    # Hide torch's own deprecation warnings, which every rank would repeat.
    warnings.filterwarnings("ignore", category=FutureWarning)
    dist.init_process_group(backend, timeout=_TIMEOUT)
    rank = dist.get_rank()
    if rank:
        # Only rank 0 decides when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _THREADS // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    try:
        yield rank
    finally:
        part()


def is_divided() -> bool:
    """Whether this process is currently one of several ranks."""
    return dist.is_initialized()


def part() -> None:
    """Leave the process group; rank 0 first stops the other ranks, unless they have already exited."""
    if not is_divided():
        return
    if dist.get_rank() == 0:
        with suppress(RuntimeError):
            _broadcast_command(_Order.STOP)
    dist.destroy_process_group()
    torch.set_num_threads(_THREADS)


def follow(prepare: Prepare) -> None:
    """Execute rank 0's commands until it sends STOP.

    Raises:
        LannerError: the same error that rank 0 raises and reports.
        RanksEndedError: rank 0 was lost.
    """
    if _receive_command(torch.device("cpu"))[0] == _Order.STOP:
        return
    member = _Member(prepare)
    while True:
        order, given = _receive_command(member.engine.device)
        if order == _Order.STOP:
            return
        member.follow(order, given)


class Leader:
    """Rank 0's interface to the engine of all ranks."""

    def __init__(self, prepare: Prepare) -> None:
        """Raises ``LannerError`` if any rank fails to start."""
        _broadcast_command(_Order.BEGIN)
        self._member = _Member(prepare)

    @property
    def engine(self) -> Engine:
        """This rank's part."""
        return self._member.engine

    def vectors(self, ids_BL: Tensor, mask_BL: Tensor, *, to_learn: bool = False) -> Tensor:
        """Vectors ``[B, D]`` without gradient, for any number of rows; to_learn: see ``Engine.vectors``."""
        rows = self._row_order(mask_BL)
        batch = _take_rows(rows, ids_BL, mask_BL)
        _broadcast_command(_Order.VECTORS_TO_LEARN if to_learn else _Order.VECTORS, *batch)
        vectors_BD = self._member.vectors(*batch, to_learn=to_learn)
        out = torch.empty_like(vectors_BD)
        out[rows] = vectors_BD
        return out[: len(ids_BL)]

    def learn(self, ids_BL: Tensor, mask_BL: Tensor, gradient_BD: Tensor) -> None:
        """One step from the gradient of a loss with respect to the vectors; raises ``DivergedError``."""
        batch = _take_rows(self._row_order(mask_BL), ids_BL, mask_BL, gradient_BD)
        _broadcast_command(_Order.LEARN, *batch)
        self._member.learn(*batch)

    def state(self) -> dict[str, list[Tensor]]:
        """Each trained parameter with both AdamW moments, unsharded, by name in the chain."""
        _broadcast_command(_Order.STATE)
        flat = self._member.state()
        assert flat is not None
        shapes = self.engine.whole_shapes
        parts = [torch.split(one, [shape.numel() for shape in shapes.values()]) for one in flat]
        return {
            name: [part.view(shape) for part in mine]
            for (name, shape), *mine in zip(shapes.items(), *parts, strict=True)
        }

    def set_state(self, steps: int, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Resume after ``steps`` steps from a result of ``state``."""
        flat = [torch.cat([one.reshape(-1) for one in kind]) for kind in zip(*state.values(), strict=True)]
        _broadcast_command(_Order.SET_STATE, torch.tensor([steps], device=flat[0].device), *flat)
        self.engine.set_state(steps, flat)

    def _row_order(self, mask_BL: Tensor) -> Tensor:
        """Row order by micro-batch; padding rows have indices past the last row.

        Micro-batches that run concurrently have texts of similar length: each is only as wide as its longest text.
        """
        each = self.engine.parts
        size = -(-len(mask_BL) // sum(each))
        order = torch.argsort(mask_BL.sum(1).cpu(), descending=True, stable=True)
        blocks = torch.cat([order, torch.arange(len(order), size * sum(each))]).view(-1, size)
        # With local steps, replicas take turns with the longest texts.
        first = self.engine.steps if self.engine.config.local_steps else 0
        turns = sorted(
            (turn / count, (rank + first) % len(each), rank, turn)
            for rank, count in enumerate(each)
            for turn in range(count)
        )
        place = {(rank, turn): number for number, (*_, rank, turn) in enumerate(turns)}
        return blocks[[place[rank, turn] for rank, count in enumerate(each) for turn in range(count)]].reshape(-1)


class _Member:
    """A rank's part of the work."""

    def __init__(self, prepare: Prepare) -> None:
        self.engine = agreed(prepare)()
        config = self.engine.config
        self._balancing = LoadBalancing(self.engine) if config.balancing else None
        self._watch = Watch(config.step_timeout) if config.step_timeout else None

    def vectors(self, ids_BL: Tensor, mask_BL: Tensor, *, to_learn: bool = False) -> Tensor:
        with self._watched():
            return self.engine.vectors(ids_BL, mask_BL, to_learn=to_learn)

    def learn(self, ids_BL: Tensor, mask_BL: Tensor, gradient_BD: Tensor) -> None:
        with self._watched(), nullcontext() if self._balancing is None else self._balancing.step():
            self.engine.learn(ids_BL, mask_BL, gradient_BD)

    def state(self) -> list[Tensor] | None:
        with self._watched():
            return self.engine.state()

    def _watched(self) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.step(self.engine.steps)

    def follow(self, order: _Order, given: Sequence[Tensor]) -> None:
        match order:
            case _Order.VECTORS | _Order.VECTORS_TO_LEARN:
                self.vectors(*given, to_learn=order == _Order.VECTORS_TO_LEARN)
            case _Order.LEARN:
                self.learn(*given)
            case _Order.STATE:
                self.state()
            case _:
                self.engine.set_state(int(given[0]), given[1:])


def agreed(make: Callable[[], Made]) -> Made:
    """The result of ``make`` on this rank; ``make`` must not communicate.

    Raises:
        LannerError: if any rank fails, the first one's error, on every rank.
    """
    refusal, made = None, None
    try:
        made = make()
    except LannerError as error:
        refusal = error
    told = told_by_all(str(refusal or ""), torch.device("cpu"))
    first = next((rank for rank, line in enumerate(told) if line), None)
    if first is None:
        assert made is not None
        return made
    if first == dist.get_rank() and refusal is not None:
        raise refusal
    raise ConfigError(told[first] if first == 0 else f"rank {first}: {told[first]}")


def _take_rows(rows: Tensor, ids_BL: Tensor, mask_BL: Tensor, *more: Tensor) -> list[Tensor]:
    """The rows in that order; padding rows are one-token texts with zero gradient."""
    missing = len(rows) - len(ids_BL)
    filled = [torch.cat([one, one.new_zeros(missing, one.shape[1])]) for one in (ids_BL, mask_BL, *more)]
    filled[1][len(ids_BL) :, 0] = 1
    return [one[rows.to(one.device)] for one in filled]


_KINDS = (torch.int64, torch.float32)
_MAX_ARGUMENTS = 2 + len(MOMENTS)


def _broadcast_command(order: _Order, *given: Tensor) -> None:
    """Broadcast a command and its arguments, tensors of one or two dimensions, to the other ranks."""
    shapes = [[_KINDS.index(one.dtype), *one.shape, 0][:3] for one in given]
    shapes += [[-1, 0, 0]] * (_MAX_ARGUMENTS - len(given))
    dist.broadcast(torch.tensor([order, *(number for shape in shapes for number in shape)]), 0)
    for one in given:
        dist.broadcast(one.contiguous(), 0)


def _receive_command(device: torch.device) -> tuple[_Order, list[Tensor]]:
    """Rank 0's next command.

    Raises:
        RanksEndedError: rank 0 was lost. With exit code 0, a launcher on several nodes would think that all is done.
    """
    header = torch.empty(1 + 3 * _MAX_ARGUMENTS, dtype=torch.int64)
    try:
        dist.broadcast(header, 0)
    except RuntimeError:
        raise RanksEndedError(1) from None
    order, *shapes = header.tolist()
    given = []
    for kind, rows, columns in zip(*[iter(shapes)] * 3, strict=True):
        if kind >= 0:
            given.append(torch.empty((rows, columns) if columns else (rows,), dtype=_KINDS[kind], device=device))
            dist.broadcast(given[-1], 0)
    return _Order(order), given
