"""What ``make wheels`` tries: every extra, and failures are reported. The environments are created by hand."""

import importlib.util
import json
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels():
    described = importlib.util.spec_from_file_location("wheels", ROOT / ".ci" / "wheels.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_every_extra_has_a_promise_that_is_a_program(wheels):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(wheels.PROMISES) == set(extras)
    for extra, program in wheels.PROMISES.items():
        compile(program, extra, "exec")


def test_a_program_that_fails_is_told_by_its_last_line(wheels, tmp_path):
    wheels._run(("python3", "-c", "print('fine')"), tmp_path)
    with pytest.raises(RuntimeError, match=r"python3 -c .*: ModuleNotFoundError: No module named 'nowhere'"):
        wheels._run(("python3", "-c", "import nowhere"), tmp_path)


def test_nothing_of_this_environment_is_seen(wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    wheels._run(("python3", "-c", "import os; assert 'PYTHONPATH' not in os.environ"), tmp_path)


def test_every_python_that_answers_is_found(wheels):
    found = wheels.interpreters()
    assert found
    assert set(found) <= {"3.11", "3.12", "3.13", "3.14"}


def test_what_is_not_done_in_time_is_skipped(wheels, tmp_path):
    with pytest.raises(wheels.Skipped, match="the 120 s of a quick trial are over"):
        wheels._run(("sleep", "60"), tmp_path, time.monotonic() + 0.2)
    found = wheels.tried(sys.executable, tmp_path / "none.whl", "client", tmp_path / "3.12", time.monotonic() + 60)
    assert (found["problem"], found["skipped"]) == ("", "the core does not work")
    found = wheels.tried(sys.executable, tmp_path / "none.whl", "core", tmp_path / "3.12", time.monotonic() - 1)
    assert found["skipped"] == "the 120 s of a quick trial are over"
    assert not (tmp_path / "3.12").exists()


def test_what_a_skipped_command_started_ends_with_it(wheels, tmp_path):
    writer = "sleep 60 & echo $! > started; wait"
    with pytest.raises(wheels.Skipped):
        wheels._run(("sh", "-c", writer), tmp_path, time.monotonic() + 0.5)
    started = Path(f"/proc/{(tmp_path / 'started').read_text().strip()}/stat")
    for _ in range(50):
        if not started.exists() or started.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the command that it started is still there")


@pytest.mark.parametrize(("other", "quick"), [(True, True), (False, True), (True, False)])
def test_only_a_quick_trial_of_another_python_may_lack_wheels(wheels, monkeypatch, tmp_path, other, quick):
    said = "ERROR: No matching distribution found for numpy"

    def fails(command, folder, end=None):
        if "pip" in command:
            assert ("--only-binary" in command) == quick
            raise RuntimeError(said)

    monkeypatch.setattr(wheels, "_run", fails)
    core = tmp_path / (f"3.{sys.version_info.minor}" if not other else "3.99")
    found = wheels.tried(sys.executable, tmp_path / "none.whl", "core", core, time.monotonic() + 60 if quick else None)
    skips = other and quick
    assert found["skipped"] == (f"no wheels for this Python: {said}" if skips else "")
    assert found["problem"] == ("" if skips else said)
    row = {"python": core.name, "extra": "core", **found}
    assert ("skipped: no wheels" in wheels.as_line(row)) == skips


def test_the_record_says_which_environments_worked(wheels, monkeypatch, tmp_path, capsys):
    def tried(python, wheel, extra, core, end):
        outcome = {("3.12", "federated"): ("it broke", ""), ("3.13", "client"): ("", "no wheels")}
        problem, skipped = outcome.get((python, extra), ("", ""))
        return {"seconds": 1.5, "problem": problem, "skipped": skipped}

    wheel = tmp_path / "lanner-1.2.3-py3-none-any.whl"
    wheel.touch()
    monkeypatch.setattr(wheels, "interpreters", lambda only: {"3.12": "3.12", "3.13": "3.13"})
    monkeypatch.setattr(wheels, "build", lambda folder: wheel)
    monkeypatch.setattr(wheels, "tried", tried)
    monkeypatch.setattr(wheels._record, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["wheels", "--quick", "--record"])
    assert wheels.main() == 1
    assert "4 of 6 environments work, Python 3.12, 3.13; 1 skipped" in capsys.readouterr().out
    entry = json.loads((tmp_path / "wheels.json").read_text())
    counts = {"environments": 6, "worked": 4, "failed": 1, "skipped": 1, "seconds": 9.0}
    assert entry["results"]["summary"] == counts
    (broken,) = [row for row in entry["results"]["rows"] if row["problem"]]
    told = {"python": "3.12", "extra": "federated", "seconds": 1.5, "problem": "it broke", "skipped": ""}
    assert broken == told | {"wheel": wheel.name, "commit": entry["commit"]}
    monkeypatch.setattr(wheels, "interpreters", lambda only: {"3.13": "3.13"})
    wheels.main()
    again = json.loads((tmp_path / "wheels.json").read_text())["results"]
    assert again["summary"] == counts, "rows of other Pythons stay, those tried again are replaced"
    monkeypatch.setattr("sys.argv", ["wheels", "--quick"])
    (tmp_path / "wheels.json").unlink()
    wheels.main()
    assert not (tmp_path / "wheels.json").exists()


def test_the_ci_tries_light_extras_and_makes_the_sbom(wheels):
    assert set(wheels.LIGHT) <= set(wheels.PROMISES)
    run = (ROOT / ".ci" / "run").read_text()
    lines = [line for line in run.splitlines() if line and not line.startswith("#")]
    assert lines[-4:] == [
        "make check VENV=.venv-ci",
        "make sbom VENV=.venv-ci",
        ".venv-ci/bin/python .ci/wheels.py --quick",
        "make test VENV=.venv-ci",
    ]
