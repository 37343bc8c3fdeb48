"""Several processes of one benchmark on this machine, joined by gloo, each with its own rank."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from benchmarks import _racks


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any, in_racks: bool = False) -> Any:
    """What ``function(*arguments)`` returns on rank 0 of ``count`` processes, each with one thread.

    in_racks: each runs in its namespace of the entered ``NetworkRacks``.
    """
    with tempfile.TemporaryDirectory() as folder:
        if count == 1:
            _rank(0, 1, folder, function, arguments, None, {})
        else:
            # A fork of this process could inherit locks held by other threads. These are forked from a process without
            # threads that has imported torch once.
            multiprocessing.set_forkserver_preload(["benchmarks._small_towers", "lanner.distributed.engine"])
            given = (count, folder, function, arguments, _racks.PREFIX if in_racks else None, dict(os.environ))
            processes.start_processes(_rank, given, nprocs=count, start_method="forkserver")
        return torch.load(Path(folder) / "answer", weights_only=True)


def _rank(
    rank: int,
    count: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    racks: str | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if count > 1:
        os.environ["LOCAL_RANK"] = str(rank)  # normally set by a launcher; DeepSpeed reads it
    meeting = f"file://{folder}/meeting"
    if racks:
        _racks.enter(racks, rank)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    answer = function(*arguments)
    if rank == 0:
        torch.save(answer, Path(folder) / "answer")
    if dist.is_initialized():  # unless the function shut down the process group itself
        dist.barrier()
        dist.destroy_process_group()
