"""Several processes of one benchmark on this machine, joined by gloo, each with its own rank."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` gives on rank 0 of ``count`` processes, each with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        if count == 1:
            _rank(0, 1, folder, function, arguments)
        else:
            # Forked, they need not import torch again.
            given = (count, folder, function, arguments)
            processes.start_processes(_rank, given, nprocs=count, start_method="fork")
        return torch.load(Path(folder) / "answer", weights_only=True)


def _rank(rank: int, count: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    answer = function(*arguments)
    if rank == 0:
        torch.save(answer, Path(folder) / "answer")
    dist.barrier()
    dist.destroy_process_group()
