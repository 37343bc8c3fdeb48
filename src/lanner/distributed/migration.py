"""Balances load during training: moves layers between pipeline stages, and micro-batches between replicas.

Layers move with weights, optimiser state and compression residuals.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lanner.distributed.balance import Balancer, measured_costs
from lanner.distributed.chain import Chain
from lanner.distributed.config import EngineConfig
from lanner.distributed.engine import Engine
from lanner.distributed.schedules import schedule_kind, share_steps
from lanner.distributed.stamps import Stamp, seconds_between, stamp
from lanner.distributed.tensor import local
from lanner.errors import ConfigError

_MOMENTS = ("exp_avg", "exp_avg_sq")


class LayerClock:
    """Seconds per layer of this rank, forward and backward, summed over micro-batches."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[int, Stamp, Stamp]] = []

    @contextmanager
    def watching(self, modules: Iterable[tuple[int, nn.Module]]) -> Iterator[None]:
        """Measure inside the block. modules: each with the number of the layer that its time counts towards."""
        hooks = [hook for number, module in modules for hook in self._watch(number, module)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self) -> dict[int, float]:
        """Seconds by layer since the last call."""
        found: dict[int, float] = {}
        for number, begin, end in self._spans:
            found[number] = found.get(number, 0.0) + seconds_between(begin, end)
        self._spans.clear()
        return found

    def _watch(self, number: int, module: nn.Module) -> list[Any]:
        started: list[Stamp] = []
        backward: list[Stamp] = []

        def add(since: Stamp) -> None:
            self._spans.append((number, since, stamp(self._device)))

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            started[:] = [stamp(self._device)]

        def after(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            add(started[0])
            hidden, source = out[0] if isinstance(out, tuple) else out, given[0]
            if not hidden.requires_grad:
                return
            if not source.requires_grad:
                hidden.register_hook(lambda gradient: backward.__setitem__(slice(None), [stamp(self._device)]))
                return
            back: list[Stamp] = []
            hidden.register_hook(lambda gradient: back.append(stamp(self._device)))

            def ended(gradient: Tensor) -> None:
                # Buffers are reused, so each hook serves one pass.
                handle.remove()
                if back:  # not after a recomputation, whose output has no gradient
                    add(back[0])

            handle = source.register_hook(ended)

        def accumulated(parameter: Tensor) -> None:
            # Where nothing below is trained, the backward pass ends with the gradient of the last parameter.
            if backward:
                add(backward[0])
                backward[:] = [stamp(self._device)]

        trained: list[Any] = [
            one.register_post_accumulate_grad_hook for one in module.parameters() if one.requires_grad
        ]
        return [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after),
            *(hooked(accumulated) for hooked in trained),
        ]


def expected_costs(chain: Chain) -> list[float]:
    """Relative costs of the layers before any is measured: parameters × passes over them.

    A layer has a forward pass, one for the gradients of its trained parameters, and, if anything below it is trained,
    one for the gradient of its input.
    """
    below = any(one.requires_grad for one in chain.embeddings.parameters())
    costs = []
    for layer in chain.layers:
        sizes = [(one.numel(), one.requires_grad) for one in layer.parameters()]
        total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
        costs.append(float(total * (1 + below) + trained))
        below = below or trained > 0
    return [cost / max(costs) for cost in costs]


def can_move_layers(config: EngineConfig) -> bool:
    """Whether layers can be moved: a pipeline with one stage per rank, in replicas that train together."""
    degrees = config.degrees
    one_stage = degrees.pipeline > 1 and schedule_kind(config.schedule).stages_per_rank == 1
    return one_stage and degrees.shards == 1 and not config.local_steps


def can_share(config: EngineConfig) -> bool:
    """Whether micro-batches can be moved between replicas: some have more than the schedule needs."""
    degrees, (least, each) = config.degrees, share_steps(schedule_kind(config.schedule), config.degrees.pipeline)
    total = sum(config.shares or [config.micro_batches] * degrees.replicas)
    enough = total >= least * degrees.replicas + each and total % each == 0
    return degrees.replicas > 1 and degrees.shards == 1 and enough


def check_balancing(config: EngineConfig) -> None:
    """Raises ``ConfigError`` if neither layers nor micro-batches can be moved."""
    if not can_move_layers(config) and not can_share(config):
        raise ConfigError(
            "parallel.balancing: layers can be moved with pp above 1, one stage per rank (gpipe, 1f1b), shard 1 and no "
            "local_steps, micro-batches with replicate above 1, shard 1 and larger parallel.micro_batches; received "
            f"{config.degrees.arithmetic}, {config.schedule}, micro_batches={config.micro_batches}"
        )


class LoadBalancing:
    """Measures an engine's layers, and moves them between stages, or micro-batches between replicas, if it pays."""

    def __init__(self, engine: Engine, balancer: Balancer | None = None) -> None:
        """Raises ``ConfigError`` as ``check_balancing`` does."""
        check_balancing(engine.config)
        self.balancer = balancer or Balancer()
        """Decides on layers."""
        self.sharing = replace(self.balancer, moves=[])
        """Decides on micro-batches."""
        self._expected = expected_costs(engine.chain)
        self.engine, self._clock = engine, LayerClock(engine.device)
        self._started, self._counted, self._move_seconds = time.perf_counter(), 0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Wraps each step."""
        stages = self.engine.stages.values()
        modules = [(int(number), layer) for stage in stages for number, layer in stage.layers.items()]
        modules += [(0, stage.embeddings) for stage in stages if stage.embeddings is not None]
        with self._clock.watching(modules):
            yield
        self._counted += 1
        if self._counted % self.balancer.every == 0:
            self._rebalance()

    def _rebalance(self) -> None:
        layers, replicas = len(self._expected), self.engine.config.degrees.replicas
        measured, own = torch.zeros(layers + replicas + 2, dtype=torch.float64), self._clock.take()
        for number, seconds in own.items():
            measured[number] = seconds / self.balancer.every
        passes = self.balancer.every * self.engine.micro_batches
        measured[layers + self.engine.at["replicate"]] = sum(own.values()) / passes
        measured[-2] = (time.perf_counter() - self._started) / self.balancer.every
        measured[-1] = self._move_seconds
        # The same on every rank; of layers the slowest replica counts, of replicas the slowest stage.
        dist.all_reduce(measured, dist.ReduceOp.MAX)
        *seconds_of, step_seconds, move_seconds = measured.tolist()
        # One kind of change at a time, so that its gain can be told.
        moved = not self.sharing.is_trying and self._look_at_layers(seconds_of[:layers], step_seconds, move_seconds)
        if not moved and not self.balancer.is_trying:
            self._look_at_shares(seconds_of[layers:], step_seconds)
        self._started = time.perf_counter()

    def _look_at_layers(self, seconds: Sequence[float], step_seconds: float, move_seconds: float) -> bool:
        """Move layers if it pays; returns whether any were moved."""
        engine = self.engine
        if not can_move_layers(engine.config):
            return False
        costs, slowness = measured_costs(seconds, self._expected, engine.bounds)
        new = self.balancer.look(engine.steps, engine.bounds, costs, slowness, step_seconds, move_seconds)
        if new == engine.bounds:
            return False
        started = time.perf_counter()
        move_layers(engine, new)
        self._move_seconds = time.perf_counter() - started
        return True

    def _look_at_shares(self, pace: Sequence[float], step_seconds: float) -> None:
        engine, config = self.engine, self.engine.config
        if not can_share(config):
            return
        least, each = share_steps(schedule_kind(config.schedule), config.degrees.pipeline)
        now = tuple(engine.parts)
        new = self.sharing.look_at_shares(engine.steps, now, pace, step_seconds, least, each)
        if new != now:
            engine.share(new)


def move_layers(engine: Engine, bounds: tuple[int, ...]) -> None:
    """Give every stage the layers of ``bounds``; called on every rank. Weights and optimiser state are unchanged."""
    if engine.config.local_steps:
        raise ConfigError("layers of replicas that train independently cannot be moved; leave out local_steps")
    old, group, me = engine.bounds, engine.mesh["pp"].get_group(), engine.at["pp"]
    states: dict[Any, dict[str, Any]] = dict(engine.optimizer.state)
    kept = engine.kept
    for number, layer in enumerate(engine.chain.layers):
        source, target = _owner(old, number), _owner(bounds, number)
        if source == target or me not in (source, target):
            continue
        parameters = {name: one for name, one in layer.named_parameters() if one.requires_grad}
        names = {name: f"layers.{number}.{name}" for name in parameters}
        if me == source:
            parts = [_packed(one, states.pop(one, {}), kept.pop(names[name], None)) for name, one in parameters.items()]
            dist.send(torch.cat(parts), group=group, group_dst=target)
        else:
            length = sum(4 * local(one).numel() + 1 for one in parameters.values())
            received = torch.empty(length, device=engine.device)
            dist.recv(received, group=group, group_src=source)
            for name, one in parameters.items():
                size = 4 * local(one).numel() + 1
                states[one], kept[names[name]] = _unpacked(one, received[:size])
                received = received[size:]
    engine.rearrange(bounds, states, kept)


def _owner(bounds: tuple[int, ...], layer: int) -> int:
    return next(stage for stage in range(len(bounds) - 1) if bounds[stage] <= layer < bounds[stage + 1])


def _packed(parameter: nn.Parameter, state: Mapping[str, Any], kept: Tensor | None) -> Tensor:
    """Values, both moments, compression residual and number of steps, float32 ``[4 N + 1]``."""
    values = local(parameter.detach())
    empty = torch.zeros_like(values)
    moments = [local(state[name]) if name in state else empty for name in _MOMENTS]
    steps = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32, device=values.device).reshape(1)
    parts = [values, *moments, empty if kept is None else kept]
    return torch.cat([*(part.reshape(-1) for part in parts), steps])


@torch.no_grad()
def _unpacked(parameter: nn.Parameter, packed: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Set the values; return the AdamW state and the compression residual."""
    values = local(parameter.detach())
    *parts, steps = torch.split(packed, [values.numel()] * 4 + [1])
    own, first, second, kept = (part.view_as(values).clone() for part in parts)
    values.copy_(own)
    if not float(steps):
        return {}, kept
    moments: dict[str, Any] = {}
    for name, moment in zip(_MOMENTS, (first, second), strict=True):
        moments[name] = torch.zeros_like(parameter)
        local(moments[name]).copy_(moment)
    return moments | {"step": steps[0].cpu()}, kept
