"""Event stores by the scheme of their URL. Each is imported when it is asked for: only one of them needs psycopg."""

from collections.abc import Callable

from lanner.errors import ConfigError
from lanner.serving.store.contract import Exposure, ItemChange, StoredEvent, StoreStats, UserRecord
from lanner.serving.store.relational import Store


def _sqlite(url: str) -> Store:
    from lanner.serving.store.sqlite import SqliteStore

    path = url.removeprefix("sqlite:///")
    if not path or path.startswith("sqlite:"):
        raise ConfigError(f"store '{url}' names no file; write sqlite:///events.db, or sqlite:////folder/events.db")
    return SqliteStore(path)


def _postgres(url: str) -> Store:
    from lanner.serving.store.postgres import PostgresStore

    return PostgresStore(url)


STORES: dict[str, Callable[[str], Store]] = {"sqlite": _sqlite, "postgresql": _postgres}


def open_store(url: str) -> Store:
    """The store at ``sqlite:///path`` (four slashes: from the root), a bare path, or ``postgresql://user@host/database``.

    Raises:
        ConfigError: a scheme that no store has, or no path. MissingExtraError: psycopg is not installed.
        DataError: what is there is no store, or one of another schema. StorageError: it may not be written.
        StoreUnavailableError: it does not answer.
    """
    scheme = url.partition("://")[0] if "://" in url else "sqlite"
    if scheme not in STORES:
        raise ConfigError(f"unknown store '{scheme}://'; choose one of {', '.join(STORES)}, or give a file's path")
    return STORES[scheme](url)


__all__ = ["STORES", "Exposure", "ItemChange", "Store", "StoreStats", "StoredEvent", "UserRecord", "open_store"]
