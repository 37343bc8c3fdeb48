"""The cache saves time or does nothing: no disk state stops or changes an encoding."""

import multiprocessing
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lanner.models.text_cache import TextCache, cache_directory, text_key


def vectors_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def keys_of(count: int, prefix: str = "") -> list[bytes]:
    return [text_key(f"{prefix}{number}") for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deeper" / "cache.sqlite"


def test_what_is_put_is_got_by_another(path: Path) -> None:
    keys, vectors = keys_of(1200), vectors_of(1200)
    TextCache(path).put(keys, vectors)
    found = TextCache(path).get([*keys, text_key("never put")])
    assert list(map(found.get, [text_key("never put")])) == [None]
    assert_array_equal(np.stack([found[key] for key in keys]), vectors)


def test_putting_again_replaces(path: Path) -> None:
    cache, keys = TextCache(path), keys_of(2)
    cache.put(keys, vectors_of(2))
    cache.put(keys, vectors_of(2) + 1)
    assert_array_equal(cache.get(keys)[keys[1]], vectors_of(2)[1] + 1)


def test_a_flipped_byte_makes_one_row_absent(path: Path) -> None:
    cache, keys = TextCache(path), keys_of(3)
    cache.put(keys, vectors_of(3))
    content = bytearray(path.read_bytes())
    content[content.index(vectors_of(3)[1].tobytes())] ^= 1
    path.write_bytes(content)
    assert set(TextCache(path).get(keys)) == {keys[0], keys[2]}


@pytest.mark.parametrize("damage", [b"this is no database" * 400, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_damaged_file_is_started_afresh_with_a_warning(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    cache, keys = TextCache(path), keys_of(3)
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.get(keys) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(keys, vectors_of(3))
        assert len(cache.get(keys)) == 3


def test_a_damaged_file_that_cannot_be_removed_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 400)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    cache = TextCache(path)
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.get(keys_of(3)) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(keys_of(3), vectors_of(3))


def test_a_full_disk_warns_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def connect_to_a_full_disk(*place: object, **options: object) -> sqlite3.Connection:
        base = connect(*place, **options)
        base.execute("PRAGMA max_page_count = 3")
        return base

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_full_disk)
    cache, keys = TextCache(path), keys_of(1000)
    with pytest.warns(UserWarning, match="full"):
        cache.put(keys, vectors_of(1000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(keys, vectors_of(1000))
        assert cache.get(keys) == {}
    monkeypatch.undo()
    assert TextCache(path).get(keys) == {}, "half of a refused write is left behind"


def test_a_place_that_is_no_folder_warns_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = TextCache(tmp_path / "file" / "cache.sqlite")
    with pytest.warns(UserWarning, match="cannot be used"):
        cache.put(keys_of(2), vectors_of(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(keys_of(2), vectors_of(2))
        assert cache.get(keys_of(2)) == {}


def _put_many(path: Path, prefix: str) -> None:
    for start in range(0, 200, 10):
        TextCache(path).put(keys_of(200, prefix)[start : start + 10], vectors_of(200)[start : start + 10])


def test_two_processes_write_at_once(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_put_many, args=(path, prefix)) for prefix in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(TextCache(path).get(keys_of(200, "a") + keys_of(200, "b"))) == 400


def test_lone_surrogates_have_a_key() -> None:
    assert text_key("\ud800") != text_key("\ud801")


def test_the_argument_comes_before_the_variable_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "variable"))
    assert cache_directory(tmp_path / "argument") == tmp_path / "argument"
    assert cache_directory() == tmp_path / "variable"
    monkeypatch.delenv("LANNER_CACHE")
    assert cache_directory().name == "lanner"
