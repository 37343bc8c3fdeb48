"""Launches this command's ranks on this machine with torch's elastic launcher."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from lanner.distributed.config import EngineConfig
from lanner.errors import LannerError, RanksEndedError

_CHECKPOINT_TIMEOUT_S = 600
"""Seconds that ranks may take to write a checkpoint after Ctrl-C."""


def world() -> int | None:
    """World size if a launcher started this process as a rank, else None."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None


def check_settings(config: EngineConfig) -> None:
    """Validate settings before a model or data are read.

    Raises:
        ConfigError: an unknown name, incompatible settings, or no compiler.
        MissingExtraError: DeepSpeed is not installed.
    """
    import torch

    from lanner.distributed.compiler import check_compiler
    from lanner.distributed.compressors import compressor_of
    from lanner.distributed.migration import check_balancing
    from lanner.distributed.schedules import check_micro_batches, schedule_kind
    from lanner.distributed.zero import check_zero

    schedule_kind(config.schedule)
    compressor_of(config.compression)
    if config.balancing:
        check_balancing(config)
    if config.compile:
        check_compiler(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if config.engine == "deepspeed":
        check_zero(config)
    else:
        check_micro_batches(config)


def launch(config: EngineConfig, arguments: Sequence[str]) -> None:
    """Run ``lanner`` with ``arguments`` on every rank of ``config``.

    If a rank is killed, all ranks restart, at most ``config.restarts`` times; the command resumes from its checkpoint.

    Raises:
        RanksEndedError: rank 0 has reported why. LannerError: a rank exited unexpectedly.
    """
    for left in range(config.restarts, -1, -1):
        try:
            _launch_once(config.degrees.world, arguments)
            return
        except _KilledError as killed:
            if not left:
                raise
            sys.stderr.write(f"lanner: {killed}; restarting all ranks from it\n")


class _KilledError(LannerError):
    """A rank was killed by a signal."""


def _launch_once(ranks: int, arguments: Sequence[str]) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # each logger has its own level
            logging.getLogger(name).setLevel(logging.CRITICAL)  # rank 0 reports what happened
    plan = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id=uuid.uuid4().hex,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_CHECKPOINT_TIMEOUT_S,
    )
    try:
        elastic_launch(plan, sys.executable)("-m", "lanner", *arguments)
    except SignalException as received:  # the ranks received it as well, and have exited
        raise RanksEndedError(128 + int(received.sigval)) from None
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if rank == 0 and failure.exitcode > 0:  # it has reported why; others may crash while they part from it
            raise RanksEndedError(failure.exitcode) from None
        # Ranks that lost another one end with an error of their own.
        rank, failure = next(((at, one) for at, one in failed.failures.items() if one.exitcode < 0), (rank, failure))
        line = f"rank {rank} of {ranks} ended ({failure.exitcode}); the same command resumes from its checkpoint"
        raise (_KilledError if failure.exitcode < 0 else LannerError)(line) from None
