"""Rows of a case that are kept carry the commit at which they were measured."""

import json
from contextlib import nullcontext

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks import _record, parallel


def test_a_row_that_is_kept_keeps_its_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "NetworkRacks", lambda *sizes: nullcontext())
    run = {"seconds": 1.0, "utilisation": 0.5, "overruns": 0.0}
    monkeypatch.setattr(parallel, "run_ranks", lambda *given, **options: run)
    monkeypatch.setattr(_record, "_commit", lambda: "first")
    rows = parallel.case(100, 3.0, repeats=1)
    assert {row["commit"] for row in rows.values()} == {"first"}
    (path,) = (tmp_path / "runs" / "parallel").iterdir()
    kept = json.loads(path.read_text())
    del kept["PP"], kept["DP"]["commit"]
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(_record, "_commit", lambda: "second")
    rows = parallel.case(100, 3.0, repeats=1, kept=True)
    assert (rows["PP"]["commit"], rows["PP, aided"]["commit"], rows["DP"]["commit"]) == ("second", "first", "unknown")
