"""Profiles a model's costs layer by layer on this machine."""

from statistics import median

import torch
from torch import Tensor

from lanner.distributed.chain import Chain, Stage, chain_of
from lanner.distributed.prediction import CostTable
from lanner.distributed.stamps import seconds_between, stamp
from lanner.errors import ConfigError
from lanner.models.language import LanguageEncoder, multiplies_bfloat16, pool
from lanner.models.neural_config import DEFAULT_MODEL, Device, Dtype, LanguageConfig

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
            started = stamp(ids_BL.device)
            with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda one: one):
                out = stage(given, mask_BL)
            between = stamp(ids_BL.device)
            if out.requires_grad:
                out.sum().backward()
            ended = stamp(ids_BL.device)
            times.append((seconds_between(started, between), seconds_between(between, ended)))
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


def chain_with_texts(
    model: str | None, rows: int, tokens: int, device: Device = "auto", dtype: Dtype = "auto"
) -> tuple[Chain, Tensor]:
    """A fully trainable language model by folder or name, and token ids ``[rows, tokens]``; None: the default model.

    dtype: of the arithmetic; weights are float32, as in training.

    Raises:
        ConfigError: the model or device does not exist, ``tokens`` exceeds the model's limit, or its layers cannot be
            split.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; give auto or cpu")
    language = LanguageEncoder(LanguageConfig(model or DEFAULT_MODEL, device=device, dtype="float32"))
    if tokens > language.longest:
        raise ConfigError(f"texts of {tokens} tokens: this model reads at most {language.longest}; give fewer --tokens")
    in_bfloat16 = dtype == "bfloat16" or (dtype == "auto" and multiplies_bfloat16(language.device))
    chain = chain_of(language.model, lambda hidden, mask: pool(hidden, mask, "mean"), in_bfloat16)
    return chain, torch.ones(rows, tokens, dtype=torch.int64, device=language.device)


def profile_model(model: str | None, tokens: int, device: Device = "auto", dtype: Dtype = "auto") -> CostTable:
    """``profile`` of the result of ``chain_with_texts``; raises as the latter does."""
    chain, ids = chain_with_texts(model, 2, tokens, device, dtype)
    return profile(chain, ids, torch.ones_like(ids))
