"""``lanner data``: describe, list, fetch."""

import json

import polars as pl
import pytest
from cli_calls import EVENTS, complaint, csv

from lanner.cli import datasets


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
        assert "is not a file of rejected rows" in complaint(ask("data", "describe", events, "--rejected", name))
    assert before == (events.read_bytes(), (tmp_path / "mine.parquet").read_bytes())


def test_rejected_rows_are_not_written_to_a_folder_named_like_a_file(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [*EVENTS, ("", "i1")])
    refused = complaint(ask("data", "describe", events, "--rejected", "bad.csv"))
    assert "--rejected bad.csv: unknown format; give a file that ends with .parquet, or a folder" in refused
    assert not (tmp_path / "bad.csv").exists()
    (tmp_path / "v1.2").mkdir()
    assert ask("data", "describe", events, "--rejected", "v1.2")[0] == 0
    assert (tmp_path / "v1.2" / "rejected.parquet").is_file()


def test_the_published_datasets_are_listed_with_their_terms(ask):
    listed = {one["name"]: one for one in json.loads(ask("data", "list", "--json")[1])["datasets"]}
    assert (listed["ml-1m"]["how"], listed["yelp"]["how"], listed["ml-latest-small"]["how"]) == (
        *("download", "by hand"),
        "bundled",
    )
    assert listed["gowalla-lightgcn"]["files"][0]["sha256"] is None
    assert "Non-commercial use" in ask("data", "list")[1]


def test_nothing_is_downloaded_before_the_terms_are_accepted(ask, monkeypatch):
    monkeypatch.setattr("lanner.data.published.download", lambda *_, **__: pytest.fail("downloaded"))
    code, out, _ = ask("data", "fetch", "gowalla-lightgcn")
    assert code == 0
    assert "No licence is stated" in " ".join(out.split())
    assert "no checksum is known" in out
    assert "download it: lanner data fetch gowalla-lightgcn --accept-terms" in out
    assert json.loads(ask("data", "fetch", "ml-1m", "--json")[1])["files"][0]["sha256"].startswith("a6898adb")


def test_what_cannot_be_fetched_is_one_line(ask):
    assert "unknown dataset 'ml1m'; did you mean 'ml-1m'?" in complaint(ask("data", "fetch", "ml1m"))
    said = complaint(ask("data", "fetch", "zimnat-insurance", "--accept-terms"))
    assert "cannot be downloaded by a program: Join the challenge" in said


def test_a_fetched_dataset_says_how_it_is_read(ask, monkeypatch, tmp_path):
    def stand_in(dataset, folder, progress):
        told = progress("ratings.zip")
        for done in (0, 1_000_000, 2_000_000):
            told(done, 4_000_000)
        return folder

    monkeypatch.setattr("lanner.data.published.fetch", stand_in)
    monkeypatch.setattr(datasets, "SECONDS_BETWEEN_LINES", 0.0)
    code, out, err = ask("data", "fetch", "gowalla-lightgcn", "--accept-terms", "--out", tmp_path / "g")
    assert code == 0
    assert f"To read it: lanner run {tmp_path / 'g'}" in out
    assert "train.txt: no checksum is known" in err
    assert "ratings.zip: 2.0 of 4.0 MB, " in err
    assert err.rstrip().endswith(" left")
