"""``benchmarks.lora``: rows measured anew replace those of the result file; the others stay."""

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from benchmarks import lora

DATASET = "ml-1m"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "CACHE", tmp_path / "lora")


def measured(row: str, curve: list[list[float]], quality: float, commit: str) -> None:
    file = lora._file(DATASET, row, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps({"fit_seconds": 9.0, "validation_ndcg_at_10": quality, "curve": curve, "commit": commit})
    )
    for part in ("test", "cold"):
        np.save(file.with_suffix(f".{part}.npy"), np.random.default_rng(len(row)).random(50) + quality)


def earlier_rows() -> dict:
    measured("frozen", [], 0.1, "old")
    measured("full", [[1.0, 0.1], [10.0, 0.3]], 0.3, "old")
    measured("lora-8", [[1.0, 0.1], [4.0, 0.3]], 0.3, "old")
    rows = lora.collected(DATASET, [1], {})
    for file in lora.CACHE.rglob("*"):
        if file.is_file():
            file.unlink()
    return rows


def test_rows_that_were_not_measured_anew_are_kept():
    earlier = earlier_rows()
    measured("lora-8", [[1.0, 0.1], [2.0, 0.4]], 0.4, "new")
    rows = lora.collected(DATASET, [1], earlier)
    assert list(rows) == ["frozen", "full", "lora-8"]
    assert {name: row["commit"] for name, row in rows.items()} == {"frozen": "old", "full": "old", "lora-8": "new"}
    assert rows["full"] == earlier["full"]
    assert rows["lora-8"]["time_ratio"] == 0.2


def test_only_rows_measured_together_are_compared_per_user():
    earlier = earlier_rows()
    assert "test_minus_frozen" in earlier["lora-8"]
    measured("best-recipe", [[1.0, 0.1], [2.0, 0.4]], 0.4, "new")
    rows = lora.collected(DATASET, [1], earlier)
    assert "test_minus_frozen" not in rows["best-recipe"]
    assert rows["lora-8"] == earlier["lora-8"]
    assert lora.summary({DATASET: rows}) == {}
    measured("frozen", [], 0.1, "new")
    rows = lora.collected(DATASET, [1], earlier)
    gain = rows["best-recipe"]["test_ndcg_at_10"] - rows["frozen"]["test_ndcg_at_10"]
    assert rows["best-recipe"]["test_minus_frozen"]["mean"] == pytest.approx(gain)
    assert lora.summary({DATASET: rows})["best_recipe_time_ratio"] == 0.2


def test_a_new_full_fine_tuning_moves_the_time_of_kept_rows():
    earlier = earlier_rows()
    assert earlier["lora-8"]["time_ratio"] == 0.4
    measured("full", [[1.0, 0.1], [8.0, 0.2]], 0.2, "new")
    rows = lora.collected(DATASET, [1], earlier)
    assert rows["lora-8"]["time_ratio"] == 0.5
    assert lora._times(rows["lora-8"]["curves"], rows["full"]["curves"] * 2)["time_ratio"] is None


def test_times_are_compared_only_on_the_same_instructions_and_with_the_same_score():
    measured("frozen", [], 0.1, "new")
    for row in ("full", "lora-8", lora.COMPANIONS):
        measured(row, [[1.0, 0.1], [2.0, 0.4]], 0.4, "new")
    rows = lora.collected(DATASET, [1], {})
    assert [rows[row]["time_ratio"] for row in ("lora-8", lora.COMPANIONS)] == [1.0, None]
    earlier = rows | {"full": rows["full"] | {"instructions": ["another"]}}
    lora._file(DATASET, "full", 1).unlink()
    assert lora.collected(DATASET, [1], earlier)["lora-8"]["time_ratio"] is None
