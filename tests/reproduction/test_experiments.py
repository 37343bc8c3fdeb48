"""Experiments run in their own processes, resume, expire with the code, and report failures."""

import subprocess
from dataclasses import replace

import pytest

from lanner.errors import ConfigError
from lanner.reproduction import experiments
from lanner.reproduction.claims import Experiment
from lanner.reproduction.experiments import read_minutes, run

WRITES = """
import os, sys
from pathlib import Path
results = Path(os.environ["LANNER_RESULTS"])
path = results / f"{sys.argv[1]}.runs"
path.write_text(path.read_text() + "1" if path.exists() else "1")
if sys.argv[1] != "absent":
    (results / f"{sys.argv[1]}.json").write_text("{}")
sys.exit(sys.argv[1] == "bad")
"""
THREE = (
    Experiment("bad", ("writer", "bad"), 1, quick=("writer", "bad")),
    Experiment("good", ("writer", "good"), 2, quick=("writer", "good", "--short")),
    Experiment("long", ("writer", "long"), 90),
)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "_record.py").touch()
    (folder / "writer.py").write_text(WRITES)
    commit(folder.parent, "init", "--quiet")
    commit(folder.parent)
    return folder.parent


def commit(checkout, *command):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for one in (command,) if command else (("add", "."), ("commit", "--quiet", "--message", "A change")):
        subprocess.run(["git", *who, *one], cwd=checkout, check=True)


def runs(folder):
    return {path.stem: path.read_text() for path in folder.glob("*.runs")}


def test_what_is_finished_is_not_run_again_and_what_failed_is(checkout, tmp_path):
    said, results = [], tmp_path / "results"
    assert run(THREE, checkout, results, said.append, quick=False) == ["bad"]
    assert run(THREE, checkout, results, said.append, quick=False) == ["bad"]
    assert runs(results) == {"bad": "11", "good": "1", "long": "1"}
    assert "good: 2 of 3, about 92 minutes left" in said
    assert any("2 of 3 experiments are done already" in line for line in said)


def test_a_commit_of_the_code_outdates_what_is_finished_and_one_of_pages_does_not(checkout, tmp_path):
    results = tmp_path / "results"
    run(THREE, checkout, results, lambda line: None, quick=False)
    (checkout / "README.md").write_text("A page.")
    commit(checkout)
    run(THREE, checkout, results, lambda line: None, quick=False)
    assert runs(results)["good"] == "1"
    (checkout / "benchmarks" / "writer.py").write_text(f"{WRITES}\n# changed")
    commit(checkout)
    run(THREE, checkout, results, lambda line: None, quick=False)
    assert runs(results)["good"] == "11"


def test_another_command_is_run_although_the_file_was_finished(checkout, tmp_path):
    results = tmp_path / "results"
    run(THREE, checkout, results, lambda line: None, quick=False)
    changed = [replace(THREE[1], command=("writer", "good", "--seed=2"))]
    run(changed, checkout, results, lambda line: None, quick=False)
    assert runs(results)["good"] == "11"


def test_what_wrote_no_results_is_skipped_and_tried_again(checkout, tmp_path):
    said, results = [], tmp_path / "results"
    absent = (Experiment("absent", ("writer", "absent"), 1),)
    assert run(absent, checkout, results, said.append, quick=False) == []
    assert "absent: skipped, it wrote no absent.json" in said
    run(absent, checkout, results, said.append, quick=False)
    assert runs(results) == {"absent": "11"}


def test_quick_runs_short_forms_alone(checkout, tmp_path):
    run(THREE, checkout, tmp_path / "results", lambda line: None, quick=True)
    assert runs(tmp_path / "results") == {"bad": "1", "good": "1"}
    done = (tmp_path / "results" / ".done").read_text()
    assert "good: writer good --short" in done


def test_the_minutes_of_what_finished_are_kept_by_command(checkout, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 90))
    monkeypatch.setattr(experiments.time, "monotonic", lambda: next(clock))
    results = tmp_path / "results"
    run(THREE, checkout, results, lambda line: None, quick=False)
    assert read_minutes(results) == {"writer good": 1.5, "writer long": 1.5}
    run(THREE, checkout, results, lambda line: None, quick=True)
    assert read_minutes(results) == {"writer good": 1.5, "writer long": 1.5, "writer good --short": 1.5}


def test_damaged_minutes_are_named(tmp_path):
    assert read_minutes(tmp_path) == {}
    (tmp_path / ".minutes").write_text("[1]")
    with pytest.raises(ConfigError, match=r"\.minutes: not minutes by command"):
        read_minutes(tmp_path)


def test_without_benchmarks_it_says_where_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run it in a checkout of Lanner, or give --checkout FOLDER"):
        run(THREE, tmp_path, tmp_path / "results", lambda line: None, quick=False)
