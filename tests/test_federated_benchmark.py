"""The federated benchmark: whose figures are joined, which bytes are counted, and what its record names."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.federated.averaging import AveragingConfig

pytest.importorskip("cryptography", reason="cryptography is not installed")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def federated(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import federated

    return federated


def row(ndcg, up, down, **more):
    return {"ndcg_at_10": ndcg, "bytes_up": up, "bytes_down": down, **more}


@pytest.fixture
def small(federated, monkeypatch, tmp_path):
    """The benchmark on 40 users, with 4 clients and 2 rounds, and no row over sockets."""
    random = np.random.default_rng(0)
    pairs = [(user, item) for user in range(40) for item in range(12) if random.random() < 0.7]
    data = Dataset.from_frames(pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row"))
    monkeypatch.setattr(federated, "named", lambda name: data)
    monkeypatch.setattr(federated, "CLIENTS", 4)
    compressed = AveragingConfig(dimensions=2, rounds=3, compressed=True)
    monkeypatch.setattr(federated, "COMPRESSED", compressed)
    monkeypatch.setattr(federated, "REQUESTS", 20)
    monkeypatch.setattr(federated, "CACHE", tmp_path)
    rows = {name: row for name, row in federated.ROWS.items() if name != "processes"}
    rows["averaged"] = partial(federated.row_of_averaged, config=AveragingConfig(dimensions=4, rounds=2))
    rows["averaged-8-bit"] = partial(federated.row_of_averaged, config=compressed)
    monkeypatch.setattr(federated, "ROWS", rows)
    return federated


def test_every_row_is_measured_and_kept(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["federated", "--seed", "3"])
    small.main()
    rows = {name: json.loads((tmp_path / "3" / f"{name}.json").read_text()) for name in small.ROWS}
    fields = {"ndcg_at_10", "bytes_up", "bytes_down", "rounds", "cpu_seconds", "commit"}
    assert all(fields <= row.keys() for name, row in rows.items() if name != "latency")
    assert rows["ease"]["difference"] < 1e-6
    assert rows["graph-filter"]["difference"] < 1e-6
    assert rows["graph-filter"]["difference_float32"] < 1e-5
    vectors = 12 * 4 * 4 * 4
    assert (rows["averaged"]["bytes_up"], rows["averaged"]["bytes_down"]) == (2 * vectors, 2 * vectors)
    compressed, hybrid = rows["averaged-8-bit"], rows["hybrid"]
    assert compressed["bytes_up"] == compressed["bytes_down"] == 3 * 4 * 12 * (2 + 4)
    assert hybrid["bytes_up"] == rows["ease"]["bytes_up"] + compressed["bytes_up"]
    assert hybrid["rounds"] == rows["ease"]["rounds"] + 3
    latency = rows["latency"]
    assert latency["ratio"] == pytest.approx(latency["federated_p50_ms"] / latency["centralised_p50_ms"])
    assert latency["requests"] == 20
    capsys.readouterr()
    monkeypatch.setattr(small, "ROWS", dict.fromkeys(small.ROWS, lambda study: pytest.fail("measured again")))
    monkeypatch.setattr("sys.argv", ["federated", "--seed", "3", "--kept"])
    small.main()
    assert "latency_ratio" in capsys.readouterr().out


def test_each_ratio_is_of_the_rows_it_names(federated):
    rows = {
        "ease": row(0.40, 30, 10, difference=1e-9),
        "graph-filter": row(0.30, 90, 90, difference=3e-9),
        "averaged": row(0.32, 200, 200),
        "averaged-8-bit": row(0.24, 20, 5),
        "hybrid": row(0.45, 70, 50),
        "ease-epsilon-8": row(0.33, 90, 90),
        "latency": {"ratio": 1.01},
    }
    found = federated.summary(rows, {"ndcg_at_10": 0.5})
    assert found == pytest.approx(
        {
            "closed_form_difference": 3e-9,
            "hybrid_of_centralised": 0.9,
            "hybrid_over_dense_ndcg": 0.45 / 0.32,
            "bytes_ratio": 0.3,
            "ease_of_centralised": 0.8,
            "ease_bytes_ratio": 0.1,
            "compressed_bytes_ratio": 0.0625,
            "compressed_over_dense_ndcg": 0.75,
            "ndcg_at_eps_8": 0.33,
            "latency_ratio": 1.01,
        }
    )
    assert federated.summary(rows, None)["hybrid_of_centralised"] is None


def test_a_sum_costs_what_clients_send_and_receive(federated):
    form = federated.FixedPoint(1, ((10, 13),), signed=False)
    total, traffic = federated.summed(lambda place: np.full(10, place), form, clients=4)
    assert set(total.tolist()) == {6}
    assert traffic == federated.Traffic(4 * 17, 4 * 17, 1)


def test_the_record_holds_the_centralised_figure_of_the_quality_suite(federated):
    recorded = json.loads((ROOT / "benchmarks" / "results" / "federated.json").read_text())["results"]
    if "centralised" not in recorded:
        pytest.skip("federated.json is older than its field 'centralised'; run: python -m benchmarks.federated")
    assert recorded["centralised"] == federated.centralised()
    expected = recorded["rows"]["hybrid"]["ndcg_at_10"] / federated.centralised()["ndcg_at_10"]
    assert recorded["summary"]["hybrid_of_centralised"] == pytest.approx(expected)


def test_the_centralised_figure_names_its_file_and_commit(federated):
    found = federated.centralised()
    quality = json.loads((ROOT / "benchmarks" / "results" / found["file"]).read_text())
    hybrid = quality["results"]["ml-1m"]["random-80-20"]["hybrid"]
    assert found["ndcg_at_10"] == hybrid["ndcg_at_10"]
    assert found["commit"] == hybrid.get("commit", quality["commit"])
    assert len(found["commit"].removesuffix("-dirty")) == 40


def test_rows_that_were_not_measured_are_named(federated, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(federated, "CACHE", tmp_path)
    monkeypatch.setattr(federated, "ROWS", {"one": lambda study: {"figure": 1}, "other": lambda study: {"figure": 2}})
    monkeypatch.setattr("sys.argv", ["federated", "--only", "one", "--seed", "5"])
    with pytest.raises(SystemExit) as stopped:
        federated.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "not measured yet: other; run without --only, with --kept\n"
    assert json.loads((tmp_path / "5" / "one.json").read_text())["figure"] == 1
