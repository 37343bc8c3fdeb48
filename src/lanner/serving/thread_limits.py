"""Thread limits for all numerical libraries of a process: OpenMP, OpenBLAS, MKL, FAISS, numba, torch.

Each worker ranks on one core; libraries that start a thread per core would oversubscribe the machine.
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
    """Environment variables that limit the threads of a child process."""
    return dict.fromkeys(_VARIABLES, str(threads))


def limit_threads(threads: int = 1) -> None:
    """Limit the threads of loaded libraries, libraries loaded later, and child processes.

    OpenMP (FAISS) and numba keep the limit per thread, so every thread that ranks must call this, for example as the
    ``initializer`` of a ``ThreadPoolExecutor``; the others keep it per process.
    """
    numba = sys.modules.get("numba")
    variables = thread_environment(threads)
    if numba is not None:
        del variables["NUMBA_NUM_THREADS"]  # numba fails to compile if this changes after its threads were launched
    os.environ.update(variables)
    if numba is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    threadpool_limits(threads)  # last: numba loads OpenMP when it launches its threads
