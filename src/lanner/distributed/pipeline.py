"""Pipeline parallelism: which layers a rank holds, and torch's schedules that run them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, schedules

from lanner.distributed.chain import Stage
from lanner.distributed.schedules import ScheduleKind, rank_of
from lanner.distributed.simulator import Event, Kind, Operation
from lanner.distributed.stamps import Stamp, seconds_between, stamp
from lanner.errors import ConfigError


def even_bounds(layers: int, stages: int) -> tuple[int, ...]:
    """Stage boundaries ``[stages + 1]`` for layers of equal cost."""
    return tuple(round(place * layers / stages) for place in range(stages + 1))


def check_bounds(bounds: Sequence[int], layers: int, stages: int) -> None:
    """Raises ``ConfigError`` unless ``bounds`` split ``layers`` into ``stages`` non-empty parts."""
    rising = all(first < last for first, last in pairwise(bounds))
    if len(bounds) != stages + 1 or bounds[0] != 0 or bounds[-1] != layers or not rising:
        raise ConfigError(
            f"pipeline bounds {list(bounds)} do not cut {layers} layers into {stages} stages; "
            f"give {stages + 1} rising numbers from 0 to {layers}"
        )


class _TimedStage(PipelineStage):
    """A torch pipeline stage that records the times of its operations."""

    def __init__(
        self, events: list[tuple[Operation, Stamp, Stamp]], module: Stage, number: int, *given: Any, **options: Any
    ) -> None:
        super().__init__(module, number, *given, **options)
        self._events = events

    def forward_one_chunk(self, fwd_chunk_id: int, *given: Any, **options: Any) -> Any:
        with self._timed("F", fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *given, **options)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> Any:
        with self._timed("B" if full_backward else "I", bwd_chunk_id):
            return super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *given: Any, **options: Any) -> Any:
        with self._timed("W", bwd_chunk_id):
            return super().backward_weight_one_chunk(bwd_chunk_id, *given, **options)

    @contextmanager
    def _timed(self, kind: Kind, micro_batch: int) -> Iterator[None]:
        begin = stamp(self.device)
        yield
        self._events.append((Operation(self.stage_index, kind, micro_batch), begin, stamp(self.device)))


class Pipeline:
    """This rank's stages, run by a torch schedule over micro-batches.

    Each batch shape has its own schedule, since torch's buffers have a fixed shape.
    """

    def __init__(
        self,
        stages: Mapping[int, Stage],
        num_stages: int,
        kind: ScheduleKind,
        micro_batches: int,
        group: dist.ProcessGroup,
        device: torch.device,
    ) -> None:
        """stages: by index in the pipeline."""
        self.stages, self.num_stages, self.micro_batches = stages, num_stages, micro_batches
        self.kind, self.group, self.device = kind, group, device
        self._events: list[tuple[Operation, Stamp, Stamp]] = []
        self._begun = stamp(device), time.perf_counter()
        self._loss: Callable[[Tensor, Any], Tensor] | None = None
        self._schedules: dict[tuple[int, ...], Any] = {}

    @property
    def events(self) -> list[Event]:
        """Operations of this rank in the last step, in seconds of ``time.perf_counter``; losses excluded."""
        first, clock = self._begun
        return [
            Event(dist.get_rank(), operation, *(clock + seconds_between(first, one) for one in (begin, end)))
            for operation, begin, end in self._events
        ]

    @property
    def ends(self) -> bool:
        """Whether this rank has the last stage."""
        return self.num_stages - 1 in self.stages

    def step(
        self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Callable[[Tensor, Any], Tensor]
    ) -> list[Tensor]:
        """Forward and backward pass of all micro-batches, summing gradients; returns the losses on the last stage."""
        shape = tuple(ids_BL.shape)
        if shape not in self._schedules:
            self._schedules[shape] = self._schedule()
        self._loss = loss
        self._events.clear()
        self._begun = stamp(self.device), time.perf_counter()
        losses: list[Tensor] = []
        first = (ids_BL,) if 0 in self.stages else ()
        last = {"target": target, "losses": losses} if self.ends else {}
        self._schedules[shape].step(*first, mask_BL=mask_BL, **last)
        return [one.detach() for one in losses]

    @torch.no_grad()
    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor | None:
        """Vectors ``[B, D]`` on the rank with the last stage, else None."""
        out = []
        for ids, mask in zip(ids_BL.chunk(self.micro_batches), mask_BL.chunk(self.micro_batches), strict=True):
            for number in sorted(self.stages):
                given = ids if number == 0 else self._receive(number)
                hidden = self.stages[number](given, mask)
                if number == self.num_stages - 1:
                    out.append(hidden)
                else:
                    self._send(hidden, number)
        return torch.cat(out) if self.ends else None

    def _owner(self, stage: int) -> int:
        return rank_of(stage, dist.get_world_size(self.group), self.kind)

    def _send(self, hidden: Tensor, stage: int) -> None:
        to = self._owner(stage + 1)
        if to == dist.get_rank(self.group):
            self._kept = hidden
            return
        shape = torch.tensor(hidden.shape, device=hidden.device)
        dist.send(shape, group=self.group, group_dst=to)
        dist.send(hidden.contiguous(), group=self.group, group_dst=to)

    def _receive(self, stage: int) -> Tensor:
        source = self._owner(stage - 1)
        if source == dist.get_rank(self.group):
            return self._kept
        shape = torch.zeros(3, dtype=torch.int64, device=self.device)
        dist.recv(shape, group=self.group, group_src=source)
        hidden = torch.empty(tuple(shape.tolist()), device=self.device)
        dist.recv(hidden, group=self.group, group_src=source)
        return hidden

    def _schedule(self) -> Any:
        stages = [
            _TimedStage(self._events, stage, number, self.num_stages, self.device, group=self.group)
            for number, stage in self.stages.items()
        ]
        options = {"loss_fn": lambda out, target: self._loss_of(out, target), "scale_grads": False}
        made: Callable[..., Any] = getattr(schedules, self.kind.name)
        return made(stages if self.kind.stages_per_rank > 1 else stages[0], self.micro_batches, **options)

    def _loss_of(self, out: Tensor, target: Tensor) -> Tensor:
        assert self._loss is not None
        return self._loss(out, target)
