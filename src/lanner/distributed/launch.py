"""Ranks of this command on this machine, started by torch's own launcher."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from lanner.distributed.config import EngineConfig
from lanner.errors import LannerError

_PATIENCE_S = 600
"""How long ranks may take to write a checkpoint after Ctrl-C."""


def world() -> int | None:
    """How many ranks a launcher has started, this process among them; None: this process is none."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None


def check_settings(config: EngineConfig) -> None:
    """What can be said of settings before a model or data are read.

    Raises:
        ConfigError: a name that is none, or settings that do not go together. MissingExtraError: no DeepSpeed.
    """
    from lanner.distributed.compressors import compressor_of
    from lanner.distributed.pipeline import check_micro_batches, schedule_kind
    from lanner.distributed.zero import check_zero

    schedule_kind(config.schedule)
    compressor_of(config.compression)
    if config.engine == "deepspeed":
        check_zero(config)
    else:
        check_micro_batches(config)


def launch(config: EngineConfig, arguments: Sequence[str]) -> int:
    """Run ``lanner`` with ``arguments`` on every rank of ``config``; the exit code of rank 0.

    After a rank was killed, all ranks begin again, at most ``config.restarts`` times; the command resumes from its
    checkpoint.

    Raises:
        LannerError: a rank ended without having been asked to.
    """
    for left in range(config.restarts, -1, -1):
        try:
            return _launch_once(config.degrees.world, arguments)
        except _KilledError as killed:
            if not left:
                raise
            sys.stderr.write(f"lanner: {killed}; all ranks begin again from it\n")
    raise AssertionError("the last attempt returns or raises")


class _KilledError(LannerError):
    """A rank was ended by a signal."""


def _launch_once(ranks: int, arguments: Sequence[str]) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the first rank says what happened
    plan = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id=uuid.uuid4().hex,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_PATIENCE_S,
    )
    try:
        elastic_launch(plan, sys.executable)("-m", "lanner", *arguments)
    except SignalException as received:  # the ranks were told, too, and have ended
        return 128 + int(received.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if rank == 0 and failure.exitcode > 0:
            return failure.exitcode
        line = f"rank {rank} of {ranks} ended ({failure.exitcode}); the same command resumes from its checkpoint"
        raise (_KilledError if failure.exitcode < 0 else LannerError)(line) from None
    return 0
