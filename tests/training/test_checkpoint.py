"""Checkpoint files: atomic, and never executed."""

import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lanner.errors import DataError, StorageError
from lanner.training import checkpoint
from lanner.training.checkpoint import (
    FILE,
    CheckpointTimer,
    Progress,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)

PROGRESS = Progress("run", 1, 7, -float("inf"), 0)


def test_what_was_saved_comes_back(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": whole, "part of a": whole.T[1:], "step": torch.tensor(3), "half": whole.bfloat16()}
    assert save_checkpoint(tmp_path / "new", PROGRESS, tensors) == tmp_path / "new" / FILE
    progress, loaded = load_checkpoint(tmp_path / "new", "run")
    assert progress == PROGRESS
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype for name, value in tensors.items()
    )


def test_there_may_be_none(tmp_path):
    assert load_checkpoint(tmp_path, "run") is None


def test_another_run_is_told_apart(tmp_path):
    save_checkpoint(tmp_path, PROGRESS, {})
    with pytest.raises(DataError, match=f"{FILE}: .*other data or settings"):
        load_checkpoint(tmp_path, "another")


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_damaged_file_is_named(tmp_path, cut):
    path = save_checkpoint(tmp_path, PROGRESS, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=FILE) as caught:
        load_checkpoint(tmp_path, "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "cost", "expected"),
    [(60.0, 1.0, [3, 6, 9]), (60.0, 5.0, [3, 7]), (0.0, 5.0, list(range(1, 11))), (float("inf"), 0.0, [])],
    ids=["every minute", "less often where it takes seconds", "after every step", "never"],
)
def test_checkpoints_are_due_by_the_clock_and_take_little_of_the_time(monkeypatch, seconds, cost, expected):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    timer, found = CheckpointTimer(seconds), []
    for step in range(1, 11):
        now[0] += 25.0
        if timer.is_due():
            found.append(step)
            with timer.measured():
                now[0] += cost
    assert found == expected


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_not_run(tmp_path, write):
    mark = tmp_path / "mark"
    with (tmp_path / FILE).open("wb") as file:
        write(Trap(mark), file)
    with pytest.raises(DataError, match=FILE):
        load_checkpoint(tmp_path, "run")
    assert not mark.exists()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path, small_disk):
    save_checkpoint(tmp_path, PROGRESS, {"a": torch.ones(2)})
    with pytest.raises(StorageError, match="free some space"):
        save_checkpoint(tmp_path, PROGRESS, {"a": torch.zeros(10_000)})
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert load_checkpoint(tmp_path, "run")[1]["a"].tolist() == [1, 1]


def test_a_kill_before_the_rename_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, PROGRESS, {"a": torch.ones(2)})

    def killed(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.Path, "replace", killed)
    with pytest.raises(StorageError, match="No space left"):
        save_checkpoint(tmp_path, PROGRESS, {"a": torch.zeros(2)})
    assert load_checkpoint(tmp_path, "run")[1]["a"].tolist() == [1, 1]


def test_an_optimizer_goes_on_as_if_it_had_never_stopped():
    def steps(parameters, optimizer, first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            sum(((p - step) ** 2).sum() for p in parameters[:2]).backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3)) for _ in range(3)]  # the last one never gets a gradient
        return parameters, torch.optim.AdamW(parameters, lr=0.1)

    straight, optimizer = fresh()
    steps(straight, optimizer, 0, 6)
    stopped, optimizer = fresh()
    steps(stopped, optimizer, 0, 3)
    again = torch.optim.AdamW(stopped, lr=0.1)
    restore_optimizer(again, flatten_optimizer(optimizer))
    steps(stopped, again, 3, 6)
    assert all(torch.equal(one, other) for one, other in zip(straight, stopped, strict=True))
