"""The store shared by several servers: PostgreSQL, with psycopg 3, in the schema ``lanner`` of the given database."""

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from lanner.errors import ConfigError, DataError, LannerError, MissingExtraError, StorageError, StoreUnavailableError
from lanner.serving.store.connections import QUEUE_LIMIT
from lanner.serving.store.contract import Closer
from lanner.serving.store.relational import OTHER_SCHEMA, SCHEMA_VERSION, Store, tables

if TYPE_CHECKING:
    import psycopg
else:
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError("psycopg", "postgres", "the PostgreSQL store") from None

_CONNECT_SECONDS = 5
_LOCK_MILLISECONDS = 4_000
_SILENCE_MILLISECONDS = 10_000
"""Timeout after which an unresponsive server is considered lost."""
_CHANNEL = "lanner"
_LISTEN_SECONDS = 0.5
"""Maximum time for a listener to stop or to reconnect, in seconds."""
_SETUP_LOCK = 0x1A44E4
"""Advisory lock: only one of several starting servers creates the tables."""

_log = logging.getLogger(__name__)

# One statement for all rows of a batch; one per row takes about twice as long.
_NEW_PEOPLE = """INSERT INTO people (digest, id) SELECT * FROM unnest(?::bytea[], ?::text[]) ON CONFLICT DO NOTHING"""
_NEW_EVENTS = """INSERT INTO events (sequence, person, item, behaviour, weight, timestamp, key)
    SELECT new.sequence, (SELECT number FROM people p WHERE p.digest = new.digest), new.item, new.behaviour,
        new.weight, new.timestamp, new.key
    FROM unnest(?::bigint[], ?::bytea[], ?::text[], ?::text[], ?::float8[], ?::float8[], ?::bytea[])
        AS new (sequence, digest, item, behaviour, weight, timestamp, key)
    ORDER BY new.sequence ON CONFLICT DO NOTHING"""
_BYTES = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'lanner' AND c.relkind = 'r'"""


class PostgresStore(Store):
    """Events in a PostgreSQL database. Lost connections are reopened by the next call."""

    _errors = (psycopg.Error,)
    _lost = (psycopg.OperationalError, psycopg.InterfaceError)
    _most_idle = 8
    _placeholder = "%s"
    _begin = "BEGIN"
    _erase_person = "DELETE FROM people WHERE number = ?"
    _notify = f", pg_notify('{_CHANNEL}', '')"

    def __init__(self, url: str, queue_limit: int = QUEUE_LIMIT) -> None:
        """Connect and create the tables if missing. queue_limit: maximum number of queued events.

        Raises:
            ConfigError: libpq cannot parse the URL. DataError: another schema version.
            StoreUnavailableError: no response. StorageError: insufficient privileges for the tables.
        """
        self._url = url
        super().__init__(_without_password(url), queue_limit)

    def listen(self, on_change: Callable[[], None]) -> Closer:
        ended = Event()
        thread = Thread(target=self._listen, args=(on_change, ended), name="store-listener", daemon=True)
        thread.start()

        def close() -> None:
            ended.set()
            thread.join()

        return close

    def _listen(self, on_change: Callable[[], None], ended: Event) -> None:
        """Until stopped. Changes during a lost connection are unknown, so reconnecting counts as a change."""
        problem = ""
        while not ended.is_set():
            try:
                with self._connect(reading=True) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    problem, has_changes = "", True
                    while not ended.is_set():
                        if has_changes:
                            on_change()
                        has_changes = any(True for _ in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1))
            except self._errors as error:
                if not problem:
                    problem = str(self._translated(error))
                    _log.warning("not receiving changes of other servers: %s", problem)
                ended.wait(_LISTEN_SECONDS)

    def _connect(self, reading: bool) -> Any:
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            tcp_user_timeout=_SILENCE_MILLISECONDS,
            keepalives_idle=_SILENCE_MILLISECONDS // 1_000,
            application_name="lanner",
            options=f"-c search_path=lanner -c lock_timeout={_LOCK_MILLISECONDS} -c synchronous_commit=on"
            + (" -c default_transaction_read_only=on" if reading else ""),
        )

    def _prepare(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
            if connection.execute("SELECT to_regclass('lanner.store_schema')").fetchone()[0] is None:
                connection.execute("CREATE SCHEMA IF NOT EXISTS lanner")
                numbered = "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
                for statement in tables(numbered, "BIGINT PRIMARY KEY", "BYTEA"):
                    connection.execute(statement)
                connection.execute("CREATE TABLE store_schema (version INTEGER NOT NULL)")
                connection.execute("INSERT INTO store_schema VALUES (%s)", (SCHEMA_VERSION,))
            version = connection.execute("SELECT version FROM store_schema").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise DataError(OTHER_SCHEMA.format(version), path=self._name)

    def _insert_people(self, connection: Any, rows: Sequence[tuple[bytes, str]]) -> None:
        self._all(connection, _NEW_PEOPLE, [tuple(map(list, zip(*rows, strict=True)))] if rows else [])

    def _insert_events(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> int:
        return self._all(connection, _NEW_EVENTS, [tuple(map(list, zip(*rows, strict=True)))]) if rows else 0

    def _bytes_on_disk(self) -> int:
        return int(self._fetch(_BYTES)[0][0])

    def _translated(self, error: Exception) -> LannerError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, psycopg.errors.DiskFull):
            return StoreUnavailableError(
                f"{self._name}: the disk is full, nothing was stored; free space and try again"
            )
        if isinstance(error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            return StorageError(f"{self._name}: not writable ({reason}); check the user's privileges")
        if isinstance(error, psycopg.DataError):
            return DataError(f"a value that cannot be stored ({reason})", path=self._name)
        return StoreUnavailableError(f"{self._name}: no response ({reason}); check the database server and try again")


def _without_password(url: str) -> str:
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        raise ConfigError(f"invalid PostgreSQL URL ({str(error).strip()})") from None
    return f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"
