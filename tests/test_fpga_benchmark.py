"""The accelerator's benchmark: sections are kept, and the page shows what was measured."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="hardware is not measured without the extra fpga: pip install 'lanner[fpga]'")

from benchmarks import _fpga_external, _record, fpga
from benchmarks._accelerator_tables import accelerator_section
from benchmarks._fpga_cpu import works
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows

RECORDED = json.loads(fpga.RESULTS.read_text())


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A copy of the result file, which the benchmark replaces."""
    monkeypatch.setattr(fpga, "RESULTS", tmp_path / "fpga.json")
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    fpga.RESULTS.write_text(json.dumps(RECORDED | {"settings": {"exactness": {"users": 7}}}))
    return fpga.RESULTS


def ran(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fpga", *arguments])
    fpga.main()


def test_other_sections_and_their_settings_are_kept(written, monkeypatch):
    monkeypatch.setattr(fpga, "quality", lambda bundles, users: {"tag": "measured"})
    ran(monkeypatch, "--only", "lanes")
    found = json.loads(written.read_text())
    assert found["settings"] == {"exactness": {"users": 7}, "lanes": {}}
    assert found["results"]["quality"] == RECORDED["results"]["quality"]
    one_beat, two = found["results"]["lanes"]["64x64"], found["results"]["lanes"]["128x64"]
    assert one_beat["cycles"] == RECORDED["results"]["exactness"]["cycles_mean_history"] < two["cycles"]
    ran(monkeypatch, "--only", "quality", "--bundles", "some/bundle", "--quality-users", "3")
    found = json.loads(written.read_text())
    assert found["settings"]["quality"] == {"bundles": ["bundle"], "quality_users": 3}
    assert found["results"]["quality"] == {"tag": "measured"}


def test_quality_without_a_bundle_is_refused_and_erases_nothing(written, monkeypatch, capsys):
    before = written.read_text()
    with pytest.raises(SystemExit) as stopped:
        ran(monkeypatch, "--only", "quality")
    assert stopped.value.code == 2
    assert "quality: give compressed bundles with --bundles" in capsys.readouterr().err
    assert written.read_text() == before


def test_the_sampler_is_simulated_and_agrees_with_the_oracle(monkeypatch):
    monkeypatch.setattr(fpga, "NODES", 20)
    monkeypatch.setattr(fpga, "DRAWS", 20_000)
    found = fpga.sampler()
    assert found["mismatches"] == 0
    assert 1 <= found["cycles_per_neighbour"] <= 2
    assert set(found["chi2"]["p"]) == {"17", "50", "300", "2314"}
    summary = fpga.summary({"sampler": found})
    assert summary["sampler_chi2_p"] == min(found["chi2"]["p"].values())
    assert f"{found['cycles_per_neighbour']:.2f} cycles per neighbour" in accelerator_section({"sampler": found})


def test_the_page_shows_corners_losses_and_peers():
    results = json.loads(json.dumps(RECORDED["results"]))
    quick = {"offered": 1.0, "taken": 1.0, "mismatches": 2, "cycle_model_error": 5}
    slow = {"offered": 0.5, "taken": 0.4, "mismatches": 1}
    corners = {"requests": 48, "longest_history": 4096, "hosts": [quick, slow]}
    results["exactness"] |= {"adversarial": corners, "latency_p99_over_p50": 1.25}
    results["cpu"] = {"tag": "measured", "product": {"us_p50": 14.2, "us_p99": 20.8}}
    row = {"overlap_at_10_same_codes": 1.0, "overlap_at_10_variant": 0.9, "ndcg_loss_same_codes": 0.0001}
    results["quality"] = {"shop/int8": row | {"ndcg_loss_full": 0.0123}}
    cpu = {"us_p50": 321.0, "us_p99": 654.0}
    shape = {"items": 3706, "dimensions": 832, "tables": 2, "lanes": 64, "memories": 999, "memories_of_device": 208}
    results["bundles"] = {
        "device": "ecp5-85f",
        "mhz": 70.0,
        "shop/int8": shape | {"cycles_p50": 7e4, "cycles_p99": 7e5},
    }
    results["bundles"]["shop/int8"]["cpu"] = cpu
    cells = {"LUT2": 1000, "LUT6": 234, "FDRE": 70, "FDSE": 7, "DSP48E2": 75, "RAMB36E2": 56, "CARRY4": 9}
    results["estimated"] = {"family": "xcup", "dimensions": 64, "lanes": 64, "rows": 4096, "cells": cells}
    probed = results["external"]["100000"]["probes_4"]
    probed |= {"recall_at_10": 0.625, "recall_at_10_alone": 0.5, "faiss_ivf_us_per_user": 9.0}
    probed |= {"us_per_user_least": 31.0, "us_per_user_most": 35.0}
    page = accelerator_section(results)
    for shown in (
        "| corners, histories up to 4,096, the host always offers and takes a word | 48 | 2 | 5 |",
        "| corners, histories up to 4,096, the host offers a word in 50% and takes one in 40% of cycles | 48 | 1 | – |",
        "p99 / p50 of requests with equal lengths is at most 1.25.",
        "4,096 rows take 1,234 LUTs, 77 registers, 75 multipliers, 56 memories of 36 kbit.",
        "| | 4 per user | 0.625 | 31 … 35 | 0.500 | 9 (IVF) | |",
        "| product alone, of a given user vector: NumPy, float32, *measured* | 14.2 | 20.8 |",
        "| shop/int8 | 1.0000 | 0.9000 | 0.01% | 1.23% |",
        "| shop/int8 | 3,706 × 832 × 2 | 64 | 999 of 208 | 1,000 | 10,000 | 321 | 654 |",
    ):
        assert shown in page
    summary = fpga.summary(results)
    assert (summary["ndcg_loss"], summary["latency_p99_over_p50"]) == (0.0123, 1.25)


def test_the_processor_does_what_its_rows_say():
    pytest.importorskip("faiss", reason="needs FAISS: pip install 'lanner[serving]'")
    random, rows = np.random.default_rng(0), np.arange(30)
    table = Int8Rows.of(random.normal(size=(200, 16)).astype(np.float32))
    bias = random.normal(0, 0.1, 200).astype(np.float32)
    asked = works(ScoringModel(table, table, bias, np.ones(200, np.float32), (16,)), rows)
    vectors = table.codes * table.scale[:, None]
    user = vectors[rows].mean(axis=0)
    order = np.argsort(-(vectors @ user + bias))
    unseen = order[~np.isin(order, rows)][:10]
    assert not np.array_equal(order[:10], unseen)
    for name, wanted in (("numpy", unseen), ("faiss", unseen), ("faiss_unfiltered", order[:10])):
        np.testing.assert_array_equal(asked[name](), wanted, name)
    np.testing.assert_allclose(asked["product"](), vectors @ user, rtol=1e-5)
    rounded = np.rint(user / np.abs(user).max() * 127).astype(int)
    np.testing.assert_array_equal(np.sort(asked["faiss_int8"]()), np.sort(np.argsort(-(table.codes @ rounded))[:10]))


def test_the_page_says_of_how_many_users_the_recall_is():
    page = (fpga.ROOT / "docs" / "accelerator.md").read_text()
    assert f"the recall is of {_fpga_external.ASKED} users" in " ".join(page.split())


def columns(**components):
    before, after = ({"row": row, "request": ms, **dict.fromkeys(components, ms / 4)} for row, ms in ROWS.items())
    return {"threads": 2, "rounds": 5, "commit": "abc", "unoptimised": before, "optimised": after}


ROWS = {"baseline/torch": 40.0, "int8/onnxruntime": 4.0}


def recorded_compression(written, **parts):
    one = {"baseline": {"torch": {"p50_ms": 40.0}}, "int8": {"onnxruntime": {"p50_ms": 4.0}}, "commit": "abc"}
    stages = {"full": {"aggregate": 0.3, "retrieve": 0.8, "rank": 0.002}}
    results = {"ml-1m": one | {"stages": stages}, "summary": {"best_variant": "int8/onnxruntime"}, **parts}
    entry = {"settings": {"threads": 2, "rounds": 5}, "results": results}
    written.with_name("compression.json").write_text(json.dumps(entry))


def measured_paper(written, monkeypatch):
    ran(monkeypatch, "--only", "paper")
    return json.loads(written.read_text())["results"]["paper"]


def test_the_components_of_a_column_are_of_its_own_requests(written, monkeypatch):
    recorded_compression(written, components=columns(gnn=1, language_model=1, fusion=1, rest=1))
    found = measured_paper(written, monkeypatch)
    assert found["processor"] == {"threads": 2, "rounds": 5, "commit": "abc"}
    assert found["unoptimised"]["gnn"] == 10.0
    page = accelerator_section({"paper": found})
    assert "*measured* on 2 threads" in page
    assert "| all else | 10.000 | 1.000 | 1.000 |" in page
    assert f"| request | 40.00 | 4.00 | {3 + found['accelerator']['gnn']:.2f}, predicted |" in page
    assert "| MLP |" not in page
    assert "This model has no MLP." in page


def test_stages_of_another_system_than_the_baseline_are_left_out(written, monkeypatch):
    recorded_compression(written)
    found = measured_paper(written, monkeypatch)
    assert found["unoptimised"] == {"tag": "measured", "row": "baseline/torch", "request": 40.0}
    assert found["optimised"] == {"tag": "measured", "row": "int8/onnxruntime", "request": 4.0}
    page = accelerator_section({"paper": found})
    assert "| request | 40.00 | 4.00 | – |" in page
    assert "The components were not timed inside these requests." in page
    assert "| GNN |" not in page
