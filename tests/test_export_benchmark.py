"""``benchmarks.export`` on a handful of users: both sides list what a plain computation lists."""

from pathlib import Path

import pytest

pytest.importorskip("implicit")
pytest.importorskip("faiss")

from benchmarks import export


def test_every_side_lists_the_right_items(monkeypatch):
    monkeypatch.setattr(export, "PEERS", Path("nowhere"))
    monkeypatch.setattr(export, "BLOCKS", (64,))
    found = export.measure(export.Size(users=60, items=400, dimensions=8, seen=5, k=10, tried=60), repetitions=1)
    assert found["right"].keys() == found["seconds"].keys() == {"bare", "lanner", "lanner_lists", "implicit"}
    assert min(found["right"].values()) > 0.99
    assert found["bare"]["microseconds_a_user"].keys() == export.BARE.keys()
    summary = export.summarised(found, {"peak_mib": 1.0})["summary"]
    assert summary["speed_over_rectools"] is None
    assert min(summary["speed_over_bare"], summary["speed_over_implicit"]) > 0
