"""The summary of the gradient compression benchmark names the method of each figure."""

import json

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks import _record
from benchmarks.gradient_compression import AVERAGED, SYNCHRONOUS, best, summarise, summary


def rows(**changed: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    usual = {"bytes_ratio": 2.0, "speedup": 1.5, "ndcg_loss": 0.0}
    return {kind: usual | changed.get(kind, {}) for kind in (*SYNCHRONOUS, *AVERAGED)}


def test_each_figure_names_its_method():
    found = best(rows(int8={"bytes_ratio": 60.0}, fp16={"speedup": 3.5}, sign={"speedup": 9.0, "ndcg_loss": 0.1}))
    assert (found["bytes_ratio"], found["bytes_ratio_method"]) == (60.0, "int8")
    assert (found["sync_speedup"], found["sync_speedup_method"]) == (3.5, "fp16")
    assert found["meets_both"] == {"synchronous": None, "asynchronous": None}


def test_a_method_meets_both_only_by_itself():
    found = best(
        rows(int8={"bytes_ratio": 60.0, "speedup": 3.1}, sign={"bytes_ratio": 70.0, "speedup": None}),
    )
    assert found["meets_both"]["synchronous"] == "int8"


def test_the_recorded_summary_is_that_of_the_recorded_cells(tmp_path, monkeypatch):
    before = (_record.RESULTS / "gradient_compression.json").read_text()
    entry = json.loads(before)
    assert entry["results"]["summary"] == summary(entry["results"]["cells"])
    assert entry["results"]["summary"]["four_ranks"]["bytes_ratio_method"]
    entry["results"]["summary"] = {}
    (tmp_path / "gradient_compression.json").write_text(json.dumps(entry))
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    assert summarise().read_text() == before
