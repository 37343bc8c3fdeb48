"""What ``make wheels`` tries: every extra, and failures are reported. The environments are created by hand."""

import importlib.util
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
