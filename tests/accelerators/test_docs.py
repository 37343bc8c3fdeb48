"""The accelerator page shows the block diagram of the code, and the diagram shows the existing modules."""

import re
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="hardware is not tested without the extra fpga: pip install 'lanner[fpga]'")

from amaranth.hdl import Fragment

from lanner.accelerators.fpga import engine
from lanner.accelerators.fpga.parameters import Parameters

DRAWN_AS = {"words in": "skid buffer", "words near": "skid buffer", "answers": "words", "answers out": "words"}
PAGE = Path(__file__).parents[2] / "docs" / "accelerator.md"


def test_the_diagram_is_the_codes():
    assert engine.__doc__ is not None
    drawn = [line.strip() for line in engine.__doc__.splitlines() if re.search("[─┘]", line)]
    shown = [line.strip() for line in PAGE.read_text().splitlines() if re.search("[─┘]", line)]
    assert shown == drawn
    placed = {name for _, name, *_ in Fragment.get(engine.Engine(Parameters()), None).subfragments}
    blocks = {re.sub(r"\d+$", "", name).replace("_", " ") for name in placed} - {"registers"}
    text = " ".join(drawn)
    for block in blocks:
        assert DRAWN_AS.get(block, block) in text, block
