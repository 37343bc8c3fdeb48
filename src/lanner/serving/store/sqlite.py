"""The embedded store: one SQLite file in WAL mode, for one machine; several processes may share it."""

import sqlite3
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lanner.errors import DataError, LannerError, StorageError, StoreUnavailableError
from lanner.serving.store.connections import MOST_WAITING
from lanner.serving.store.relational import RelationalStore
from lanner.serving.store.schema import VERSION, tables

_LOCK_SECONDS = 4.0
_CACHE_KIB = {"writing": 2 * 1024, "reading": 1024}
"""Of each connection; the operating system keeps what is read, and a cache that fills for minutes looks like a leak."""
_LOG_PAGES = 4_000
"""Pages of the write-ahead log after which it is moved into the file: 16 MB."""
_PAGES_FREED = 2_000
"""Freed in one step: 8 MB, some tens of milliseconds between two commits."""


_ROWS_A_STATEMENT = 64
_INTO_PEOPLE = "INSERT INTO people (id) VALUES"
_INTO_EVENTS = "INSERT INTO events (sequence, person, item, behaviour, weight, timestamp, key) VALUES"
_EVENT = "(?, (SELECT number FROM people WHERE id = ?), ?, ?, ?, ?, ?)"


class SqliteStore(RelationalStore):
    """Events in a file. A power cut loses nothing that was acknowledged (``synchronous = FULL``)."""

    _errors = (sqlite3.Error,)
    _lost = ()
    _most_idle = 2
    _placeholder = "?"
    _begin = "BEGIN IMMEDIATE"
    # Without a condition SQLite gives the pages back whole, and secure_delete overwrites every byte of them.
    _empty_people = "DELETE FROM people"

    def __init__(self, path: Path | str, most_waiting: int = MOST_WAITING) -> None:
        """Open the file, or make it; its folder must be there. most_waiting: bound of the queue, in events.

        Raises:
            DataError: a file that is no store, or one of a newer schema. StorageError: it may not be written.
            StoreUnavailableError: another process locks it.
        """
        self._path = Path(path).absolute()
        super().__init__(str(path), most_waiting)

    def _connect(self, reading: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        settings = {
            "cache_size": -_CACHE_KIB["reading" if reading else "writing"],
            "secure_delete": "ON",
            "synchronous": "FULL",
        }
        settings |= {"query_only": "ON"} if reading else {"wal_autocheckpoint": _LOG_PAGES}
        for name, value in settings.items():
            connection.execute(f"PRAGMA {name} = {value}")
        return connection

    def _insert_people(self, connection: sqlite3.Connection, ids: Collection[str]) -> None:
        _insert(connection, _INTO_PEOPLE, "(?)", [(id,) for id in ids])

    def _insert_events(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        return _insert(connection, _INTO_EVENTS, _EVENT, rows)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # What it is comes first: nothing is changed in a file that is not ours.
        self._is_new(connection)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(self._begin)
        if self._is_new(connection):
            for statement in tables("INTEGER PRIMARY KEY AUTOINCREMENT", "INTEGER PRIMARY KEY", "BLOB"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise DataError(f"a store of schema {version}, newer than {VERSION}; update lanner", path=self._name)
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables:
            raise DataError("a database of something else; give another file", path=self._name)
        return version == 0

    def _bytes_on_disk(self) -> int:
        files = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _clear_logs(self) -> None:
        with self._plainly():
            self._writing = self._writing or self._connect(reading=False)
            busy, _, _ = self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreUnavailableError(
                f"{self._name}: written, but another process still reads old pages of the log; ask again to clear it"
            )

    def _free_space(self) -> None:
        while self._fetch("PRAGMA freelist_count")[0][0]:
            self._writer.alone(self._free_some_pages)

    def _free_some_pages(self) -> None:
        self._transact(lambda connection: self._rows(connection, f"PRAGMA incremental_vacuum({_PAGES_FREED})"))

    def _translated(self, error: Exception) -> LannerError:
        place, code = self._name, getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailableError(f"{place}: the disk is full, nothing was stored; free space and send it again")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            seconds = f"{_LOCK_SECONDS:g} s"
            return StoreUnavailableError(f"{place}: locked by another process for more than {seconds}; try again later")
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return DataError(f"no SQLite database, or a damaged one ({error}); restore or move it", path=place)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StorageError(f"{place}: cannot be opened for writing ({error}); check the path and its permissions")
        return StoreUnavailableError(f"{place}: the store failed ({error}); check the disk and try again")


def _insert(connection: sqlite3.Connection, into: str, row: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """How many rows were new; in few statements, of few lengths, so that SQLite has them ready."""
    new, at, number = 0, 0, _ROWS_A_STATEMENT
    while at < len(rows):
        while number > len(rows) - at:
            number //= 2
        statement = f"{into} {', '.join([row] * number)} ON CONFLICT DO NOTHING"
        new += connection.execute(statement, list(chain.from_iterable(rows[at : at + number]))).rowcount
        at += number
    return new
