"""``lanner data describe``."""

import json

import polars as pl
from cli_calls import EVENTS, complaint, csv


def test_rejected_rows_are_counted_and_written_only_where_asked(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [*EVENTS, ("", "i1")])
    code, out, _ = ask("data", "describe", events, "--json")
    found = json.loads(out)
    assert (code, found["counts"]["interactions"], sum(found["rejected"].values())) == (0, len(EVENTS), 1)
    assert found["rejected_rows"] is None
    shown = ask("data", "describe", events)[1]
    assert f"1 of {len(EVENTS) + 1} events were rejected: 1 missing user id" in shown
    assert "To write the rejected rows to a file: --rejected" in shown
    assert [one.name for one in tmp_path.iterdir()] == ["ratings.csv"]
    for _ in range(2):  # a file of its own is replaced
        assert "The rejected rows are in bad.parquet" in ask("data", "describe", events, "--rejected", "bad.parquet")[1]
    assert pl.read_parquet("bad.parquet")["reason"].to_list() == list(found["rejected"])


def test_a_file_of_somebody_else_is_never_overwritten(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [*EVENTS, ("", "i1")])
    pl.DataFrame({"mine": [1]}).write_parquet(tmp_path / "mine.parquet")
    before = events.read_bytes(), (tmp_path / "mine.parquet").read_bytes()
    for name in ("ratings.csv", "mine.parquet"):
        assert "holds no rejected rows" in complaint(ask("data", "describe", events, "--rejected", name))
    assert before == (events.read_bytes(), (tmp_path / "mine.parquet").read_bytes())
