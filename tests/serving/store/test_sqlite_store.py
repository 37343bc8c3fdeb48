"""The embedded store against its file: invalid files, locks, a full disk, and sudden termination."""

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from lanner.errors import ConfigError, DataError, StorageError, StoreUnavailableError
from lanner.serving.messages import Event, Item, User
from lanner.serving.store import Exposure, open_store
from lanner.serving.store.sqlite import SqliteStore

NOW = 1_700_000_000.0


def event(user="ann", item="sea", **fields):
    return Event(user_id=user, item_id=item, **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def store(path):
    made = SqliteStore(path)
    yield made
    made.close()


def test_urls(path, monkeypatch):
    for url in (f"sqlite:///{path}", str(path)):
        store = open_store(url)
        assert isinstance(store, SqliteStore)
        store.close()
    monkeypatch.chdir(path.parent)
    open_store("sqlite:///near.db").close()
    assert (path.parent / "near.db").is_file()
    with pytest.raises(ConfigError, match=r"unknown store 'redis://'; choose one of sqlite, postgresql"):
        open_store("redis://user:secret@here/0")
    for url in ("sqlite:///", "sqlite://here/x"):
        with pytest.raises(ConfigError, match="has no path"):
            open_store(url)


def test_a_commit_is_on_disk_when_it_returns(store):
    settings = [store._writing.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
    assert settings == [2, "wal"]


class TestTheFile:
    def test_that_is_no_database(self, path):
        path.write_bytes(b"user,item\n" * 500)
        with pytest.raises(DataError, match=r"events\.db: not an SQLite database, or a damaged one .*; restore"):
            SqliteStore(path)
        assert path.read_bytes() == b"user,item\n" * 500

    def test_of_another_program_is_left_alone(self, path):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE songs (name TEXT)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(DataError, match="not an event store; choose another file"):
            SqliteStore(path)
        assert path.read_bytes() == before

    def test_of_another_schema(self, path, store):
        store._writing.execute("PRAGMA user_version = 1")
        store.close()
        with pytest.raises(DataError, match="a store of schema 1, expected 2; open it with the version of lanner that"):
            SqliteStore(path)

    def test_in_a_folder_that_is_not_there(self, path):
        with pytest.raises(StorageError, match="cannot open for writing"):
            SqliteStore(path.parent / "nowhere" / "events.db")

    def test_that_may_not_be_written(self):
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        try:
            SqliteStore(folder / "events.db").close()
            (folder / "events.db").chmod(0o444)
            folder.chmod(0o555)
            mine = os.geteuid()
            if mine == 0:
                os.seteuid(65534)
            try:
                with pytest.raises(StorageError, match=r"cannot open for writing .*; check the path"):
                    SqliteStore(folder / "events.db")
            finally:
                os.seteuid(mine)
        finally:
            folder.chmod(0o755)
            shutil.rmtree(folder)


def test_a_lock_held_by_another_ends_in_one_line_and_is_got_over(path, store, monkeypatch):
    store._writing.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"the store: locked by another process .*; try again later"):
        store.append([event(key="k")], NOW)
    assert store.histories(["ann"], 1) == [[]], "reading goes on"
    other.execute("ROLLBACK")
    assert store.append([event(key="k")], NOW).accepted == 1
    other.close()


def test_a_full_disk_ends_in_one_line_and_is_got_over(store):
    store.append([event()], NOW)
    pages = store._writing.execute("PRAGMA page_count").fetchone()[0]
    store._writing.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = [event(item="x" * 200, key=str(n)) for n in range(1000)]
    with pytest.raises(StoreUnavailableError, match=r"the disk is full, nothing was stored; free space"):
        store.append(many, NOW)
    assert store.stats().events == 1
    if store._writing is not None:
        store._writing.execute("PRAGMA max_page_count = 1000000")
    assert store.append(many, NOW).accepted == 1000


class TestAFileThatIsThereNoMore:
    def test_is_seen_and_nothing_is_acknowledged_that_would_be_lost(self, path, store):
        store.append([event()], NOW)
        path.rename(path.with_name("elsewhere.db"))
        for call in (store.check, lambda: store.append([event()], NOW)):
            with pytest.raises(StoreUnavailableError, match="the file was removed or replaced, nothing was stored"):
                call()
        assert not path.exists(), "an empty one in its place would hide it"
        path.with_name("elsewhere.db").rename(path)
        store.check()
        assert store.append([event()], NOW).accepted == 1

    def test_may_have_another_in_its_place(self, path, store):
        path.unlink()
        path.with_name("events.db-wal").unlink()
        SqliteStore(path).close()
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            store.check()


def test_the_files_are_for_their_owner_alone(path, store):
    store.append([event()], NOW)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_a_file_damaged_under_an_open_store_is_a_store_that_does_not_answer(path, store):
    store.append([event(str(n), "x" * 200) for n in range(500)], NOW)
    flushed(path)
    with path.open("rb+") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreUnavailableError, match=r"the store: the file is damaged") as caught:
        list(store.events())
    assert str(path.parent) not in str(caught.value)


def flushed(path):
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_to_delete_a_user_changes_nobody_elses_rows(store):
    store.append([event(f"u{n}") for n in range(1000)], NOW)
    before = store._writing.total_changes
    store.delete_user("u3")
    assert store._writing.total_changes - before < 10


def raw_bytes(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_the_files_hold_no_byte_of_who_was_deleted(path, store):
    draw = random.Random(0)
    names = [f"{draw.getrandbits(64):016x}{'x' * draw.randrange(60)}-person" for _ in range(6000)]
    for start in range(0, len(names), 100):
        people = names[start : start + 100]
        store.append([event(name, key=f"{name}.{n}") for name in people for n in range(2)], NOW)
        for name in draw.sample(names[: start + 100], 10):
            store.put_user(name, User(profile="sea " * draw.randrange(450), ties=draw.sample(people, 3)))
    store.expose([Exposure("x", "a", name, NOW, ["1"]) for name in names])
    reader = SqliteStore(path)
    reader.histories(names, 5)
    flushed(path)
    copies = Counter(re.findall(rb"[0-9a-f]{16}x*-person", raw_bytes(path)))
    assert set(copies.values()) == {1}, "no page keeps a copy of an id that was moved"
    gone = draw.sample(names, 8)
    for name in gone:
        store.delete_user(name)
        assert name.encode() not in raw_bytes(path)
    for name in gone[:4]:
        store.append([event(name)], NOW)
        store.put_user(name, User(profile="back", ties=[names[0]]))
    for name in gone[:4]:
        assert store.stats().users > len(names) - len(gone)
        store.delete_user(name)
        assert name.encode() not in raw_bytes(path)
    left = [name for name in names if name not in gone]
    assert all(len(one) == 2 for one in reader.histories(left, 5))
    assert reader.stats().users == len(left)
    reader.close()


def test_to_delete_while_another_reads_says_that_it_is_not_finished(path, store, monkeypatch):
    store.append([event("ann-the-first")], NOW)
    monkeypatch.setattr("lanner.serving.store.sqlite._LOCK_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM events").fetchone()
    with pytest.raises(StoreUnavailableError, match="another process still reads old pages"):
        store.delete_user("ann-the-first")
    other.execute("ROLLBACK")
    assert store.delete_user("ann-the-first").existed is False
    assert b"ann-the-first" not in raw_bytes(path)
    other.close()


def test_compacting_gives_space_back(path, store):
    store.append([event(item="x" * 200) for _ in range(10_000)], NOW)
    flushed(path)
    before = path.stat().st_size
    assert store.compact(None, 10) == 9_990
    flushed(path)
    assert path.stat().st_size < before / 5


def test_many_readers_while_one_writes(store):
    store.append([event(item=str(n)) for n in range(100)], NOW)
    with ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(store.histories, ["ann"], 50) for _ in range(200)]
        writes = [threads.submit(store.put_item, str(n), Item()) for n in range(50)]
        assert all(len(read.result(10)[0]) == 50 for read in reads)
        assert not any(write.result(10).existed for write in writes)
    assert len(store._idle) <= 8


KILLS = 10
APPENDING = """
import sys, threading
from lanner.serving.messages import Event
from lanner.serving.store.sqlite import SqliteStore

store, run = SqliteStore(sys.argv[1]), sys.argv[2]

def call(caller):
    for batch in range(10_000):
        keys = [f"{run}.{caller}.{batch}.{n}" for n in range(5)]
        store.append([Event(user_id=f"u{caller}", item_id=key, key=key) for key in keys], 1.7e9)
        sys.stdout.write("".join(key + "\\n" for key in keys))
        sys.stdout.flush()

for caller in range(3):
    threading.Thread(target=call, args=(caller,)).start()
"""


def test_a_kill_loses_nothing_acknowledged_and_a_retry_doubles_nothing(path):
    draw = random.Random(0)
    acknowledged = set()
    for run in range(KILLS):
        said = path.with_name("said")
        with said.open("wb") as output:
            process = subprocess.Popen([sys.executable, "-c", APPENDING, str(path), str(run)], stdout=output)
            try:
                while said.stat().st_size == 0 and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(draw.random() * 0.15)
            finally:
                process.kill()
                process.wait()
        lines = said.read_text().split("\n")[:-1]
        assert lines, "it had begun"
        acknowledged.update(lines)
        store = SqliteStore(path)
        stored = [row.item_id for batch in store.events() for row in batch]
        assert acknowledged <= set(stored)
        assert len(stored) == len(set(stored))
        retried = [event(item=key, key=key) for key in [*lines, f"new {run}"]]
        assert store.append(retried, NOW).duplicates == len(lines)
        store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_of_many_who_read_at_once_few_connections_are_kept(tmp_path):
    with closing(SqliteStore(tmp_path / "events.db")) as store:
        together = Barrier(6)

        def read(connection):
            together.wait(10)
            return 0

        with ThreadPoolExecutor(6) as readers:
            assert list(readers.map(lambda _: store._read(read), range(6))) == [0] * 6
        assert len(store._idle) == 2
