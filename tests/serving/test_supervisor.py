"""The supervisor with real processes that serve nothing: they die, hang, fail to start, and never outlive it."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")

from lanner.errors import ConfigError, LannerError
from lanner.serving import supervisor
from lanner.serving.supervisor import Supervisor
from lanner.serving.worker_sync import WorkerSync

WORKERS, HUNG_SECONDS = 2, 1.0
spawn = multiprocessing.get_context("spawn")


def work(folder: Path, sync: WorkerSync) -> bool:
    """Beat and leave a file for each start, until SIGTERM; what a file orders is done once."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    (folder / f"{sync.worker}-{os.getpid()}").touch()
    sync.applied(0)
    while not ended.wait(0.05):
        sync.beat()
    (folder / f"ended-{sync.worker}").touch()
    return True


def not_at_all(sync: WorkerSync) -> bool:
    return False


def dies_soon(folder: Path, sync: WorkerSync) -> bool:
    (folder / f"{sync.worker}-{os.getpid()}").touch()
    sync.beat()
    time.sleep(0.4)
    os._exit(7)


def supervise(folder, job):
    Supervisor(partial(job, folder), WORKERS, folder / "sync", HUNG_SECONDS).run()


@contextmanager
def supervised(folder, job=work):
    process = spawn.Process(target=supervise, args=(folder, job))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(20)
        assert process.exitcode == 0


def pids(folder, worker):
    return {int(file.name.partition("-")[2]) for file in folder.glob(f"{worker}-*")}


def wait_for(holds, seconds=20):
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


def test_a_worker_that_died_or_hangs_is_replaced_and_the_others_go_on(tmp_path):
    with supervised(tmp_path):
        wait_for(lambda: pids(tmp_path, 0) and pids(tmp_path, 1))
        sync = WorkerSync(tmp_path / "sync", 0, WORKERS)
        (first,), (other,) = pids(tmp_path, 0), pids(tmp_path, 1)
        wait_for(lambda: sync.silent_s(0) and sync.silent_s(1))
        os.kill(first, signal.SIGKILL)
        second = wait_for(lambda: pids(tmp_path, 0) - {first}).pop()
        wait_for(lambda: sync.silent_s(0))
        os.kill(second, signal.SIGSTOP)
        third = wait_for(lambda: pids(tmp_path, 0) - {first, second}).pop()
        assert not Path(f"/proc/{second}").exists()
        assert pids(tmp_path, 1) == {other}
        wait_for(lambda: sync.silent_s(0))
        assert WorkerSync(tmp_path / "sync", 1, WORKERS).problems() == []
    assert {one.name for one in tmp_path.glob("ended-*")} == {"ended-0", "ended-1"}
    assert not Path(f"/proc/{third}").exists()


def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly(tmp_path):
    with supervised(tmp_path, dies_soon):
        wait_for(lambda: len(pids(tmp_path, 0)) >= 2)
        time.sleep(2.5)
        assert 2 <= len(pids(tmp_path, 0)) <= 4


def test_a_worker_that_never_starts_ends_the_server(tmp_path):
    with pytest.raises(LannerError, match="failed to start"):
        Supervisor(not_at_all, WORKERS, tmp_path / "sync", HUNG_SECONDS).run()
    assert multiprocessing.active_children() == []


def test_workers_end_with_a_supervisor_that_is_killed(tmp_path):
    process = spawn.Process(target=supervise, args=(tmp_path, work))
    process.start()
    wait_for(lambda: pids(tmp_path, 0) and pids(tmp_path, 1))
    workers = pids(tmp_path, 0) | pids(tmp_path, 1)
    process.kill()
    process.join()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 3)


def test_what_a_killed_server_left_in_memory_is_removed():
    with supervisor._shared_folder() as living, supervisor._shared_folder() as other:
        (living / "sync").touch()
        killed = living.with_name(f"{supervisor._FOLDER}killed")
        (killed / "metrics").mkdir(parents=True)
        (killed / supervisor._LOCK).touch()
        with supervisor._shared_folder():
            assert not killed.exists()
            assert (living / "sync").exists()
            assert other.exists()
    assert not living.exists()


def test_an_address_that_is_taken_is_refused_in_one_line():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another server's worker does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port} .*in use"),
            supervisor._reserved("127.0.0.1", port),
        ):
            pass
    with (
        pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.1:80"),
        supervisor._reserved("203.0.113.1", 80),
    ):
        pass
    with supervisor._reserved("127.0.0.1", port), supervisor._bound("127.0.0.1", port, shared=True) as worker:
        worker.listen()


def test_as_many_workers_as_cores_but_few_unasked(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert (supervisor.worker_count(0), supervisor.worker_count(9)) == (3, 9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert supervisor.worker_count(0) == supervisor.MOST_WORKERS
