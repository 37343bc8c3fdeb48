"""The export is a dataset for the next training run."""

import math

import polars as pl
import pytest

from lanner.data.sources import load
from lanner.errors import RequestError, StorageError
from lanner.serving.messages import Event
from lanner.serving.store import open_store
from lanner.serving.store.export import SEQUENCE_KEY, export_events

NOW = 1_700_000_000.0


def test_what_was_stored_is_what_is_loaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr("lanner.serving.store.relational._ROWS_PER_BATCH", 2)
    events = [
        Event(user_id="7", item_id="sea", timestamp=NOW, weight=2.5, behaviour="buy"),
        Event(user_id="ann", item_id="sea", timestamp=NOW - 9.5),
        Event(user_id="ann", item_id="war", timestamp=NOW - 60, behaviour="view"),
        Event(user_id="7", item_id="„Meer“", timestamp=NOW + 0.5),
        Event(user_id="ann", item_id="sea", timestamp=NOW),
    ]
    store.append(events, NOW)
    path = tmp_path / "exports" / "events.parquet"
    assert export_events(store, path) == 5
    assert [one.name for one in path.parent.iterdir()] == ["events.parquet"]
    dataset = load(path)
    read = dataset.interactions
    known = lambda weight: None if math.isnan(weight) else weight
    rows = [
        (dataset.users.external[user], dataset.items.external[item], time, known(weight), read.behaviours[code])
        for user, item, time, weight, code in zip(
            read.user, read.item, read.timestamp, read.weight, read.behaviour, strict=True
        )
    ]
    expected = sorted(events, key=lambda event: event.timestamp)
    assert rows == [(one.user_id, one.item_id, int(one.timestamp * 1e9), one.weight, one.behaviour) for one in expected]
    assert not dataset.rejected
    assert path.stat().st_mode & 0o777 == 0o600
    assert pl.read_parquet_metadata(path)[SEQUENCE_KEY] == str(store.sequence()) == "5"
    assert pl.read_parquet(path)["timestamp"][1] == NOW - 9.5


def test_an_empty_store_is_an_empty_table(store, tmp_path):
    assert export_events(store, tmp_path / "events.parquet") == 0
    assert pl.read_parquet(tmp_path / "events.parquet").columns == ["user", "item", "behaviour", "weight", "timestamp"]


@pytest.mark.parametrize("name", ["events.csv", "events"])
def test_a_name_that_would_be_read_as_another_format_is_refused(store, tmp_path, name):
    with pytest.raises(RequestError, match=f"{name}: unknown format; the name must end with .parquet"):
        export_events(store, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_failure_leaves_what_stood_there(store, tmp_path, monkeypatch):
    path = tmp_path / "events.parquet"
    path.write_text("before")

    def full(self, *rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(StorageError, match=r"events\.parquet: cannot be written \(No space left.*nothing was changed"):
        export_events(store, path)
    assert path.read_text() == "before"
    assert [one for one in tmp_path.iterdir() if "partial" in one.name] == []


def test_the_command_writes_what_the_store_holds(tmp_path, capsys):
    from lanner.cli import main as cli

    store = open_store(str(tmp_path / "events.db"))
    store.append([Event(user_id="u", item_id="i", key="k")], 1.0)
    store.close()
    arguments = ["events", "export", str(tmp_path / "e.parquet"), "--store", str(tmp_path / "events.db"), "--json"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert not stopped.value.code
    assert '"events": 1' in capsys.readouterr().out
    assert (tmp_path / "e.parquet").exists()
