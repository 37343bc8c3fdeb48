"""Tensor parallelism: a plan of DTensor for each family of models (Shoeybi et al., Megatron-LM, 2019).

Projections into the heads are divided by columns, those out of them by rows, so that a layer sums twice forward and
twice backward. Projections that read the same input share it as one DTensor; otherwise each would sum its gradient.
"""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel import PrepareModuleInput as PrepareInput

from lanner.distributed.chain import Chain, Family, Stage
from lanner.errors import ConfigError

_COLUMNS: dict[Family, tuple[str, ...]] = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
    "llama": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
}
_ROWS: dict[Family, tuple[str, ...]] = {
    "bert": ("attention.output.dense", "output.dense"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
}
_PER_HEAD_NORMS = ("q_norm", "k_norm")
"""Replicated weights that see other heads on each rank, so that their gradients are partial sums."""


def divide_layers(stage: Stage, family: Family, mesh: DeviceMesh) -> None:
    """Divide the layers of ``stage`` over ``mesh``, in place. Adapters (LoRA) are divided with their layers.

    Raises:
        ConfigError: adapters whose norms need the undivided weight (DoRA).
    """
    for layer in stage.layers.values():
        divide_layer(layer, family, mesh)


def divide_layer(layer: nn.Module, family: Family, mesh: DeviceMesh) -> None:
    """As ``divide_layers``, of one layer."""
    modules = dict(layer.named_modules())
    if any(name.endswith("lora_magnitude_vector.default") for name in modules):
        raise ConfigError("DoRA cannot be combined with tensor parallelism; use LoRA, or tp 1")
    plan: dict[str, ParallelStyle] = dict(_shared_inputs(family))
    for name in _COLUMNS[family]:
        _add(plan, modules, name, ColwiseParallel(), "lora_B", "lora_A", mesh)
    for name in _ROWS[family]:
        _add(plan, modules, name, RowwiseParallel(), "lora_A", None, mesh)
    parallelize_module(layer, mesh, plan)
    for name, module in modules.items():
        if name.rpartition(".")[2] in _PER_HEAD_NORMS:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(_summed_over(mesh))


def check_divisible(chain: Chain, mesh_size: int) -> None:
    """Raises ``ConfigError`` where heads cannot be divided; see ``Degrees.check_model``."""
    from lanner.distributed.degrees import Degrees

    Degrees(tensor=mesh_size).check_model(
        layers=len(chain.layers), heads=chain.heads, key_value_heads=chain.key_value_heads
    )


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shared_inputs(family: Family) -> dict[str, ParallelStyle]:
    whole = Replicate()
    if family == "bert":
        return {"attention.self": PrepareInput(input_layouts=(whole,), desired_input_layouts=(whole,))}
    shared = {"use_local_output": False}
    keywords = {"hidden_states": whole}
    attention = PrepareInput(input_kwarg_layouts=keywords, desired_input_kwarg_layouts=keywords, **shared)
    return {
        "self_attn": attention,
        "mlp": PrepareInput(input_layouts=(whole,), desired_input_layouts=(whole,), **shared),
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
    """divided: the factor of an adapter that is divided like its layer; whole: the one that every rank keeps."""
    if f"{name}.base_layer" not in modules:
        plan[name] = style
        return
    plan[f"{name}.base_layer"] = style
    plan[f"{name}.{divided}.default"] = type(style)()
    if whole is not None:
        distribute_module(modules[f"{name}.{whole}.default"], mesh)


def _summed_over(mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    group = mesh.get_group()

    def summed(gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total, group=group)
        return total

    return summed
