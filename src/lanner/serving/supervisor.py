"""Process supervisor of a server: starts workers, restarts those that die or hang, and stops them.

Unlike uvicorn's own supervisor it detects blocked event loops and restarts with back-off. Each worker has a listening
socket of its own, over which the kernel spreads connections, and sends heartbeats through ``WorkerSync`` from its
event loop.
"""

import contextlib
import fcntl
import gc
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lanner.errors import ConfigError, LannerError
from lanner.serving.http.metrics import share_between_workers
from lanner.serving.thread_limits import limit_threads
from lanner.serving.worker_sync import WorkerSync

if TYPE_CHECKING:
    from lanner.serving.bootstrap import ServerConfig

MOST_WORKERS = 4
"""Maximum number of workers started by default, however many cores there are."""
_POLL_SECONDS = 0.2
_STOP_SECONDS = 25.0
"""Seconds after SIGTERM until a worker is killed; its requests have 20 s."""
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS, _LONG_LIFE_SECONDS = 0.5, 30.0, 60.0
"""Back-off in seconds between restarts of a crashing worker; a long-lived one is restarted at once."""
_FOLDER, _LOCK = "lanner-workers-", "lock"
_log = logging.getLogger(__name__)

Work = Callable[[WorkerSync], bool]
"""The body of a worker process; returns whether it started. Must be picklable."""


def serve(config: "ServerConfig") -> None:
    """Serve until SIGTERM or Ctrl-C. The settings must have passed ``bootstrap.check``. Call it in the main thread.

    Raises:
        ConfigError: the address is in use, or not one of this machine. LannerError: a worker failed to start; see
            its log.
    """
    _log_to_stderr()
    # Until a handler is installed, Ctrl-C ends the process: a KeyboardInterrupt may be lost in an interpreter callback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if config.engine == "ray":
        from lanner.serving import ray_serve

        if not config.ray.address:
            _bound(config.host, config.port, shared=False).close()
        ray_serve.serve(config)
        return
    with _reserved(config.host, config.port):
        workers = worker_count(config.workers)
        if workers == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if not _serve_one(config, WorkerSync(None)):
                raise _not_started()
            return
        with _shared_folder() as folder:
            share_between_workers(folder / "metrics")
            limit_threads()  # workers inherit the environment
            gc.enable()
            Supervisor(partial(_serve_one, config), workers, folder / "sync", config.hung_seconds).run()


def worker_count(wanted: int) -> int:
    """Number of worker processes: as requested, or one per core but at most ``MOST_WORKERS``."""
    return wanted or min(len(os.sched_getaffinity(0)), MOST_WORKERS)


class Supervisor:
    """Keeps worker processes running. ``run`` handles signals, so call it in the main thread."""

    def __init__(self, work: Work, workers: int, path: Path, hung_seconds: float) -> None:
        """path: the ``WorkerSync`` file to create. hung_seconds: a worker silent for longer is killed."""
        WorkerSync.create(path, workers)
        self._sync = WorkerSync(path, 0, workers)
        self._work, self._path, self._hung_s = work, path, hung_seconds
        self._workers = [_Worker(number) for number in range(workers)]
        self._stopping = False

    def run(self) -> None:
        """Start and watch the workers until SIGTERM or SIGINT, then let them finish their requests.

        Raises:
            LannerError: a worker exited before it had started.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for worker in self._workers:
                self._start(worker)
            while not self._stopping:
                looked = time.monotonic()
                wait([one.process.sentinel for one in self._workers if one.process is not None], _POLL_SECONDS)
                # If this process was suspended, so were the workers, and their heartbeats are stale.
                on_time = time.monotonic() - looked < self._hung_s / 2
                for worker in self._workers:
                    if not self._stopping:
                        self._check(worker, on_time)
        finally:
            self._stop_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, worker: "_Worker") -> None:
        arguments = (self._work, self._path, worker.number, len(self._workers))
        process = multiprocessing.get_context("spawn").Process(target=_run, args=arguments)
        # Ctrl-C reaches every process; workers inherit the blocked signal, so only the supervisor handles it.
        resource_tracker.ensure_running()  # started before the mask is set, which it would reset
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        worker.process, worker.since = process, time.monotonic()

    def _check(self, worker: "_Worker", on_time: bool) -> None:
        process, silent_s = worker.process, self._sync.silent_s(worker.number)
        if process is None:
            if time.monotonic() >= worker.since:
                self._start(worker)
            return
        worker.has_started |= silent_s is not None
        if process.is_alive():
            if silent_s is None or silent_s < self._hung_s or not on_time:
                return
            _log.error("worker %d does not respond (pid %d); killing it", worker.number, process.pid)
            process.kill()
            process.join()
        if not worker.has_started:
            raise _not_started()
        self._sync.retire(worker.number)
        delay_s = worker.ended(time.monotonic())
        reason = _reason(process.exitcode)
        _log.error("worker %d exited unexpectedly (%s); restarting in %.1f s", worker.number, reason, delay_s)

    def _stop_all(self) -> None:
        running = [worker for worker in self._workers if worker.process is not None]
        for worker in running:
            assert worker.process is not None
            # A worker that is still opening its bundle has no requests and does not handle SIGTERM yet.
            hears = self._sync.silent_s(worker.number) is not None
            worker.process.terminate() if hears else worker.process.kill()
        ends = time.monotonic() + _STOP_SECONDS
        for worker in running:
            assert worker.process is not None
            worker.process.join(max(0.0, ends - time.monotonic()))
            if worker.process.is_alive():
                _log.error("worker %d did not stop in time; killing it", worker.number)
                worker.process.kill()
                worker.process.join()


class _Worker:
    """One worker as the supervisor sees it. since: start time, or earliest restart, in monotonic seconds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: multiprocessing.process.BaseProcess | None = None
        self.since = 0.0
        self.has_started = False
        """Whether it ever served, in this process or an earlier one."""
        self._short_lives = 0

    def ended(self, now: float) -> float:
        """Seconds until it is restarted."""
        self._short_lives = 0 if now - self.since > _LONG_LIFE_SECONDS else self._short_lives + 1
        delay_s = min(_MAX_BACKOFF_SECONDS, _BACKOFF_SECONDS * ((1 << min(max(0, self._short_lives - 1), 16)) - 1))
        self.process, self.since = None, now + delay_s
        return delay_s


def _run(work: Work, path: Path, number: int, workers: int) -> None:
    """Main function of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(0 if work(WorkerSync(path, number, workers)) else 1)


def _end_with_parent() -> None:
    """Exit at once with the parent: acknowledged data are on disk, and the address must be freed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _serve_one(config: "ServerConfig", sync: WorkerSync) -> bool:
    """Serve as one worker until SIGTERM; returns whether it started."""
    _log_to_stderr()
    limit_threads()
    gc.disable()  # nothing loaded at startup is garbage; the server collects once it has started
    from lanner.serving.bootstrap import build
    from lanner.serving.http.server import run_worker

    return run_worker(build(config, sync), [_bound(config.host, config.port, shared=True)])


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[None]:
    """Reserve an address for the workers.

    Raises:
        ConfigError: it is in use, or not one of this machine.
    """
    _bound(host, port, shared=False).close()  # a shared socket could join another server's
    with _bound(host, port, shared=True):
        yield


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket bound to an address. shared: with SO_REUSEPORT."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
        return made
    except OSError as error:
        problem = f"cannot listen on {host}:{port} ({error.strerror})"
        raise ConfigError(f"{problem}; choose another --host or --port") from None


@contextlib.contextmanager
def _shared_folder() -> Iterator[Path]:
    """A temporary folder, in memory if possible: disk writes would stall the memory-mapped file now and then.

    Folders of killed servers are removed.
    """
    place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    for left in place.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=place) as made, (Path(made) / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(made)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)


def _not_started() -> LannerError:
    return LannerError("the server failed to start; see the messages above")


def _reason(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
