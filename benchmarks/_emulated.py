"""Devices of a fixed speed on a machine with fewer cores than ranks.

Each layer of a rank really computes, then sleeps until its device would have finished: a fixed time per row, divided
by the tensor degree, times the rank's slowness, less the CPU time of this thread. Waiting for a core or for the network
thus does not count as layer time, and traffic, losses and gradients are real. ``overruns`` counts layers whose
computation alone took longer than their device would.
"""

import time
from typing import Any

from torch import Tensor, nn

from lanner.distributed.chain import Chain


class Device:
    """The emulated device of this rank."""

    def __init__(self, forward: float, backward: float, slowness: float, tensor: int) -> None:
        """forward, backward: seconds per layer and row on a device of slowness 1."""
        self._forward, self._backward = forward * slowness / tensor, backward * slowness / tensor
        self.busy, self.passes, self.overruns = 0.0, 0, 0

    def emulate(self, chain: Chain) -> None:
        """Run every layer of a chain at this device's speed."""
        for layer in chain.layers:
            self._watch(layer)

    def _wait(self, since: float, seconds: float) -> None:
        rest = seconds - (time.thread_time() - since)
        self.busy += seconds
        self.passes += 1
        self.overruns += rest < 0
        time.sleep(max(0.0, rest))

    def _watch(self, layer: nn.Module) -> None:
        begun = [0.0]

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            begun[0] = time.thread_time()

        def after(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            self._wait(begun[0], self._forward * len(given[0]))
            hidden, source = out[0] if isinstance(out, tuple) else out, given[0]
            if not (hidden.requires_grad and source.requires_grad):
                return
            back: list[float] = []
            hidden.register_hook(lambda gradient: back.append(time.thread_time()))

            def ended(gradient: Tensor) -> None:
                handle.remove()
                self._wait(back[0], self._backward * len(gradient))

            handle = source.register_hook(ended)

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
