"""A store of each kind; PostgreSQL's is a throwaway cluster, if its programs are installed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_cluster import Cluster, cluster, postgres_server

from lanner.serving.store import Store, open_store

Opens = Callable[[], Store]
__all__ = ["Cluster", "cluster", "postgres_server"]


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of a database that holds no store."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS lanner CASCADE")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """Opens the same store each time: another server, or the same one after a restart."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'events.db'}" if sqlite else request.getfixturevalue("postgres_url")
    opened: list[Store] = []

    def one() -> Store:
        opened.append(open_store(url))
        return opened[-1]

    yield one
    for store in opened:
        store.close()


@pytest.fixture
def store(opens: Opens) -> Store:
    return opens()
