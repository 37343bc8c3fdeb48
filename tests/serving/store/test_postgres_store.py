"""The shared store against its server: outages and recovery, and other server errors."""

import builtins
import sys
import threading

import pytest

from lanner.errors import ConfigError, DataError, MissingExtraError, StorageError, StoreUnavailableError
from lanner.serving.messages import Event, Item, User
from lanner.serving.store import open_store

NOW = 1_700_000_000.0
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lanner'"


def event(user="ann", item="sea", **fields):
    return Event(user_id=user, item_id=item, **fields)


@pytest.fixture
def store(postgres_url):
    made = open_store(postgres_url)
    yield made
    made.close()


@pytest.fixture
def administrator(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def test_a_cut_connection_is_made_anew(store, administrator):
    assert store.append([event(key="a")], NOW).accepted == 1
    administrator.execute(CUT)
    assert store.append([event(key="a"), event(key="b")], NOW).accepted == 1
    administrator.execute(CUT)
    assert len(store.histories(["ann"], 9)[0]) == 2


def test_gone_and_back_nothing_acknowledged_is_lost(cluster):
    store = open_store(cluster.url)
    store.append([event("gone", str(n), key=f"g{n}") for n in range(50)], NOW)
    cluster.stop()
    try:
        for call in (lambda: store.append([event("gone", key="late")], NOW), store.check, store.stats):
            with pytest.raises(StoreUnavailableError, match=r"no response .*; check the database server and try again"):
                call()
        with pytest.raises(StoreUnavailableError, match="no response"):
            open_store(cluster.url)
    finally:
        cluster.start()
    store.check()
    assert store.append([event("gone", "49", key="g49"), event("gone", "late", key="late")], NOW).accepted == 1
    assert [one.item_id for one in store.histories(["gone"], 99)[0]] == [*(str(n) for n in range(50)), "late"]
    store.close()


def test_a_connection_cut_inside_a_transaction_stores_nothing_of_it(store, administrator):
    def cut(connection):
        store._all(connection, "DELETE FROM events WHERE sequence > ?", [(0,)])
        administrator.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        store._rows(connection, "SELECT 1")

    store.append([event()], NOW)
    with pytest.raises(StoreUnavailableError):
        store._writer.submit(cut)
    assert store.append([event()], NOW).accepted == 1
    assert store.stats().events == 2


def test_a_lock_held_by_another_ends_in_one_line(store, administrator):
    store._writing.execute("SET lock_timeout = 50")
    with administrator.transaction():
        administrator.execute("SELECT sequence FROM lanner.counter FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            store.append([event()], NOW)
    assert store.append([event()], NOW).accepted == 1


def test_other_servers_hear_of_every_change_also_after_their_connection_was_cut(store, administrator, postgres_url):
    heard = threading.Semaphore(0)
    other = open_store(postgres_url)
    close = other.listen(heard.release)
    try:
        assert heard.acquire(timeout=5), "what happened before it listened is unknown"
        for change in (
            lambda: store.append([event()], NOW),
            lambda: store.put_item("sea", Item()),
            lambda: store.put_user("ann", User()),
            lambda: store.delete_user("ann"),
        ):
            change()
            assert heard.acquire(timeout=5)
        assert not heard.acquire(timeout=0.6)
        administrator.execute(CUT)
        assert heard.acquire(timeout=5), "what happened meanwhile is unknown"
        store.append([event()], NOW)
        assert heard.acquire(timeout=5)
    finally:
        close()
        other.close()


def test_to_delete_a_user_rewrites_nobody_else(store, administrator):
    store.append([event(f"u{n}") for n in range(100)], NOW)
    place = "SELECT pg_relation_filenode('lanner.people'), max(xmin::text::bigint) FROM lanner.people"
    before = administrator.execute(place).fetchone()
    store.delete_user("u3")
    assert administrator.execute(place).fetchone() == before


def test_another_schema(store, administrator, postgres_url):
    administrator.execute("UPDATE lanner.store_schema SET version = 1")
    with pytest.raises(DataError, match="a store of schema 1, expected 2; open it with the version of lanner"):
        open_store(postgres_url)


def test_a_user_who_may_not_write(store, administrator, postgres_url):
    administrator.execute("DROP ROLE IF EXISTS lanner_reader")
    administrator.execute("CREATE ROLE lanner_reader LOGIN")
    with pytest.raises(StorageError, match=r"not writable .*; check the user's privileges"):
        open_store(
            f"{postgres_url}&user=lanner_reader" if "?" in postgres_url else f"{postgres_url}?user=lanner_reader"
        )
    administrator.execute("DROP ROLE lanner_reader")


def test_a_password_is_not_shown():
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    with pytest.raises(StoreUnavailableError) as caught:
        open_store("postgresql://ann:secret@127.0.0.1:1/shop")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    with pytest.raises(ConfigError, match="invalid PostgreSQL URL"):
        open_store("postgresql://ann@here/shop?colour=red")


def test_a_missing_library_names_its_extra(monkeypatch):
    real = builtins.__import__

    def without(wanted, *rest, **named):
        if wanted.split(".")[0] == "psycopg":
            raise ImportError(wanted)
        return real(wanted, *rest, **named)

    monkeypatch.delitem(sys.modules, "lanner.serving.store.postgres", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[postgres\]'"):
        open_store("postgresql://here/shop")
