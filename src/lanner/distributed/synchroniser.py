"""Gradient all-reduce over replicas: in buckets, in a fixed order, overlapped with the backward pass if possible."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lanner.distributed.buckets import bucket_bytes
from lanner.distributed.compressors import Compressor, Dense
from lanner.distributed.tensor import local
from lanner.distributed.wire import Wire


class Racks:
    """The groups of a hierarchical all-reduce: within each rack, and between the first ranks of all racks.

    Must be constructed by every process of the default group.
    """

    def __init__(self, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """groups: for each set of ranks to reduce over, its racks, each a list of ranks."""
        me = dist.get_rank()
        for racks in groups:
            for rack in racks:
                group = dist.new_group(list(rack))
                if me in rack:
                    self.inside = Wire(group)
            between = dist.new_group([rack[0] for rack in racks])
            if me in [rack[0] for rack in racks]:
                self.between: Wire | None = Wire(between)
            elif any(me in rack for rack in racks):
                self.between = None


class Synchroniser:
    """All-reduces the gradients of ``parameters`` over a group in each step.

    Buckets are filled from the last parameter to the first, the order of the backward pass, and processed sequentially
    in one thread: every rank starts the same collectives in the same order. A bucket starts once each of its gradients
    has been accumulated ``expected`` times; ``finish`` starts the rest and waits.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        wire: Wire,
        compressor: Compressor | None = None,
        *,
        racks: Racks | None = None,
        dense_steps: int = 0,
        expected: int | None = None,
    ) -> None:
        """dense_steps: initial steps without compression. expected: gradient accumulations per parameter in a step;
        None: everything waits for ``finish``. racks: reduce within each rack, all-reduce compressed between racks,
        broadcast within each rack."""
        self._wire, self._racks, self._dense_steps = wire, racks, dense_steps
        self.compressor, self._dense = compressor or Dense(), Dense()
        self.expected, self.step = expected, 0
        self._arrived: dict[str, int] = {}
        self._running: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, "gradients") if expected is not None else None
        self._hooks: list[Any] = []
        self.take_over(parameters, {})

    def take_over(self, parameters: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor]) -> None:
        """Reduce the gradients of these parameters from now on. kept: their compression residuals, by name."""
        for hook in self._hooks:
            hook.remove()
        self._parameters = {name: one for name, one in parameters.items() if one.requires_grad}
        self.compressor.kept = dict(kept)
        total = sum(4 * local(one).numel() for one in self._parameters.values())
        # Dense first steps use the buckets of the compressor.
        self._buckets = _buckets(self._parameters, bucket_bytes(total, self.compressor.share))
        self._bucket_of = {name: number for number, names in enumerate(self._buckets) for name in names}
        self._waiting = [len(names) for names in self._buckets]
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, name))  # type: ignore[no-untyped-call]
            for name, parameter in self._parameters.items()
            if self.expected is not None
        ]

    @property
    def sent(self) -> int:
        """Bytes that this rank has sent."""
        inside = 0 if self._racks is None else self._racks.inside.sent
        between = 0 if self._racks is None or self._racks.between is None else self._racks.between.sent
        return self._wire.sent + inside + between

    def finish(self) -> None:
        """Wait until every gradient is the sum over the group."""
        while len(self._running) < len(self._buckets):
            self._start()
        for bucket in self._running:
            bucket.result()
        self._running, self._arrived = [], {}
        self._waiting = [len(names) for names in self._buckets]
        self.step += 1

    def _on_gradient(self, name: str, parameter: Tensor) -> None:
        self._arrived[name] = self._arrived.get(name, 0) + 1
        if self._arrived[name] != self.expected:
            return
        self._waiting[self._bucket_of[name]] -= 1
        while len(self._running) < len(self._buckets) and self._waiting[len(self._running)] == 0:
            self._start()

    def _start(self) -> None:
        names = self._buckets[len(self._running)]
        if self._thread is not None:
            self._running.append(self._thread.submit(self._sum, names))
            return
        done: Future[None] = Future()
        self._sum(names)
        done.set_result(None)
        self._running.append(done)

    @torch.no_grad()
    def _sum(self, names: Iterable[str]) -> None:
        bucket = {name: self._gradient(name) for name in names}
        compressor = self._dense if self.step < self._dense_steps else self.compressor
        if self._racks is None:
            compressor.reduce(bucket, self._wire)
            return
        flat = torch.cat([one.reshape(-1) for one in bucket.values()])
        self._racks.inside.sum_at_first(flat)
        pieces = torch.split(flat, [one.numel() for one in bucket.values()])
        if self._racks.between is not None:
            compressor.reduce(
                {name: piece.view_as(bucket[name]) for name, piece in zip(bucket, pieces, strict=True)},
                self._racks.between,
            )
        self._racks.inside.from_first(flat)
        for one, piece in zip(bucket.values(), pieces, strict=True):
            one.copy_(piece.view_as(one))

    def _gradient(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return local(parameter.grad)


def _buckets(parameters: Mapping[str, nn.Parameter], limit: int) -> list[list[str]]:
    buckets: list[list[str]] = []
    filled = limit
    for name in reversed(list(parameters)):
        size = local(parameters[name]).numel() * 4
        if filled + size > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(name)
        filled += size
    return buckets
