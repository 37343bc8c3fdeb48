"""``lanner export``."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
from cli_calls import EVENTS, complaint, csv

from lanner.cli.export import Progress, read_ids
from lanner.errors import DataError


def test_recommendations_for_all_users(ask, bundle, tmp_path):
    code, out, err = ask("export", "recommendations", bundle, "--k", "5", "--out", "recs.parquet")
    frame = pl.read_parquet(tmp_path / "recs.parquet")
    assert (code, err) == (0, "")
    assert out.startswith(f"Wrote {frame.height:,} recommendations for 671 users to recs.parquet in ")
    asked = json.loads(ask("recommend", bundle, "--user", "42", "-k", "5", "--json")[1])["items"]
    assert frame.filter(user_id="42")["item_id"].to_list() == [str(one["item"]) for one in asked]


def test_users_of_a_file_and_what_is_not_known_of_them(ask, bundle, tmp_path):
    (tmp_path / "users.txt").write_text("42\n\nnobody\n")
    code, out, err = ask(
        *("export", "recommendations", bundle, "--users", "users.txt", "-k", "3", "--filter", "genres=Drama"),
        *("--out", "r.jsonl", "--json"),
    )
    facts = json.loads(out)
    assert (code, facts["users"], facts["rows"], facts["popular"], facts["unknown"]) == (0, 2, 6, 1, 1)
    assert err.count("\n") == 1
    assert "nothing the model uses is known about 1 users (1 of them not in the dataset)" in err
    assert {row["user_id"] for row in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())} == {
        "42",
        "nobody",
    }


def test_unknown_users_are_reported_for_a_model_that_uses_nothing_of_a_user(ask, tmp_path):
    assert ask("train", csv(tmp_path / "ev.csv", EVENTS), "--model", "popularity", "--out", "b")[0] == 0
    (tmp_path / "users.txt").write_text("u1\nnobody\n")
    code, _, err = ask("export", "recommendations", "b", "--users", "users.txt", "--out", "r.csv")
    assert (code, err) == (0, "lanner: 1 users are not in the dataset\n")


def test_what_cannot_be_exported_is_one_line(ask, bundle):
    assert "must end with one of" in complaint(ask("export", "recommendations", bundle, "--out", "recs.xlsx"))
    assert "users.txt: user ids cannot be read" in complaint(
        ask("export", "recommendations", bundle, "--out", "r.csv", "--users", "users.txt")
    )
    assert "has no embeddings" in complaint(ask("export", "embeddings", bundle, "--out", "e"))
    for places in ((), ("--out", "e", "--qdrant", "http://127.0.0.1:9")):
        assert "either --out, a folder, or --qdrant" in complaint(ask("export", "embeddings", bundle, *places))
    assert "unknown format 'hdf'" in complaint(ask("export", "embeddings", bundle, "--out", "e", "--format", "hdf"))


def test_ids_of_files(tmp_path):
    frame = pl.DataFrame({"n": [1.5, 2.5], "user_id": [7, 8]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.select("user_id").write_csv(tmp_path / "a.csv")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf7\r\n8\r\n")
    (tmp_path / "b.csv").write_text("name;user_id\nx, y;7\nz;8\n;\n")
    (tmp_path / "a.tsv").write_text("user\tname\n7\tx\n 8 \ty\n")
    (tmp_path / "a.jsonl").write_text('{"user_id": 7}\n{"user_id": "8"}\n')
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"user_id,name\n7,x\n8,y\n"))
    for name in ("a.parquet", "a.csv", "a.txt", "b.csv", "a.tsv", "a.jsonl", "c.csv.gz"):
        assert read_ids(tmp_path / name) == ["7", "8"]
    frame.select("n").write_parquet(tmp_path / "b.parquet")
    pl.DataFrame({"x": ["a"], "y": ["b"]}).write_csv(tmp_path / "c.csv")
    for name, words in (
        ("b.parquet", "must be integers or strings"),
        ("c.csv", "no column user_id; the file has x, y"),
    ):
        with pytest.raises(DataError, match=words):
            read_ids(tmp_path / name)


def test_progress_says_how_fast_and_how_long(capsys):
    now = iter([0.0, 2.0, 6.0, 10.0])
    progress = Progress(lambda: next(now))
    for done in (4000, 5000, 7000, 8000):  # the first 4,000 may have been finished long ago
        progress(done, 8000)
    assert [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()] == [
        "7,000 of 8,000 users, 500 users/s, 2.0 s left"
    ]


def test_embeddings_of_a_bundle(ask, tmp_path):
    pytest.importorskip("implicit")
    assert ask("train", csv(tmp_path / "ratings.csv", EVENTS), "--model", "ials", "--out", "b")[0] == 0
    code, out, err = ask("export", "embeddings", "b", "--out", "vectors", "--format", "npy", "--json")
    facts = json.loads(out)
    assert (code, err, facts["users"], facts["items"], facts["left_out"]) == (0, "", 12, 8, [])
    assert np.load(tmp_path / "vectors" / "user_ids.npy").tolist()[:2] == ["u0", "u1"]
    assert np.load(tmp_path / "vectors" / "items.npy").shape == (8, facts["dimensions"])
    assert "Wrote vectors of 12 users" in ask("export", "embeddings", "b", "--out", "vectors", "--format", "npy")[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert "mine" in complaint(ask("export", "embeddings", "b", "--out", "mine"))
    (tmp_path / "vectors" / "thesis.txt").touch()
    refused = complaint(ask("export", "embeddings", "b", "--out", "vectors", "--format", "npy"))
    assert "vectors: holds files that are not part of an export of embeddings: thesis.txt" in refused
