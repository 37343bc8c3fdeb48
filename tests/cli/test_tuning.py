"""``lanner tune``."""

import json
import os
import re
import signal
import sys

import pytest
from cli_calls import complaint, csv

from lanner import tune as searching

EVENTS = [(f"u{user}", f"i{item}") for user in range(30) for item in range(20) if (user * 3 + item * 5) % 7 < 3]
SPACE = "ease.regularisation = { low = 1, high = 1000, log = true }\n"


@pytest.fixture
def tune(ask, tmp_path):
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    events = csv(tmp_path / "ratings.csv", EVENTS)
    (tmp_path / "space.toml").write_text(SPACE)
    return lambda *more: ask("tune", events, "--space", "space.toml", "--model", "ease", *more)


def test_progress_and_a_result_that_lanner_run_takes(tune, ask, tmp_path):
    code, out, err = tune("--trials", "3", "--out", "best.toml", "--json")
    found = json.loads(out)
    assert (code, found["out"], found["study"], found["failed"]) == (0, "best.toml", "best.toml.study", 0)
    assert found["best"] == max(found["trials"], key=lambda one: one["value"])
    lines = re.findall(r"trial (\d) of 3: ndcg_at_10 [\d.]+ with ease\.regularisation=[\d.]+; best ([\d.]+) ", err)
    assert [number for number, _ in lines] == ["1", "2", "3"]
    assert lines[-1][1] == f"{found['best']['value']:.4f}"
    assert err.rstrip().endswith("0.0 s left")
    code, out, err = tune("--trials", "4", "--out", "best.toml")
    assert (code, out.startswith("Wrote best.toml: ndcg_at_10 0.")) == (0, True)
    assert "trials in best.toml.study: 3" in err
    assert ask("run", "--config", "best.toml", "--out", "b")[0] == 0
    config = json.loads((tmp_path / "b" / "manifest.json").read_text())["config"]
    assert config["model"] == "ease"
    assert config["ease"]["regularisation"] == found["best"]["settings"]["ease.regularisation"]


def test_a_trial_that_fails_is_said_and_the_search_goes_on(tune, monkeypatch):
    monkeypatch.setattr(searching, "_measured", lambda plan, settings, *_: 1 / (settings["ease.regularisation"] > 100))
    code, out, err = tune("--trials", "6")
    failed = len(re.findall(r"trial \d of 6: failed: ZeroDivisionError", err))
    assert 0 < failed < 6
    assert (code, f"of 6 ({failed} failed)" in out) == (0, True)


def test_ctrl_c_says_how_to_go_on(tune, monkeypatch):
    measure = searching._measured
    monkeypatch.setattr(searching, "_measured", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    code, out, err = tune("--trials", "2")
    assert (code, out) == (130, "")
    assert err.endswith("stopped; trials kept in tuned.toml.study: 0; run the same command again to resume\n")
    monkeypatch.setattr(searching, "_measured", measure)
    assert tune("--trials", "2")[0] == 0


def test_a_metric_is_written_as_in_python_too(tune):
    code, out, err = tune("--trials", "1", "--metric", "recall@5")
    assert (code, out.startswith("Wrote tuned.toml: recall_at_5 ")) == (0, True), err


def test_what_cannot_be_searched_is_one_line(tune, ask, tmp_path, monkeypatch):
    assert "--metric ncdg_at_10: expected one of" in complaint(tune("--metric", "ncdg@10"))
    assert "nowhere.toml: cannot be read" in complaint(tune("--space", "nowhere.toml"))
    assert "unknown model 'eas'; choose one of" in complaint(tune("--model", "eas"))
    (tmp_path / "space.toml").write_text(SPACE.replace("regularisation", "regularsation"))
    expected = "space.toml: unknown setting 'ease.regularsation'; did you mean 'ease.regularisation'?"
    assert expected in complaint(tune())
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "install it with: pip install 'lanner[tune]'" in complaint(tune())
