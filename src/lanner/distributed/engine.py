"""One training step of a language model over all ranks.

Layers are transformed in this order: tensor → pipeline (ranks of a layer) → activation checkpointing → compile → data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lanner.distributed.averaging import Averaging
from lanner.distributed.chain import Chain, Stage, recompute_activations
from lanner.distributed.compiler import check_compiler
from lanner.distributed.compressors import compressor_of
from lanner.distributed.config import EngineConfig
from lanner.distributed.pipeline import Pipeline, check_bounds, even_bounds
from lanner.distributed.schedules import check_micro_batches, schedule_kind, stages_of
from lanner.distributed.synchroniser import Racks, Synchroniser
from lanner.distributed.tensor import divide_layer, local, sum_partial_gradients
from lanner.distributed.wire import Wire, check_versions
from lanner.errors import ConfigError, DivergedError

Loss = Callable[[Tensor, Any], Tensor]
"""From the vectors ``[B, D]`` of a micro-batch and its targets ``[B, ...]`` to a scalar, the mean over rows."""


MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state for a parameter."""


class Engine:
    """A chain of layers distributed over all ranks of the default group, and its training step."""

    def __init__(
        self,
        chain: Chain,
        config: EngineConfig,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        device: torch.device | None = None,
    ) -> None:
        """chain: the whole model, the same on every rank; consumed.

        Raises:
            ConfigError: the degrees do not fit the number of processes or the model, package versions differ between
                ranks, or layers are to be compiled without a compiler.
        """
        self.chain, self.config, self.device = chain, config, device or torch.device("cpu")
        degrees, kind = config.degrees, schedule_kind(config.schedule)
        degrees.check_world(dist.get_world_size())
        check_versions(self.device)
        degrees.check_model(
            layers=len(chain.layers),
            heads=chain.heads,
            key_value_heads=chain.key_value_heads,
            stages_per_rank=kind.stages_per_rank if degrees.pipeline > 1 else 1,
        )
        config.check()
        if config.compile:
            check_compiler(self.device)
        self.mesh = degrees.mesh(self.device.type)
        self.at = degrees.place(dist.get_rank())
        num_stages = degrees.pipeline * (kind.stages_per_rank if degrees.pipeline > 1 else 1)
        self.bounds = config.bounds or even_bounds(len(chain.layers), num_stages)
        check_bounds(self.bounds, len(chain.layers), num_stages)
        self.whole_shapes = trained_of(chain)
        if self.whole_shapes and degrees.pipeline > 1:
            self._check_trained()
        if config.engine == "torch":
            check_micro_batches(config)
        if degrees.tensor > 1:
            self._divide_layers()
        self._mine = stages_of(self.at["pp"], degrees.pipeline, kind) if degrees.pipeline > 1 else [0]
        for layer in chain.layers:
            if config.checkpointing:
                recompute_activations(layer)
            if config.compile:
                layer.compile()
        if degrees.shards > 1:
            # A layer is sharded by the ranks that run it. Stages are built last: they only hold layers.
            for number in self._mine:
                for layer in list(chain.layers)[self.bounds[number] : self.bounds[number + 1]]:
                    fully_shard(layer, mesh=self.mesh["shard"], reshard_after_forward=degrees.pipeline == 1)
        self._kind, self._num_stages, self._racks = kind, num_stages, self._make_racks()
        self._make_stages()
        self._make_optimizer = optimizer
        self.optimizer = optimizer(list(self.trained().values()))
        self._synchroniser, self._averaging = self._make_synchroniser(), self._make_averaging()
        self.steps = self._last_met = 0
        self._held: Tensor | None = None

    @property
    def micro_batches(self) -> int:
        """Micro-batches of this rank."""
        shares = self.config.shares
        return self.config.micro_batches if shares is None else shares[self.at["replicate"]]

    @property
    def parts(self) -> list[int]:
        """Micro-batches of each data-parallel part of a batch."""
        config = self.config
        return [config.micro_batches] * config.degrees.data if config.shares is None else list(config.shares)

    @property
    def _micro_batches_per_update(self) -> float:
        """Micro-batches over whose rows the gradient of an update is a mean.

        FSDP averages over shards, the synchroniser sums over replicas. Replicas that train alone update their weights
        after each micro-batch, so that faster ones, which have more of them, take more steps; but a pipeline needs
        several micro-batches to be filled.
        """
        if self._averaging is None:
            return sum(self.parts) / self.config.degrees.shards
        return 1 if self._pipeline is None else self.micro_batches

    @property
    def sent(self) -> int:
        """Bytes of gradients, or of averaged weights, that this rank has sent between replicas."""
        if self._averaging is not None:
            return self._averaging.wire.sent
        return 0 if self._synchroniser is None else self._synchroniser.sent

    @property
    def kept(self) -> dict[str, Tensor]:
        """Compression residuals (error feedback), by parameter."""
        return {} if self._synchroniser is None else dict(self._synchroniser.compressor.kept)

    def rearrange(
        self, bounds: tuple[int, ...], states: Mapping[Any, dict[str, Any]], kept: Mapping[str, Tensor]
    ) -> None:
        """Take over other layers. states: optimiser state of all parameters trained from now on. kept: as above."""
        self.bounds = bounds
        self._make_stages()
        old, trained = self.optimizer, self.trained()
        self.optimizer = self._make_optimizer(list(trained.values()))
        for fresh, known in zip(self.optimizer.param_groups, old.param_groups, strict=True):
            fresh.update({name: value for name, value in known.items() if name != "params"})
        self.optimizer.state.update({one: states[one] for one in trained.values() if states.get(one)})
        if self._synchroniser is not None:
            self._synchroniser.take_over(trained, {name: one for name, one in kept.items() if name in trained})

    def share(self, shares: tuple[int, ...]) -> None:
        """From the next step on, replicas have these numbers of micro-batches, whose sum is unchanged."""
        self.config = replace(self.config, shares=shares)
        self._pipeline = self._make_pipeline()
        if self._synchroniser is not None and self._synchroniser.expected is not None:
            self._synchroniser.expected = self.micro_batches

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that this rank trains, by name in the whole chain."""
        return {name: one for name, one in self.named_parameters().items() if one.requires_grad}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that this rank holds, by name in the whole chain."""
        return {name: one for stage in self.stages.values() for name, one in stage.named_parameters()}

    def rows(self, total: int) -> slice:
        """This rank's part of a batch of ``total`` rows.

        Raises:
            ConfigError: the rows cannot be divided into equal micro-batches.
        """
        each = self.parts
        size, rest = divmod(total, sum(each))
        if rest or not size:
            raise ConfigError(f"{total} rows cannot be divided into {sum(each)} equal micro-batches ({each} a rank)")
        mine = self.at["replicate"] * self.config.degrees.shards + self.at["shard"]
        begin = sum(each[:mine]) * size
        return slice(begin, begin + each[mine] * size)

    def step(self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Loss) -> float:
        """One step on a batch that is replicated on every rank; returns the mean loss over its micro-batches.

        Raises:
            DivergedError: the loss is not finite; names the step and the first layer with a non-finite output.
        """
        rows = self.rows(len(ids_BL))
        value = self._run(ids_BL[rows], mask_BL[rows], target[rows], loss, 1 / self._micro_batches_per_update)
        self._check(value, ids_BL, mask_BL)
        self._update()
        return float(value)

    def vectors(self, ids_BL: Tensor, mask_BL: Tensor, *, to_learn: bool = False) -> Tensor:
        """Vectors ``[B, D]`` of a replicated batch, on every rank, without gradient.

        to_learn: ``learn`` follows with the same batch; it needs no second forward pass if a rank has one micro-batch.

        Raises:
            DivergedError: a vector is not finite, as in ``step``.
        """
        rows = self.rows(len(ids_BL))
        self._held = None
        mine: Tensor | None
        if to_learn and self._pipeline is None and max(self.parts) == 1:
            self._held = self._with_gradient(ids_BL[rows], mask_BL[rows])
            mine = self._held.detach()
        else:
            mine = self._forward(ids_BL[rows], mask_BL[rows])
        width = torch.tensor([0 if mine is None else mine.shape[1]], device=self.device)
        dist.all_reduce(width, dist.ReduceOp.MAX)
        total = torch.zeros(len(ids_BL), int(width), device=self.device)
        if mine is not None and self.at["tp"] == 0:
            total[rows] = mine
        dist.all_reduce(total)
        self._check(total.sum(), ids_BL, mask_BL, "sum of the vectors")
        return total

    def step_whole(self, ids_BL: Tensor, mask_BL: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
        """One step with a loss over all vectors of the batch at once, such as one with negatives from all ranks.

        The vectors are computed twice: without gradient for the loss, and with gradient for the model (Gao et al.,
        GradCache, 2021); ``vectors`` says when once suffices. ``loss`` is called on every rank with the same vectors.

        Raises:
            DivergedError: as in ``step``.
        """
        vectors_BD = self.vectors(ids_BL, mask_BL, to_learn=True).requires_grad_()
        value = loss(vectors_BD)
        self._check(value, ids_BL, mask_BL)
        (gradient_BD,) = torch.autograd.grad(value, vectors_BD)
        self.learn(ids_BL, mask_BL, gradient_BD)
        return float(value.detach())

    def learn(self, ids_BL: Tensor, mask_BL: Tensor, gradient_BD: Tensor) -> None:
        """One step from the gradient of a loss with respect to the vectors; all arguments are replicated.

        Raises:
            DivergedError: the gradient is not finite, as in ``step``.
        """
        self._check(gradient_BD.sum(), ids_BL, mask_BL, "gradient of the loss")
        # The gradient is of a mean over all rows; an update needs the mean over its own.
        rows, scale = self.rows(len(ids_BL)), sum(self.parts) / self._micro_batches_per_update
        held, self._held = self._held, None

        def loss(out: Tensor, gradient: Tensor) -> Tensor:
            return (out * gradient).sum()

        if held is None:
            self._run(ids_BL[rows], mask_BL[rows], gradient_BD[rows], loss, scale)
        else:
            self._backward(loss(held, gradient_BD[rows]) * scale)
        self._update()

    def state(self) -> list[Tensor] | None:
        """On rank 0, the trained parameters and both moments of all layers, as ``set_state`` takes them; else None.

        Collective. With local steps, this averages the weights of all replicas; the moments are the first one's.
        """
        if self._averaging is not None and self.steps != self._last_met:
            self._averaging.finish()
            self._last_met = self.steps
        trained, at = self.trained(), self.at
        size = sum(shape.numel() for shape in self.whole_shapes.values())
        gathered = [torch.zeros(size, device=self.device) for _ in range(1 + len(MOMENTS))]
        for name, place in self._flat_slices():
            if name not in trained:
                continue
            for flat, part in zip(gathered, self._gather_state(name, trained[name]), strict=True):
                if part is not None and at["tp"] == at["shard"] == at["replicate"] == 0:
                    flat[place] = part.reshape(-1)
        for flat in gathered:
            dist.reduce(flat, 0)
        return gathered if dist.get_rank() == 0 else None

    @torch.no_grad()
    def set_state(self, steps: int, state: Sequence[Tensor]) -> None:
        """Resume after ``steps`` steps from what ``state`` returned on rank 0; replicated on every rank."""
        self.steps = self._last_met = steps
        trained = self.trained()
        for name, place in self._flat_slices():
            if name in trained:
                self._load_state(trained[name], [flat[place].view(self.whole_shapes[name]) for flat in state])
        if self._averaging is not None:
            self._averaging.begin()

    def _gather_state(self, name: str, one: nn.Parameter) -> list[Tensor | None]:
        """A parameter and its moments, unsharded; collective over the ranks that hold a shard."""
        known = self.optimizer.state.get(one, {})
        parts = [one.detach(), *(known.get(moment) for moment in MOMENTS)]
        return [None if part is None else whole(part) for part in parts]

    def _load_state(self, one: nn.Parameter, full: Sequence[Tensor]) -> None:
        own, *moments = (divided_like(one, part) for part in full)
        local(one).copy_(local(own))
        updates = 1 if self._averaging is None else self.micro_batches / self._micro_batches_per_update
        step = {"step": torch.tensor(self.steps * float(updates))}
        self.optimizer.state[one] = step | dict(zip(MOMENTS, moments, strict=True))

    def _flat_slices(self) -> Iterator[tuple[str, slice]]:
        """Slice of each trained parameter of the whole chain in a flat tensor of all of them."""
        begin = 0
        for name, shape in self.whole_shapes.items():
            yield name, slice(begin, begin + shape.numel())
            begin += shape.numel()

    def _run(self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Loss, scale: float) -> Tensor:
        """Forward and backward pass of this rank's rows; returns the mean loss of all micro-batches of all ranks."""

        def scaled(out: Tensor, one: Any) -> Tensor:
            return loss(out, one) * scale

        if self._pipeline is not None:
            losses = self._pipeline.step(ids_BL, mask_BL, target, scaled)
        else:
            losses = self._accumulate_gradients(ids_BL, mask_BL, target, scaled)
        value = torch.stack(losses).sum() if losses and self.at["tp"] == 0 else torch.zeros((), device=self.device)
        value /= scale * sum(self.parts)
        dist.all_reduce(value)
        return value

    def _check(self, value: Tensor, ids_BL: Tensor, mask_BL: Tensor, what: str = "loss") -> None:
        """The value is the same on every rank, so either all raise or none do."""
        if not torch.isfinite(value):
            rows = self.rows(len(ids_BL))
            raise DivergedError(
                f"the {what} is {float(value)} at step {self.steps}, batch of {len(ids_BL)} texts, "
                f"{self._first_bad_layer(ids_BL[rows], mask_BL[rows])}; the weights are those before the step"
            )

    def _accumulate_gradients(self, ids_BL: Tensor, mask_BL: Tensor, target: Tensor, loss: Loss) -> list[Tensor]:
        (stage,), losses, count = self.stages.values(), [], self.micro_batches
        batches = zip(ids_BL.chunk(count), mask_BL.chunk(count), target.chunk(count), strict=True)
        for number, (ids, mask, part) in enumerate(batches):
            if isinstance(stage, FSDPModule):
                stage.set_requires_gradient_sync(number == count - 1)
            if number and self._averaging is not None:
                self._step_optimizer()
            one = loss(self._with_gradient(ids, mask), part)
            self._backward(one)
            losses.append(one.detach())
        return losses

    def _with_gradient(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        vectors_BD: Tensor = self.stages[0](*trimmed(ids_BL, mask_BL))
        return vectors_BD

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _update(self) -> None:
        if self.config.degrees.tensor > 1:
            sum_partial_gradients(self.trained(), self.mesh["tp"])
        if self._synchroniser is not None:
            self._synchroniser.finish()
        self._step_optimizer()
        if self._averaging is not None:
            self._averaging.after_batch(self.micro_batches, sum(self.parts))
        self.steps += 1

    def _step_optimizer(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor | None:
        if self._pipeline is not None:
            return self._pipeline.forward(ids_BL, mask_BL)
        count = self.micro_batches
        pairs = zip(ids_BL.chunk(count), mask_BL.chunk(count), strict=True)
        return torch.cat([self.stages[0](*trimmed(ids, mask)) for ids, mask in pairs])

    def _first_bad_layer(self, ids_BL: Tensor, mask_BL: Tensor) -> str:
        bad = [len(self.chain.layers)]

        def watch(number: int) -> Callable[..., None]:
            def look(module: nn.Module, given: Any, out: Any) -> None:
                hidden = out[0] if isinstance(out, tuple) else out
                if not bool(torch.isfinite(hidden).all()):
                    bad.append(number)

            return look

        hooks = [
            layer.register_forward_hook(watch(int(name)))
            for stage in self.stages.values()
            for name, layer in stage.layers.items()
        ]
        self._forward(ids_BL, mask_BL)
        for hook in hooks:
            hook.remove()
        first = torch.tensor([min(bad)])
        dist.all_reduce(first, dist.ReduceOp.MIN)
        number = int(first)
        return f"layer {number}" if number < len(self.chain.layers) else "after the last layer"

    def _check_trained(self) -> None:
        for first, last in pairwise(self.bounds):
            layers = self.chain.layers[first:last]
            if not any(one.requires_grad for layer in layers for one in layer.parameters()):
                raise ConfigError(
                    f"layers {first} to {last - 1} are a stage of the pipeline and none of them is trained; train more "
                    "layers, or use pp 1"
                )

    def _divide_layers(self) -> None:
        for layer in self.chain.layers:
            divide_layer(layer, self.chain.family, self.mesh["tp"])

    def _make_stages(self) -> None:
        """Build this rank's stages from ``bounds``; other ranks' layers are not touched."""
        self.stages = {
            number: Stage(
                self.chain,
                self.bounds[number],
                self.bounds[number + 1],
            )
            for number in self._mine
        }
        degrees = self.config.degrees
        for stage in self.stages.values():
            if degrees.shards > 1:
                fully_shard(stage, mesh=self.mesh["shard"], reshard_after_forward=degrees.pipeline == 1)
        self._pipeline = self._make_pipeline()

    def _make_pipeline(self) -> Pipeline | None:
        if self.config.degrees.pipeline == 1:
            return None
        group = self.mesh["pp"].get_group()
        return Pipeline(self.stages, self._num_stages, self._kind, self.micro_batches, group, self.device)

    def _make_racks(self) -> Racks | None:
        degrees, size = self.config.degrees, self.config.ranks_per_rack
        if not size or degrees.replicas == 1:
            return None
        sets = self._replica_sets()
        return Racks([[one[at : at + size] for at in range(0, len(one), size)] for one in sets])

    def _replica_sets(self) -> list[tuple[int, ...]]:
        degrees = self.config.degrees
        return sorted({tuple(degrees.ranks_along("replicate", rank)) for rank in range(degrees.world)})

    def _own_group(self) -> dist.ProcessGroup | None:
        """A process group of the replicas for gradients only: their all-reduces overlap with other collectives."""
        groups = {ranks: dist.new_group(list(ranks)) for ranks in self._replica_sets()}
        mine: dist.ProcessGroup = next(group for ranks, group in groups.items() if dist.get_rank() in ranks)
        return mine

    def _make_synchroniser(self) -> Synchroniser | None:
        if self.config.degrees.replicas == 1 or self.config.local_steps:
            return None
        simple = self.config.degrees.shards == 1 and self._pipeline is None
        return Synchroniser(
            self.trained(),
            Wire(self._own_group()),
            compressor_of(self.config.compression),
            racks=self._racks,
            dense_steps=self.config.dense_steps,
            expected=self.micro_batches if simple and not self.config.degrees.tensor > 1 else None,
        )

    def _make_averaging(self) -> Averaging | None:
        if not self.config.local_steps:
            return None
        return Averaging(self.trained(), Wire(self._own_group()), self.config.averaging())


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor; collective over the ranks that hold a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trimmed(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the columns on the right that are padding in every row."""
    longest = max(int(mask_BL.sum(1).max()), 1)
    return ids_BL[:, :longest], mask_BL[:, :longest]


def divided_like(one: Tensor, full: Tensor) -> Tensor:
    """This rank's shard of ``full``, which is replicated, with the placement of ``one``."""
    if not isinstance(one, DTensor):
        return full.clone()
    return distribute_tensor(full, one.device_mesh, one.placements, src_data_rank=None)


def trained_of(chain: Chain) -> dict[str, torch.Size]:
    """Shapes of the trained parameters of a whole chain, by name."""
    named = Stage(chain, 0, len(chain.layers)).named_parameters()
    return {name: one.shape for name, one in named if one.requires_grad}
