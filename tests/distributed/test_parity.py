"""The parity benchmark measures selected modes and keeps the rest of its file."""

import json
import sys

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks import _record, parity


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the benchmark with these arguments, every difference 0.5; gives the results on file."""
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    monkeypatch.setattr(_record, "_commit", lambda: "new")
    difference = {"bert": {"DP": 0.1, "PP 2 zbv": 0.2}, "llama": {"DP": 0.3, "PP 2 zbv": 0.4}}
    earlier = {"commit": "old", "results": {"summary": {}, "difference": difference}}
    (tmp_path / "parity.json").write_text(json.dumps(earlier))

    def measured(chosen, families):
        return {family: {mode.name: 0.5 for mode in chosen} for family in families}

    def run(*arguments):
        monkeypatch.setattr(parity, "measure", measured)
        monkeypatch.setattr(sys, "argv", ["parity", *arguments])
        parity.main()
        return json.loads((tmp_path / "parity.json").read_text())["results"]

    return run


def test_only_modes_of_a_name_are_measured_and_the_others_keep_figure_and_commit(run):
    results = run("--only", "pp 2 ZBV")
    assert results["difference"]["bert"] == {"DP": 0.1, "PP 2 zbv": 0.5, "PP 2 zbv LoRA": 0.5}
    assert results["commits"] == {"DP": "old", "PP 2 zbv": "new", "PP 2 zbv LoRA": "new"}
    assert results["summary"] == {"modes": 6, "largest_difference": 0.5}
    assert run("--only", "DP hier")["commits"]["DP"] == "old", "also from a file that has one for each"


@pytest.mark.parametrize("there", [True, False])
def test_modes_of_deepspeed_are_measured_where_it_is_installed(run, there, monkeypatch, capsys):
    monkeypatch.setattr(parity, "find_spec", lambda name: there or None)
    names = run()["difference"]["bert"]
    assert ("DeepSpeed ZeRO-3 offload of weights LoRA" in names) == there
    assert ("DeepSpeed is not installed" in capsys.readouterr().out) == (not there)
    assert "DP" in names


def test_a_name_that_no_mode_has_is_said(run):
    with pytest.raises(SystemExit, match="no mode here has a name that begins with TP 3"):
        run("--only", "TP 3")


def test_processes_are_shared_by_modes_of_one_size_and_for_deepspeed_of_the_same_degrees():
    groups = parity._processes(parity.modes())
    assert sorted(mode.name for group in groups for mode in group) == sorted(mode.name for mode in parity.modes())
    for group in groups:
        assert len({mode.config.degrees.world for mode in group}) == 1
        assert len({mode.config.engine for mode in group}) == 1
        if group[0].config.engine == "deepspeed":
            assert len({mode.config.degrees for mode in group}) == 1
