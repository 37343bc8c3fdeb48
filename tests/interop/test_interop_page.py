"""The blocks of docs/interop.md run, each section if its extra is installed."""

import importlib.util
import re
import shlex
import warnings
from pathlib import Path

import pytest

from lanner.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
BLOCKS = {one.partition("\n")[0]: block for one in SECTIONS for block in PYTHON.findall(one)}
MODULES = {"MLflow": "mlflow", "RecTools": "pandas", "PyTorch Geometric": "torch_geometric", "Qdrant": "qdrant_client"}


@pytest.mark.parametrize("section", BLOCKS)
def test_the_block_runs(section, tmp_path, monkeypatch):
    module = MODULES.get(section)
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    (setup,) = PYTHON.findall(FIRST)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in (setup, BLOCKS[section]):
            exec(compile(block, f"docs/interop.md, {section}", "exec"), names)
    counts = {name: len(names[name].interactions) for name in ("back", "again", "same") if name in names}
    assert set(counts.values()) <= {80}
    assert all(len(names[name]) == 3 for name in ("found", "near") if name in names)
    assert {"back", "again", "same", "found", "near"} & names.keys()


def test_every_extra_on_the_page_has_a_block():
    assert {*MODULES, "RecBole"} == set(BLOCKS)


def test_the_commands_on_the_page_exist():
    """Of each ``lanner`` command, the words before its first argument that is no command."""
    from typer.main import get_command

    shell = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    found = [one for block in shell for one in re.findall(r"lanner (?:data|train|serve|run)[^&\n\"]*", block)]
    assert len(found) == 5
    for line in found:
        command, words = get_command(app), shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for one in command.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
