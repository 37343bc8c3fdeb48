"""Thread limits that hold for every numerical library in a process: OpenMP, OpenBLAS, MKL, FAISS, numba, torch.

A worker ranks on one core while others rank beside it; a library that starts a thread per core makes each wait for all.
"""

import os
import sys

from threadpoolctl import threadpool_limits

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def thread_environment(threads: int = 1) -> dict[str, str]:
    """Environment variables that limit a process that is started with them."""
    return dict.fromkeys(_VARIABLES, str(threads))


def limit_threads(threads: int = 1) -> None:
    """Limit libraries that are loaded, those that will be, and child processes.

    OpenMP (FAISS) and numba count by thread, so every thread that ranks must call this, as the ``initializer`` of a
    ``ThreadPoolExecutor`` does; the others count by process.
    """
    numba = sys.modules.get("numba")
    variables = thread_environment(threads)
    if numba is not None:
        del variables["NUMBA_NUM_THREADS"]  # it refuses to compile where this changes after its threads were launched
    os.environ.update(variables)
    if numba is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    threadpool_limits(threads)  # last, for numba loads OpenMP when it launches its threads
