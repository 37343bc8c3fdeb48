"""Embedding tables that are too large for one rank, sharded by row.

For wide tables, torch's ``ColwiseParallel`` on an ``nn.Embedding`` shards the columns. Its ``RowwiseParallel`` does not
help here: it leaves a gradient the size of the whole table on each rank.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.nn import functional
from torch.distributed.tensor import DTensor, Shard

_exchange: Any = functional.all_to_all_single


class RowShardedEmbedding(nn.Module):
    """An embedding ``[rows, D]`` in equal contiguous shards over the ranks of a one-dimensional mesh.

    Ranks may look up different rows. Each distinct row is sent once to each rank that needs it, and its gradient back:
    gradients, summed over the ranks, and optimiser state stay with the row's owner. ``forward`` and backward are
    collective.
    """

    def __init__(
        self, rows: int, values: Callable[[int, int], Tensor], mesh: DeviceMesh, *, sparse: bool = False
    ) -> None:
        """values: initial rows ``begin`` to ``end``, ``[end - begin, D]``; called on each rank for its own rows.

        sparse: sparse gradients of the looked-up rows, for ``torch.optim.SparseAdam``.
        """
        super().__init__()
        self.rows, self._mesh, self._sparse = rows, mesh, sparse
        self._each = -(-rows // mesh.size())
        self._begin = min(rows, self._each * mesh.get_local_rank())
        self.weight = nn.Parameter(values(self._begin, min(rows, self._begin + self._each)))
        """This rank's rows."""

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors ``[..., D]`` of rows ``ids``, int64 ``[...]``."""
        group = self._mesh.get_group()
        wanted, place = torch.unique(ids, return_inverse=True)  # sorted, and so by owner
        wanted_of = torch.bincount(wanted // self._each, minlength=self._mesh.size())
        asked_of = torch.empty_like(wanted_of)
        dist.all_to_all_single(asked_of, wanted_of, group=group)
        gives, takes = asked_of.tolist(), wanted_of.tolist()
        asked = wanted.new_empty(sum(gives))
        dist.all_to_all_single(asked, wanted, gives, takes, group=group)
        given_ND = nn.functional.embedding(asked - self._begin, self.weight, sparse=self._sparse)
        taken_ND = _exchange(given_ND.new_empty(len(wanted), given_ND.shape[1]), given_ND, takes, gives, group)
        return nn.functional.embedding(place, taken_ND)

    def whole(self) -> DTensor:
        """The table as a row-sharded DTensor, as torch's distributed checkpoints take it; shares its memory."""
        shape = (self.rows, self.weight.shape[1])
        return DTensor.from_local(self.weight.detach(), self._mesh, [Shard(0)], shape=torch.Size(shape),
                                  stride=(shape[1], 1))  # fmt: skip
