"""Measured layer costs."""

import pytest

pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks._small_towers import pairs, small_chain
from lanner.distributed.profiling import profile


def test_layers_are_counted_with_what_belongs_to_them():
    chain = small_chain("bert", layers=3)
    ids, mask, _ = pairs(0, rows=4)
    table = profile(chain, ids, mask)
    assert len(table.forward) == len(table.backward) == 3
    assert min(table.forward) > 0
    assert table.hop == 16 * 64 * 4
    assert sum(table.gradient) == sum(
        4 * one.numel() for part in (chain.embeddings, chain.layers) for one in part.parameters()
    )
    assert table.gradient[0] > table.gradient[1] == table.gradient[2]
    assert all(one.grad is None for one in chain.layers.parameters())
    assert min(table.kept) > table.hop
