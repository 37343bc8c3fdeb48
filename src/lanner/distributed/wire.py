"""Collectives of a process group that count the bytes sent by this rank."""

from importlib.metadata import version

import torch
import torch.distributed as dist
from torch import Tensor

from lanner.errors import ConfigError

_TEXT_BYTES = 512


class Wire:
    """A process group. ``sent`` assumes gloo's algorithms: rings, and trees for broadcasts."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.sent = 0
        """Bytes that this rank has sent, without headers."""

    def sum(self, tensor: Tensor) -> None:
        """All-reduce (sum) ``tensor`` in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
            self.sent += 2 * (self.size - 1) * _bytes(tensor) // self.size

    def gather(self, tensor: Tensor) -> Tensor:
        """All-gather: the tensors of all ranks, ``[ranks, N]``. tensor: ``[N]``, of equal length on all ranks."""
        if self.size == 1:
            return tensor[None]
        gathered = tensor.new_empty(self.size, tensor.numel())
        dist.all_gather(list(gathered), tensor.contiguous(), group=self.group)
        self.sent += (self.size - 1) * _bytes(tensor)
        return gathered

    def sum_at_first(self, tensor: Tensor) -> None:
        """Reduce (sum) ``tensor`` to the first rank, in place; on other ranks it is undefined afterwards."""
        if self.size > 1:
            dist.reduce(tensor, group_dst=0, group=self.group)
            share = _bytes(tensor) // self.size
            self.sent += (self.size - 1) * share + (share if self.rank else 0)

    def from_first(self, tensor: Tensor) -> None:
        """Broadcast ``tensor`` from the first rank, in place."""
        if self.size > 1:
            dist.broadcast(tensor, group_src=0, group=self.group)
            self.sent += _bytes(tensor) * children_in_tree(self.rank, self.size)


def children_in_tree(rank: int, size: int) -> int:
    """Number of ranks to which ``rank`` forwards a broadcast from the first rank, in a binomial tree."""
    return sum(1 for bit in range(size.bit_length()) if (1 << bit) > rank and rank + (1 << bit) < size)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def check_versions(device: torch.device) -> None:
    """Raises ``ConfigError``, naming the ranks whose version of this package differs from rank 0's."""
    versions = told_by_all(version("lanner"), device)
    other = [f"rank {rank} has {one}" for rank, one in enumerate(versions) if one != versions[0]]
    if other:
        raise ConfigError(f"rank 0 has lanner {versions[0]}, but {', '.join(other)}; install one version everywhere")


def told_by_all(text: str, device: torch.device) -> list[str]:
    """All-gather a short text, at most ``_TEXT_BYTES`` bytes of UTF-8."""
    mine = bytearray(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES))
    told = [torch.empty(_TEXT_BYTES, dtype=torch.uint8, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(told, torch.frombuffer(mine, dtype=torch.uint8).to(device))
    return [bytes(one.tolist()).decode(errors="ignore").strip() for one in told]
