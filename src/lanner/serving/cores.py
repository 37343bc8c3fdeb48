"""How many cores the work of a thread may use."""

from threadpoolctl import threadpool_limits


def on_one_core() -> threadpool_limits:
    """Let what the calling thread works on use no further cores: others answer there, and OpenMP would wait for them.

    Returns:
        A context manager, for who wants to go back.
    """
    return threadpool_limits(limits=1, user_api="openmp")
