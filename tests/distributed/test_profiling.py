"""Measured layer costs."""

import pytest

pytest.importorskip("transformers", reason="the extra 'language' is not installed")

import torch
from tiny_language_models import save_model

from benchmarks._small_towers import pairs, small_chain
from lanner.distributed.profiling import chain_with_texts, profile
from lanner.errors import ConfigError


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


def test_layers_are_timed_on_the_device_and_in_the_arithmetic_asked_for(tmp_path):
    model = str(save_model("bert", tmp_path / "tiny"))
    chain, ids = chain_with_texts(model, 2, 4, "cpu", "bfloat16")
    assert (chain.in_bfloat16, ids.device.type) == (True, "cpu")
    assert {one.dtype for one in chain.layers.parameters()} == {torch.float32}
    assert not chain_with_texts(model, 2, 4, "cpu", "float32")[0].in_bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda: torch sees no CUDA device"):
            chain_with_texts(model, 2, 4, "cuda")
