"""``lanner plan``."""

import json
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from cli_calls import complaint

pytest.importorskip("torch", reason="the extra 'language' is not installed")

from lanner.config import RunConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.launch import check_settings
from lanner.settings import overridden

DOCUMENT = Path(__file__).parents[2] / "docs" / "distributed.md"
CLUSTER = '[[rack]]\nname = "a"\ndevices = 2\nbandwidth_mbit = 1000\n'


@pytest.fixture
def costs(monkeypatch):
    from lanner.distributed import profiling
    from lanner.distributed.prediction import CostTable

    unequal = (0.011, 0.008, 0.013, 0.009, 0.014, 0.01)
    table = CostTable(unequal, (0.02,) * 6, (4e6,) * 6, (4e6,) * 6, 98304.0, (1e6,) * 6, 12)
    monkeypatch.setattr(profiling, "profile_model", lambda model, tokens, device, dtype: table)


def test_a_plan_is_explained(ask, costs, tmp_path):
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    code, out, _ = ask("plan", "--cluster", tmp_path / "cluster.toml", "--rows", "16")
    assert code == 0
    assert out.startswith("estimated · ")
    assert "slower" in out
    facts = json.loads(ask("plan", "--cluster", tmp_path / "cluster.toml", "--rows", "16", "--json")[1])
    assert (facts["estimated"], facts["devices"]) == (True, 2)
    assert facts["best"]["seconds"] > 0
    assert len(facts["best"]["memory"]) == 2


def test_the_example_cluster_of_the_documentation_is_planned(ask, costs, tmp_path):
    """And the printed options are settings that a run takes."""
    text = DOCUMENT.read_text(encoding="utf-8")
    example = text[text.index("    [[rack]]") : text.index("## Profiling a step")]
    (tmp_path / "cluster.toml").write_text(textwrap.dedent(example))
    code, out, _ = ask("plan", "--cluster", tmp_path / "cluster.toml", "--compression", "powersgd:4")
    assert code == 0
    *_, division, options = out.splitlines()
    assert division.startswith("layers of each stage: ")
    _, degrees, *given = shlex.split(options.removeprefix("options of lanner train: "))
    config = replace(overridden(RunConfig(), given[1::2]).parallel, degrees=Degrees.parse(degrees))
    config.check()
    check_settings(config)
    assert config.micro_batches > 1


def test_what_cannot_be_planned_is_one_line(ask, costs, tmp_path):
    file = tmp_path / "cluster.toml"
    assert "cannot be read" in complaint(ask("plan", "--cluster", file))
    file.write_text(CLUSTER + CLUSTER.replace('"a"', '"b"'))
    assert "there is no link between the racks 'a' and 'b'" in complaint(ask("plan", "--cluster", file))
    file.write_text(CLUSTER)
    assert "unknown compression 'zip'" in complaint(ask("plan", "--cluster", file, "--compression", "zip"))
