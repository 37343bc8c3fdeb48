"""Low-communication data parallelism: replicas take many local steps, then average their weights.

Local SGD (Stich, 2018) averages the weights; DiLoCo (Douillard et al., 2023) uses the mean change as the gradient of an
outer optimiser with momentum; streaming DiLoCo (Douillard et al., 2025) averages one fragment of the weights at a time,
overlapped with further steps. Replicas of unequal speed take unequal numbers of steps in a round (dynamic local
updates; Liu et al., 2024), and count by what they learned from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from lanner.distributed.compressors import Compressor, Dense, compressor_of
from lanner.distributed.config import AveragingConfig
from lanner.distributed.wire import Wire
from lanner.errors import ConfigError


class Averaging:
    """The outer optimiser of one replica. Call ``after_batch`` after the inner steps on each batch."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], wire: Wire, config: AveragingConfig) -> None:
        """wire: over a dedicated group, one rank per replica, all with the same weights."""
        self.config, self.wire = config, wire
        self._parameters = {name: one for name, one in parameters.items() if one.requires_grad}
        self._fragments = fragments(self._parameters, config.fragments)
        self._thread = ThreadPoolExecutor(1, "averages")
        self.begin()

    def begin(self) -> None:
        """Start a first round from the current weights, which are the same on every replica."""
        self._begin_round()
        self._compressor: Compressor = compressor_of(self.config.compression)
        self._known = {name: one.detach().clone() for name, one in self._parameters.items()}
        self._speed = {name: torch.zeros_like(one) for name, one in self._known.items()}
        self._coming: tuple[int, Sequence[str], dict[str, Tensor], dict[str, Tensor], Future[None]] | None = None

    def _begin_round(self) -> None:
        self.batches = 0
        self._counted = Counter({"own": 0, "all": 0})
        self._last = [self._counted.copy() for _ in self._fragments]

    @torch.no_grad()
    def after_batch(self, own: int = 1, everyone: int | None = None) -> None:
        """Send the fragment that is due, and apply the average that has arrived.

        own: what this replica learned from the batch: steps, or micro-batches of equal size. everyone: the sum over all
        replicas; None: as much as this one each. Replicas are weighted by it.
        """
        self.batches += 1
        self._counted.update(own=own, all=own * self.wire.size if everyone is None else everyone)
        if self._coming is not None and self.batches >= self._coming[0]:
            self._apply_pending()
        each = self.config.local_steps // self.config.fragments
        if self.batches % each == 0:
            number = self.batches // each % self.config.fragments
            names, weight = self._fragments[number], self._weight(self._last[number])
            self._last[number] = self._counted.copy()
            sent = {name: self._parameters[name].detach().clone() for name in names}
            moved = {name: (self._known[name] - sent[name]) * weight for name in names}
            done = self._thread.submit(self._compressor.reduce, moved, self.wire)
            self._coming = (self.batches + self.config.delay, names, sent, moved, done)
            if not self.config.delay:
                self._apply_pending()

    def _weight(self, since: Mapping[str, int]) -> float:
        """This replica's part of what all have learned since then; an equal part if nothing."""
        own, everyone = (self._counted[name] - since[name] for name in ("own", "all"))
        return own / everyone if everyone else 1 / self.wire.size

    @torch.no_grad()
    def finish(self) -> None:
        """Set all replicas to their mean, weighted as above, and start a new round."""
        if self._coming is not None:
            self._apply_pending()
        totals = {}
        for names, last in zip(self._fragments, self._last, strict=True):
            weight = self._weight(last)
            totals.update({name: self._parameters[name].detach() * weight for name in names})
        Dense().reduce(totals, self.wire)
        for name, total in totals.items():
            self._parameters[name].copy_(total)
            self._known[name].copy_(total)
        self._begin_round()

    def _apply_pending(self) -> None:
        assert self._coming is not None
        _, names, sent, moved, done = self._coming
        self._coming = None
        done.result()
        config = self.config
        for name in names:
            gradient, speed = moved[name], self._speed[name]
            speed.mul_(config.outer_momentum).add_(gradient)
            self._known[name] -= config.outer_rate * (gradient + config.outer_momentum * speed)
            if config.delay:  # keep the local steps taken since it was sent
                self._parameters[name].add_(self._known[name] - sent[name])
            else:
                self._parameters[name].copy_(self._known[name])


def fragments(parameters: Mapping[str, Tensor], count: int) -> list[list[str]]:
    """Parameter names in ``count`` parts of about equal size, in order.

    Raises:
        ConfigError: more parts than parameters.
    """
    if count > len(parameters):
        raise ConfigError(f"fragments={count}, but only {len(parameters)} parameters are trained")
    total = sum(one.numel() for one in parameters.values())
    parts: list[list[str]] = [[] for _ in range(count)]
    seen = 0
    names = list(parameters)
    for place, name in enumerate(names):
        size = parameters[name].numel()
        wanted = min(count - 1, int((seen + size / 2) / total * count))
        # No part may stay empty.
        first_open = next((number for number, part in enumerate(parts) if not part), count)
        parts[min(wanted, first_open) if len(names) - place > count - first_open else first_open].append(name)
        seen += size
    return parts
