"""The accelerator's benchmark: sections are kept, and the page shows what was measured."""

import json
import sys

import pytest

pytest.importorskip("amaranth", reason="hardware is not measured without the extra fpga: pip install 'lanner[fpga]'")

from benchmarks import _record, fpga
from benchmarks._accelerator_tables import accelerator_section

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
    corners = {"requests": 48, "longest_history": 4096, "hosts": [{}, {}, {}], "mismatches": 3, "cycle_model_error": 5}
    results["exactness"] |= {"adversarial": corners, "latency_p99_over_p50": 1.25}
    results["exactness"]["cpu"] |= {"faiss_us_p50": 61.4, "faiss_us_p99": 90.2}
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
    page = accelerator_section(results)
    for shown in (
        "| corners, histories up to 4,096, slow hosts | 144 | 3 | 5 |",
        "p99 / p50 of requests with equal lengths is at most 1.25.",
        "| FAISS (flat), *measured* | 61.4 | 90.2 |",
        "| shop/int8 | 1.0000 | 0.9000 | 0.01% | 1.23% |",
        "| shop/int8 | 3,706 × 832 × 2 | 64 | 999 of 208 | 1,000 | 10,000 | 321 | 654 |",
    ):
        assert shown in page
    summary = fpga.summary(results)
    assert (summary["ndcg_loss"], summary["latency_p99_over_p50"]) == (0.0123, 1.25)


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
