"""The embedded store: one SQLite file in WAL mode, for one machine; shared by its processes."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from lanner.errors import DataError, LannerError, StorageError, StoreUnavailableError
from lanner.serving.messages import Changed
from lanner.serving.store.connections import QUEUE_LIMIT
from lanner.serving.store.relational import OTHER_SCHEMA, SCHEMA_VERSION, Store, tables

_LOCK_SECONDS = 4.0
_CACHE_KIB = {"writing": 2 * 1024, "reading": 1024}
"""Page cache per connection. Small: the operating system caches reads, and a slowly filling cache looks like a leak."""
_CANNOT_OPEN = "{}: cannot open for writing ({}); check the path and its permissions"
_LOG_PAGES = 4_000
"""Pages of the write-ahead log that trigger a checkpoint: 16 MB."""
_VACUUM = "PRAGMA incremental_vacuum(2000)"
"""8 MB per step: some tens of milliseconds between two commits."""
_ROWS_PER_STATEMENT = 64
_PEOPLE = ("INSERT INTO people (digest, id) VALUES", "(?, ?)")
_UNDELETE = "ON CONFLICT (digest) DO UPDATE SET live = 1, id = excluded.id WHERE live = 0"
_EVENTS = (
    "INSERT INTO events (sequence, person, item, behaviour, weight, timestamp, key) VALUES",
    "(?, (SELECT number FROM people WHERE digest = ?), ?, ?, ?, ?, ?)",
)


class SqliteStore(Store):
    """Events in a file. Acknowledged events survive a power failure (``synchronous = FULL``)."""

    _errors = (sqlite3.Error,)
    _lost = ()
    _most_idle = 2
    _placeholder = "?"
    _begin = "BEGIN IMMEDIATE"
    # A record of equal length is overwritten in place, and ``people`` is append-only: no page keeps a copy of an id.
    # Deleting the row would move others and leave copies of them in free parts of pages.
    _erase_person = "UPDATE people SET live = 0, id = zeroblob(length(CAST(id AS BLOB))) WHERE number = ?"

    def __init__(self, path: Path | str, queue_limit: int = QUEUE_LIMIT) -> None:
        """Open the file, or create it for its owner only; its folder must exist. queue_limit: maximum queued events.

        Raises:
            DataError: not a store, or another schema version. StorageError: not writable.
            StoreUnavailableError: locked by another process.
        """
        self._path = Path(path).absolute()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self._file = _identity(os.fstat(descriptor))
            os.close(descriptor)
        except OSError as error:
            raise StorageError(_CANNOT_OPEN.format(path, error.strerror)) from error
        super().__init__(str(path), queue_limit)

    def _connect(self, reading: bool) -> sqlite3.Connection:
        # Never created here: a removed file would come back empty.
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            timeout=_LOCK_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
            uri=True,
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

    def _require_file(self) -> None:
        try:
            there = _identity(self._path.stat())
        except OSError:
            there = None
        if there != self._file:
            raise StoreUnavailableError(
                f"{self._name}: the file was removed or replaced, nothing was stored; restore it or restart the server"
            )

    def _insert_people(self, connection: sqlite3.Connection, rows: Sequence[tuple[bytes, str]]) -> None:
        _insert(connection, *_PEOPLE, rows, _UNDELETE)

    def _insert_events(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        return _insert(connection, *_EVENTS, rows, "ON CONFLICT DO NOTHING")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Check the contents first: a foreign file is not modified.
        self._is_new(connection)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(self._begin)
        if self._is_new(connection):
            for statement in tables("INTEGER PRIMARY KEY AUTOINCREMENT", "INTEGER PRIMARY KEY", "BLOB"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, SCHEMA_VERSION):
            raise DataError(OTHER_SCHEMA.format(version), path=self._name)
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables:
            raise DataError("not an event store; choose another file", path=self._name)
        return version == 0

    def _bytes_on_disk(self) -> int:
        files = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def delete_user(self, id: str) -> Changed:
        changed = super().delete_user(id)
        # The write-ahead log still contains the old pages; wait for readers and truncate it.
        with self._translating(), closing(self._connect(reading=False)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreUnavailableError(
                "the store: the user was removed, but another process still reads old pages; try again to clear the log"
            )
        return changed

    def compact(self, keep_days: float | None, keep_per_user: int | None) -> int:
        deleted = super().compact(keep_days, keep_per_user)
        while self._fetch("PRAGMA freelist_count")[0][0]:
            self._writer.submit(lambda connection: self._rows(connection, _VACUUM))
        return deleted

    def check(self) -> None:
        self._require_file()
        super().check()

    def _begin_writing(self) -> None:
        self._require_file()
        super()._begin_writing()

    def _translated(self, error: Exception) -> LannerError:
        place, code = self._name, getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailableError(f"{place}: the disk is full, nothing was stored; free space and try again")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            seconds = f"{_LOCK_SECONDS:g} s"
            return StoreUnavailableError(f"{place}: locked by another process for more than {seconds}; try again later")
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) and self._opened:
            return StoreUnavailableError(f"{place}: the file is damaged ({error}); restore it from a backup")
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return DataError(f"not an SQLite database, or a damaged one ({error}); restore or move it", path=place)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StorageError(_CANNOT_OPEN.format(place, error))
        return StoreUnavailableError(f"{place}: the store failed ({error}); check the disk and try again")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _insert(
    connection: sqlite3.Connection, into: str, row: str, rows: Sequence[tuple[Any, ...]], on_conflict: str
) -> int:
    """Returns the number of rows inserted; few distinct statements fit SQLite's statement cache."""
    written, at, number = 0, 0, _ROWS_PER_STATEMENT
    while at < len(rows):
        while number > len(rows) - at:
            number //= 2
        statement = f"{into} {', '.join([row] * number)} {on_conflict}"
        written += connection.execute(statement, list(chain.from_iterable(rows[at : at + number]))).rowcount
        at += number
    return written
