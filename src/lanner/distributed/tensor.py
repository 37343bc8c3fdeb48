"""Tensor parallelism: a DTensor plan for each model family (Shoeybi et al., Megatron-LM, 2019).

Input projections are sharded column-wise, output projections row-wise, so that a layer needs two all-reduces in the
forward pass and two in the backward pass. Projections that read the same input share it as one DTensor; otherwise each
would all-reduce its gradient.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel import PrepareModuleInput as PrepareInput

from lanner.distributed.chain import Family
from lanner.errors import ConfigError

COLUMNS: dict[Family, tuple[str, ...]] = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
    "llama": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
}
ROWS: dict[Family, tuple[str, ...]] = {
    "bert": ("attention.output.dense", "output.dense"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
}
PER_HEAD_NORMS = {"q_norm", "k_norm"}
"""Replicated weights that see different heads on each rank, so that their gradients are partial sums."""


def divide_layer(layer: nn.Module, family: Family, mesh: DeviceMesh) -> None:
    """Shard a layer over ``mesh``, in place, including its LoRA adapters.

    Raises:
        ConfigError: adapters whose norms need the unsharded weight (DoRA).
    """
    modules = dict(layer.named_modules())
    if any(name.endswith("lora_magnitude_vector.default") for name in modules):
        raise ConfigError("DoRA cannot be combined with tensor parallelism; use LoRA, or tp 1")
    plan: dict[str, ParallelStyle] = dict(_shared_inputs(family))
    for name in COLUMNS[family]:
        _add(plan, modules, name, ColwiseParallel(), "lora_B", "lora_A", mesh)
    for name in ROWS[family]:
        _add(plan, modules, name, RowwiseParallel(), "lora_A", None, mesh)
    parallelize_module(layer, mesh, plan)


@torch.no_grad()
def sum_partial_gradients(parameters: Mapping[str, nn.Parameter], mesh: DeviceMesh) -> None:
    """All-reduce the partial gradients of the replicated per-head norms.

    parameters: those of this rank, by name. Called after each backward pass.
    """
    partial = [
        local(one.grad)
        for name, one in parameters.items()
        if one.grad is not None and PER_HEAD_NORMS & set(name.split("."))
    ]
    if partial:
        flat = torch.cat([one.reshape(-1) for one in partial])
        dist.all_reduce(flat, group=mesh.get_group())
        for one, part in zip(partial, torch.split(flat, [one.numel() for one in partial]), strict=True):
            one.copy_(part.view_as(one))


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shared_inputs(family: Family) -> dict[str, ParallelStyle]:
    place: Placement = Replicate()
    first = PrepareInput(input_layouts=(place,), desired_input_layouts=(place,), use_local_output=False)
    if family == "bert":
        return {"attention.self": first, "intermediate": first}
    named = {"hidden_states": place}
    return {
        "self_attn": PrepareInput(input_kwarg_layouts=named, desired_input_kwarg_layouts=named, use_local_output=False),
        "mlp": first,
    }


def _add(
    plan: dict[str, ParallelStyle],
    modules: dict[str, nn.Module],
    name: str,
    style: ParallelStyle,
    divided: str,
    whole: str | None,
    mesh: DeviceMesh,
) -> None:
    """divided: the adapter factor that is sharded like its layer; whole: the replicated factor."""
    if f"{name}.base_layer" not in modules:
        plan[name] = style
        return
    plan[f"{name}.base_layer"] = style
    plan[f"{name}.{divided}.default"] = type(style)()
    if whole is not None:
        distribute_module(modules[f"{name}.{whole}.default"], mesh)
