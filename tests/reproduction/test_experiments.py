"""Experiments run in their own processes, resume, and report failures."""

import pytest

from lanner.errors import ConfigError
from lanner.reproduction.claims import Experiment
from lanner.reproduction.experiments import run

WRITES = """
import os, sys
from pathlib import Path
path = Path(os.environ["LANNER_RESULTS"]) / f"{sys.argv[1]}.runs"
path.write_text(path.read_text() + "1" if path.exists() else "1")
sys.exit(sys.argv[1] == "bad")
"""
TWO = (
    Experiment("bad", ("writer", "bad"), 1, quick=("writer", "bad")),
    Experiment("good", ("writer", "good"), 2, quick=("writer", "short")),
    Experiment("long", ("writer", "long"), 90),
)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "_record.py").touch()
    (folder / "writer.py").write_text(WRITES)
    return folder.parent


def runs(folder):
    return {path.stem: path.read_text() for path in folder.glob("*.runs")}


def test_what_is_finished_is_not_run_again_and_what_failed_is(checkout, tmp_path):
    said, results = [], tmp_path / "results"
    assert run(TWO, checkout, results, said.append, quick=False) == ["bad"]
    assert run(TWO, checkout, results, said.append, quick=False) == ["bad"]
    assert runs(results) == {"bad": "11", "good": "1", "long": "1"}
    assert "good: 2 of 3, about 92 minutes left" in said
    assert any("2 of 3 experiments are done already" in line for line in said)


def test_quick_runs_short_forms_alone(checkout, tmp_path):
    run(TWO, checkout, tmp_path / "results", lambda line: None, quick=True)
    assert runs(tmp_path / "results") == {"bad": "1", "short": "1"}


def test_without_benchmarks_it_says_where_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run it in a checkout of Lanner, or give --from-results"):
        run(TWO, tmp_path, tmp_path / "results", lambda line: None, quick=False)
