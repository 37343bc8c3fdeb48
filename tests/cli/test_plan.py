"""``lanner plan``."""

import json

import pytest
from cli_calls import complaint

pytest.importorskip("torch", reason="the extra 'language' is not installed")

CLUSTER = '[[rack]]\nname = "a"\ndevices = 2\nbandwidth_mbit = 1000\n'


@pytest.fixture
def costs(monkeypatch):
    from lanner.distributed import profiling
    from lanner.distributed.prediction import CostTable

    table = CostTable((0.01,) * 6, (0.02,) * 6, (4e6,) * 6, (4e6,) * 6, 98304.0, (1e6,) * 6, 12)
    monkeypatch.setattr(profiling, "profile_model", lambda model, tokens: table)


def test_a_plan_is_explained(ask, costs, tmp_path):
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    code, out, _ = ask("plan", "--cluster", tmp_path / "cluster.toml", "--rows", "16")
    assert code == 0
    assert out.startswith("estimated · ")
    assert "slower" in out
    facts = json.loads(ask("plan", "--cluster", tmp_path / "cluster.toml", "--rows", "16", "--json")[1])
    assert (facts["estimated"], facts["devices"]) == (True, 2)
    assert facts["best"]["seconds"] > 0


def test_what_cannot_be_planned_is_one_line(ask, costs, tmp_path):
    file = tmp_path / "cluster.toml"
    assert "cannot be read" in complaint(ask("plan", "--cluster", file))
    file.write_text(CLUSTER + CLUSTER.replace('"a"', '"b"'))
    assert "there is no link between the racks 'a' and 'b'" in complaint(ask("plan", "--cluster", file))
    file.write_text(CLUSTER)
    assert "--compression zip" in complaint(ask("plan", "--cluster", file, "--compression", "zip"))
