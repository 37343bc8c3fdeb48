"""One message passing step, differentiable in the features: ``propagate(adjacency, features)``."""

from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch
from torch import Tensor

from lanner.graph.adjacency import Adjacency
from lanner.graph.kernel import multiply

_COMPILED = (torch.float32, torch.float64)
_CHUNKS = 128
"""Number of row chunks; more than threads, to balance their load."""
_device_copies: WeakKeyDictionary[Adjacency, dict[tuple[torch.device, torch.dtype], Tensor]] = WeakKeyDictionary()


def propagate(adjacency: Adjacency, features: Tensor) -> Tensor:
    """Sum over neighbours: ``out[r] = Σ_e values[e] · features[indices[e]]``, ``[rows, D]`` from ``[columns, D]``.

    With ``adjacency.normalised("mean")`` this is the sum in h_v = σ(Σ_{u ∈ N(v)} h_u / |N(v)|); with ``"symmetric"`` it
    is a layer of LightGCN. Rows without neighbours are zero. The gradient flows to the features, not to the values,
    through the cached transposed adjacency. float32 and float64 on a CPU use the compiled kernel; everything else uses
    ``torch.sparse``. Deterministic on a CPU.

    Raises:
        ValueError: ``features`` is not ``[columns, D]`` of a floating type.
    """
    if features.ndim != 2 or features.shape[0] != adjacency.shape[1] or not features.is_floating_point():
        raise ValueError(
            f"features must be floating [{adjacency.shape[1]}, D] for an adjacency of {adjacency.shape[0]} rows and "
            f"{adjacency.shape[1]} columns, received {features.dtype} {list(features.shape)}"
        )
    result: Tensor = _Propagate.apply(adjacency, features)  # type: ignore[no-untyped-call]
    return result


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, adjacency: Adjacency, features: Tensor) -> Tensor:
        context.adjacency = adjacency
        on_cpu = features.device.type == "cpu" and features.dtype in _COMPILED
        return _multiply_compiled(adjacency, features) if on_cpu else _multiply_sparse(adjacency, features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        # Through propagate itself, so that second derivatives exist.
        return None, propagate(context.adjacency.transposed, gradients[0])


def _multiply_compiled(adjacency: Adjacency, features: Tensor) -> Tensor:
    features = features.detach().contiguous()
    out = features.new_empty(adjacency.shape[0], features.shape[1])
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    chunks = adjacency.row_chunks(_CHUNKS)
    values = np.ones(adjacency.num_edges, np.float32) if adjacency.values is None else adjacency.values
    multiply(chunks, adjacency.indptr, adjacency.indices.view(np.uint32), values, features.numpy(), out.numpy())
    return out


def _multiply_sparse(adjacency: Adjacency, features: Tensor) -> Tensor:
    """Used on other devices, and as the reference for the compiled kernel."""
    copies = _device_copies.setdefault(adjacency, {})
    key = (features.device, features.dtype)
    if key not in copies:
        copies[key] = to_torch_sparse(adjacency).to(device=features.device, dtype=features.dtype)
    product: Tensor = torch.sparse.mm(copies[key], features.detach())
    return product


def to_torch_sparse(adjacency: Adjacency) -> Tensor:
    """As a float32 ``torch.sparse_csr`` tensor ``[rows, columns]``."""
    values = torch.ones(adjacency.num_edges) if adjacency.values is None else torch.from_numpy(adjacency.values)
    indptr, indices = torch.from_numpy(adjacency.indptr), torch.from_numpy(adjacency.indices).long()
    return torch.sparse_csr_tensor(indptr, indices, values, size=adjacency.shape, check_invariants=False)
