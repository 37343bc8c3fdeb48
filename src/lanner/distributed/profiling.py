"""Profiles a model's costs layer by layer on this machine."""

import time
from statistics import median

import torch
from torch import Tensor

from lanner.distributed.chain import Chain, Stage, chain_of
from lanner.distributed.prediction import CostTable
from lanner.errors import ConfigError
from lanner.models.language import LanguageEncoder, pool
from lanner.models.neural_config import DEFAULT_MODEL, LanguageConfig

_REPEATS = 3


class _Saved:
    """Counts the bytes that a forward pass saves for the backward pass."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, tensor: Tensor) -> Tensor:
        self.size += tensor.nbytes
        return tensor


def profile(chain: Chain, ids_BL: Tensor, mask_BL: Tensor) -> CostTable:
    """Seconds and bytes per row; embeddings count towards the first layer, norm and pooling towards the last."""
    rows, layers = len(ids_BL), len(chain.layers)
    forward, backward, kept = [], [], []
    inputs: Tensor = ids_BL
    for number in range(layers):
        stage = Stage(chain, number, number + 1)
        times = []
        for _ in range(_REPEATS):
            given = inputs.detach().clone().requires_grad_(inputs.is_floating_point())
            saved = _Saved()
            started = time.perf_counter()
            with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda one: one):
                out = stage(given, mask_BL)
            between = time.perf_counter()
            if out.requires_grad:
                out.sum().backward()
            times.append((between - started, time.perf_counter() - between))
        forward.append(median(one for one, _ in times) / rows)
        backward.append(median(other for _, other in times) / rows)
        weights = sum(one.nbytes for one in stage.parameters())
        kept.append(max(0.0, saved.size - weights) / rows)
        inputs = out.detach()
    stages = [Stage(chain, number, number + 1) for number in range(layers)]
    for stage in stages:
        stage.zero_grad()
    return CostTable(
        tuple(forward),
        tuple(backward),
        tuple(float(sum(4 * one.numel() for one in stage.parameters() if one.requires_grad)) for stage in stages),
        tuple(float(sum(one.nbytes for one in stage.parameters())) for stage in stages),
        hop=float(chain.embeddings(ids_BL[:1]).detach().nbytes),
        kept=tuple(kept),
        heads=chain.key_value_heads,
    )


def chain_with_texts(model: str | None, rows: int, tokens: int) -> tuple[Chain, Tensor]:
    """A fully trainable language model by folder or name, and token ids ``[rows, tokens]``; None: the default model.

    Raises:
        ConfigError: the model does not exist, ``tokens`` exceeds its limit, or its layers cannot be split.
    """
    language = LanguageEncoder(LanguageConfig(model or DEFAULT_MODEL, device="cpu", dtype="float32"))
    if tokens > language.longest:
        raise ConfigError(f"texts of {tokens} tokens: this model reads at most {language.longest}; give fewer --tokens")
    chain = chain_of(language.model, lambda hidden, mask: pool(hidden, mask, "mean"))
    return chain, torch.ones(rows, tokens, dtype=torch.int64)


def profile_model(model: str | None, tokens: int) -> CostTable:
    """``profile`` of the result of ``chain_with_texts``; raises as the latter does."""
    chain, ids = chain_with_texts(model, 2, tokens)
    return profile(chain, ids, torch.ones_like(ids))
