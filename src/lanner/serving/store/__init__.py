"""Event stores by URL scheme, imported on demand: only PostgreSQL needs psycopg."""

from collections.abc import Callable

from lanner.errors import ConfigError
from lanner.serving.store.contract import Exposure, ItemChange, StoredEvent, StoreStats, UserRecord
from lanner.serving.store.relational import Store


def _sqlite(url: str) -> Store:
    from lanner.serving.store.sqlite import SqliteStore

    path = url.removeprefix("sqlite:///")
    if not path or path.startswith("sqlite:"):
        raise ConfigError(f"store '{url}' has no path; write sqlite:///events.db, or sqlite:////folder/events.db")
    return SqliteStore(path)


def _postgres(url: str) -> Store:
    from lanner.serving.store.postgres import PostgresStore

    return PostgresStore(url)


STORES: dict[str, Callable[[str], Store]] = {"sqlite": _sqlite, "postgresql": _postgres}


def open_store(url: str) -> Store:
    """Open a store: ``sqlite:///path`` (absolute: four slashes), a bare path, or ``postgresql://user@host/database``.

    Raises:
        ConfigError: an unknown scheme, or no path. MissingExtraError: psycopg is not installed.
        DataError: not a store, or another schema version. StorageError: not writable.
        StoreUnavailableError: no response.
    """
    scheme = url.partition("://")[0] if "://" in url else "sqlite"
    if scheme not in STORES:
        raise ConfigError(f"unknown store '{scheme}://'; choose one of {', '.join(STORES)}, or give a file's path")
    return STORES[scheme](url)


__all__ = ["STORES", "Exposure", "ItemChange", "Store", "StoreStats", "StoredEvent", "UserRecord", "open_store"]
