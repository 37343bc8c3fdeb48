"""State shared between worker processes, with real processes."""

import multiprocessing
import time

import pytest

from lanner.errors import StorageError
from lanner.serving.worker_sync import WorkerSync

WORKERS = 3
processes = multiprocessing.get_context("spawn")


def make(folder, workers=WORKERS):
    WorkerSync.create(folder / "sync", workers)
    return [WorkerSync(folder / "sync", worker, workers) for worker in range(workers)]


def bump_often(path, worker, stop):
    sync = WorkerSync(path, worker, WORKERS)
    while not stop.is_set():
        for _ in range(100):
            sync.bump()


def apply_later(path, worker, sequence):
    sync = WorkerSync(path, worker, WORKERS)
    for number in range(sequence + 1):
        sync.applied(number)
        time.sleep(0.02)


def test_each_bump_of_any_process_gives_a_generation_of_its_own(tmp_path):
    first, *_ = make(tmp_path)
    stop = processes.Event()
    writers = [processes.Process(target=bump_often, args=(tmp_path / "sync", one, stop)) for one in (1, 2)]
    for writer in writers:
        writer.start()
    seen, last, repeated, ends = set(), 0, 0, time.monotonic() + 30
    while (len(seen) < 10_000 or len({one % WORKERS for one in seen}) < 2) and time.monotonic() < ends:
        for _ in range(1000):
            now = first.generation
            if now != last:
                repeated += now in seen
                seen.add(now)
                last = now
    stop.set()
    for writer in writers:
        writer.join()
    assert {one % WORKERS for one in seen} >= {1, 2}
    # One value comes once: whoever has compared in between two bumps at the same time sees the second.
    assert repeated == 0
    before = first.generation
    first.bump()
    assert first.generation != before


def test_a_writer_waits_for_every_worker_that_runs(tmp_path):
    first, second, third = make(tmp_path)
    assert first.all_applied(5)  # nobody runs yet
    first.applied(5)
    other = processes.Process(target=apply_later, args=(tmp_path / "sync", 1, 5))
    other.start()
    while first._numbers[4] < 0:
        time.sleep(0.001)
    assert not first.all_applied(5)
    ends = time.monotonic() + 10
    while not first.all_applied(5) and time.monotonic() < ends:
        time.sleep(0.001)
    assert first.all_applied(5)
    assert second._numbers[4] == 5
    third.applied(2)
    assert not first.all_applied(5)
    first.retire(2)
    assert first.all_applied(5)
    other.join()


def test_what_is_dead_or_hung_is_named(tmp_path, monkeypatch):
    first, second, _ = make(tmp_path)
    first.beat()
    second.beat()
    assert first.problems() == ["worker 2 is not running"]
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 3_000_000_000)
    assert first.problems() == ["worker 1 does not respond", "worker 2 is not running"]
    assert first.silent_s(1) == pytest.approx(3, abs=0.5)
    first.retire(1)
    assert first.silent_s(1) is None


def test_a_single_worker_needs_no_file():
    sync = WorkerSync(None)
    assert (sync.generation, sync.problems()) == (0, [])
    sync.bump()
    assert sync.generation != 0
    sync.applied(3)
    assert sync.all_applied(3)
    assert not sync.all_applied(4)


def test_a_file_of_another_server_is_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(StorageError, match="not made for this number of workers"):
        WorkerSync(tmp_path / "sync", 0, 9)
    with pytest.raises(StorageError, match="cannot be memory-mapped"):
        WorkerSync(tmp_path / "nothing", 0, 1)


def test_a_bump_of_users_is_none_of_items():
    sync = WorkerSync(None)
    before = sync.generation, sync.items_generation
    sync.bump(items=False)
    assert sync.generation != before[0]
    assert sync.items_generation == before[1]
    sync.bump()
    assert sync.items_generation == sync.generation != before[1]
