"""The ranks of one training run: how they begin, and how one leads while the others follow.

Rank 0 runs the whole program. The others hold their part of the language model and do what rank 0 tells them: a loss
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
from lanner.errors import ConfigError, LannerError

Made = TypeVar("Made")
Prepare = Callable[[], Callable[[], Engine]]
"""Does what may fail on this rank alone, such as reading the model; what it gives makes the engine with all others."""
_THREADS = torch.get_num_threads()
_PATIENCE = timedelta(days=7)
"""How long a rank waits for another, which may be reading data; one that has died is noticed at once."""


class _Order(IntEnum):
    BEGIN, VECTORS, VECTORS_TO_LEARN, LEARN, STATE, SET_STATE, STOP = range(7)


@contextmanager
def joined() -> Iterator[int]:
    """This process as one of the ranks that torch's launcher started; gives its number.

    Raises:
        ConfigError: no launcher has said which rank this is.
    """
    if "RANK" not in os.environ:
        raise ConfigError("this process is no rank of a run; start one by --nproc, or by torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    # Of what torch itself will name otherwise one day, a rank need not tell.
    warnings.filterwarnings("ignore", category=FutureWarning)
    dist.init_process_group(backend, timeout=_PATIENCE)
    rank = dist.get_rank()
    if rank:
        # Rank 0 alone decides when to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _THREADS // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    try:
        yield rank
    finally:
        part()


def is_divided() -> bool:
    """Whether this process is one of several ranks now."""
    return dist.is_initialized()


def part() -> None:
    """Be a process of its own again; rank 0 lets the others go, where they have not gone already."""
    if not is_divided():
        return
    if dist.get_rank() == 0:
        with suppress(RuntimeError):
            _tell(_Order.STOP)
    dist.destroy_process_group()
    torch.set_num_threads(_THREADS)


def follow(prepare: Prepare) -> None:
    """Do what rank 0 tells until it lets go.

    Raises:
        LannerError: what rank 0 raises, too, and tells.
    """
    if _heard(torch.device("cpu"))[0] == _Order.STOP:
        return
    member = _Member(prepare)
    while True:
        order, given = _heard(member.engine.device)
        if order == _Order.STOP:
            return
        member.follow(order, given)


class Leader:
    """The engine of all ranks, as rank 0 uses it."""

    def __init__(self, prepare: Prepare) -> None:
        """Raises ``LannerError`` where any rank cannot begin."""
        _tell(_Order.BEGIN)
        self._member = _Member(prepare)

    @property
    def engine(self) -> Engine:
        """This rank's part."""
        return self._member.engine

    def vectors(self, ids_BL: Tensor, mask_BL: Tensor, *, to_learn: bool = False) -> Tensor:
        """Vectors ``[B, D]`` without gradient, of any number of rows; to_learn: as of ``Engine.vectors``."""
        rows = self._arranged(mask_BL)
        batch = _taken(rows, ids_BL, mask_BL)
        _tell(_Order.VECTORS_TO_LEARN if to_learn else _Order.VECTORS, *batch)
        vectors_BD = self._member.vectors(*batch, to_learn=to_learn)
        out = torch.empty_like(vectors_BD)
        out[rows] = vectors_BD
        return out[: len(ids_BL)]

    def learn(self, ids_BL: Tensor, mask_BL: Tensor, gradient_BD: Tensor) -> None:
        """One step by the gradient of a loss by the vectors; raises ``DivergedError``."""
        batch = _taken(self._arranged(mask_BL), ids_BL, mask_BL, gradient_BD)
        _tell(_Order.LEARN, *batch)
        self._member.learn(*batch)

    def state(self) -> dict[str, list[Tensor]]:
        """Each trained parameter with both moments of AdamW, whole, by its name in the chain."""
        _tell(_Order.STATE)
        flat = self._member.state()
        assert flat is not None
        shapes = self.engine.whole_shapes
        parts = [torch.split(one, [shape.numel() for shape in shapes.values()]) for one in flat]
        return {
            name: [part.view(shape) for part in mine]
            for (name, shape), *mine in zip(shapes.items(), *parts, strict=True)
        }

    def set_state(self, steps: int, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Go on after ``steps`` steps with what ``state`` gave."""
        flat = [torch.cat([one.reshape(-1) for one in kind]) for kind in zip(*state.values(), strict=True)]
        _tell(_Order.SET_STATE, torch.tensor([steps], device=flat[0].device), *flat)
        self.engine.set_state(steps, flat)

    def _arranged(self, mask_BL: Tensor) -> Tensor:
        """Rows in the order of micro-batches, those that only fill up behind the last one.

        Micro-batches that run at the same time have texts of like length: each is only as wide as its longest text.
        """
        each = self.engine.parts
        size = -(-len(mask_BL) // sum(each))
        order = torch.argsort(mask_BL.sum(1).cpu(), descending=True, stable=True)
        blocks = torch.cat([order, torch.arange(len(order), size * sum(each))]).view(-1, size)
        # Replicas that learn alone take turns with the longest texts.
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
    """What ``make``, which asks no other rank, gives on this one.

    Raises:
        LannerError: on every rank, what the first rank was refused that was.
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


def _taken(rows: Tensor, ids_BL: Tensor, mask_BL: Tensor, *more: Tensor) -> list[Tensor]:
    """Those rows; what only fills up is a text of one token that nothing is learned from."""
    missing = len(rows) - len(ids_BL)
    filled = [torch.cat([one, one.new_zeros(missing, one.shape[1])]) for one in (ids_BL, mask_BL, *more)]
    filled[1][len(ids_BL) :, 0] = 1
    return [one[rows.to(one.device)] for one in filled]


_KINDS = (torch.int64, torch.float32)
_MOST_GIVEN = 2 + len(MOMENTS)


def _tell(order: _Order, *given: Tensor) -> None:
    """What the others are to do, and with what: tensors of one or two dimensions."""
    shapes = [[_KINDS.index(one.dtype), *one.shape, 0][:3] for one in given]
    shapes += [[-1, 0, 0]] * (_MOST_GIVEN - len(given))
    dist.broadcast(torch.tensor([order, *(number for shape in shapes for number in shape)]), 0)
    for one in given:
        dist.broadcast(one.contiguous(), 0)


def _heard(device: torch.device) -> tuple[_Order, list[Tensor]]:
    """What rank 0 told; to stop, if it has ended without a word."""
    told = torch.empty(1 + 3 * _MOST_GIVEN, dtype=torch.int64)
    try:
        dist.broadcast(told, 0)
    except RuntimeError:
        return _Order.STOP, []
    order, *shapes = told.tolist()
    given = []
    for kind, rows, columns in zip(*[iter(shapes)] * 3, strict=True):
        if kind >= 0:
            given.append(torch.empty((rows, columns) if columns else (rows,), dtype=_KINDS[kind], device=device))
            dist.broadcast(given[-1], 0)
    return _Order(order), given
