"""Memory-mapped arrays, and what a folder may replace."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lanner.errors import BundleError, StorageError
from lanner.files import FolderKind, mapped_arrays, write_folder

ARRAYS = {
    "codes": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "source": np.linspace(-1, 1, 35, dtype=np.float32).reshape(7, 5),
    "half": np.linspace(-1, 1, 3, dtype=np.float16),
    "neurons": np.array([2, 5, 7], np.int64),
    "owner": np.array([1, -1], np.int32),
    "alive": np.array([True, False, True]),
    "nobody": np.empty((0, 4), np.float32),
}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "form.safetensors"
    path.write_bytes(save(ARRAYS))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_what_was_written(stored):
    found = mapped_arrays(*stored)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].flags.aligned
        np.testing.assert_array_equal(found[name], array)


def test_two_readers_write_neither_to_the_file_nor_to_each_other(stored):
    first, second = mapped_arrays(*stored), mapped_arrays(*stored)
    first["source"][:] = 9
    np.testing.assert_array_equal(second["source"], ARRAYS["source"])
    assert hashlib.sha256(stored[0].read_bytes()).hexdigest() == stored[1]


def test_they_outlive_the_name_of_their_file(stored):
    found = mapped_arrays(*stored)
    stored[0].unlink()
    np.testing.assert_array_equal(found["source"], ARRAYS["source"])


@pytest.mark.parametrize("damage", ["a byte", "the end", "all", "the file"])
def test_a_damaged_file_is_refused(stored, damage):
    path, expected = stored
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[-1] ^= 1
    path.write_bytes(content[: {"the end": -3, "all": 0}.get(damage, len(content))])
    if damage == "the file":
        path.unlink()
    with pytest.raises(BundleError, match=r"form\.safetensors"):
        mapped_arrays(path, expected)


KIND = FolderKind("a box", "box.json", lambda told: ("box.json", *told["sha256"].keys()))
CONTENTS = {"box.json": b'{"sha256": {"a": "", "b": ""}}', "a": b"1", "b": b"2"}


def written(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_a_folder_is_replaced_where_all_of_it_is_its_own(tmp_path):
    path = tmp_path / "box"
    path.mkdir()
    for value in (b"1", b"2"):
        write_folder(path, CONTENTS | {"a": value}, kind=KIND)
        assert written(path) == CONTENTS | {"a": value}
    (path / "b").unlink()
    write_folder(path, CONTENTS, kind=KIND)
    assert written(path) == CONTENTS


@pytest.mark.parametrize("marker", [None, b"", b"\xff", b"[]", b'{"name": "web app"}', b'{"sha256": "abc"}'])
def test_a_folder_with_another_marker_is_not_touched(tmp_path, marker):
    foreign = {"index.html": b"mine"} | ({} if marker is None else {"box.json": marker})
    for name, content in foreign.items():
        (tmp_path / "web").mkdir(exist_ok=True)
        (tmp_path / "web" / name).write_bytes(content)
    with pytest.raises(StorageError, match="web: holds something other than a box; give another folder or remove it"):
        write_folder(tmp_path / "web", CONTENTS, kind=KIND)
    assert written(tmp_path / "web") == foreign
    assert [one.name for one in tmp_path.iterdir()] == ["web"]


def test_foreign_files_in_an_own_folder_are_not_touched(tmp_path):
    path = tmp_path / "box"
    write_folder(path, CONTENTS, kind=KIND)
    for number in range(4):
        (path / f"note{number}.txt").write_text("mine")
    said = r"box: holds files that are not part of a box: note0.txt, note1.txt, note2.txt and 1 more; give another"
    with pytest.raises(StorageError, match=said):
        write_folder(path, CONTENTS, kind=KIND)
    assert (path / "note3.txt").read_text() == "mine"
    write_folder(tmp_path / "other", CONTENTS, kind=KIND)
    (tmp_path / "other" / "a").unlink()
    (tmp_path / "other" / "a").mkdir()
    with pytest.raises(StorageError, match="not part of a box: a;"):
        write_folder(tmp_path / "other", CONTENTS, kind=KIND)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from lanner.files import FolderKind, write_folder
real, renames = Path.rename, []

def rename(one, other):
    renames.append(other)
    if len(renames) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(one, other)

Path.rename = rename
kind = FolderKind("a box", "box.json", lambda told: ("box.json", *told["sha256"].keys()))
write_folder(Path(sys.argv[1]), {"box.json": b'{"sha256": {"a": "", "b": ""}}', "a": b"new", "b": b"2"}, kind=kind)
"""


def _killed(path: Path, rename: int) -> None:
    """A process that replaces the folder is killed before one of its two renames."""
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(path), str(rename)], check=False)
    assert done.returncode == -9


@pytest.mark.parametrize("rename", [1, 2])
def test_the_next_write_removes_what_a_killed_process_left(tmp_path, rename):
    path = tmp_path / "box"
    write_folder(path, CONTENTS, kind=KIND)
    _killed(path, rename)
    assert len(list(tmp_path.iterdir())) == 2
    write_folder(path, CONTENTS | {"a": b"3"}, kind=KIND)
    assert written(path) == CONTENTS | {"a": b"3"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("state", ["partial", "replaced"])
def test_a_process_with_the_number_of_a_killed_one_can_write(tmp_path, state):
    (tmp_path / f".box.{state}-{platform.node()}-{os.getpid()}").mkdir()
    path = tmp_path / "box"
    write_folder(path, CONTENTS, kind=KIND)
    write_folder(path, CONTENTS | {"a": b"3"}, kind=KIND)
    assert written(path) == CONTENTS | {"a": b"3"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_only_copy_is_put_back_before_a_write_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "box"
    write_folder(path, CONTENTS, kind=KIND)
    _killed(path, 2)
    assert not path.exists()
    monkeypatch.setattr("lanner.files._write_through", _no_space)
    with pytest.raises(StorageError, match="nothing was changed"):
        write_folder(path, CONTENTS | {"a": b"3"}, kind=KIND)
    assert written(path) == CONTENTS
    assert list(tmp_path.iterdir()) == [path]


def _no_space(path, content):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", [f"{platform.node()}-{os.getppid()}", "other-machine-1234567"])
def test_what_another_process_writes_is_not_touched(tmp_path, where):
    path = tmp_path / "box"
    write_folder(path, CONTENTS, kind=KIND)
    live = tmp_path / f".box.partial-{where}"
    live.mkdir()
    write_folder(path, CONTENTS, kind=KIND)
    assert sorted(tmp_path.iterdir()) == [live, path]
