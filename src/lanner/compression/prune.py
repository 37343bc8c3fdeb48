"""Structured pruning of an encoder: whole layers, feed-forward neurons and vocabulary entries are removed.

No function modifies its argument. Importance is measured on texts:
- a **neuron** by the first-order estimate of how far the sentence vector moves when it is zeroed, E‖J a‖² for the
  activation a and the vector's Jacobian J: the squared activation × gradient of Molchanov et al. (CVPR 2019). The
  reconstruction error itself has zero gradient at the unpruned point; random projections of the vector do not
  (Hutchinson 1989), and give the same on average.
- a **layer** by the cosine lost when it is skipped.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanner.errors import ConfigError
from lanner.models.compact_encoder import CompactEncoder, EncoderLayer

Batch = tuple[Tensor, Tensor]
"""Token ids and mask, int64 ``[B, L]`` each."""
_NEURONS_AT_ONCE = 32
"""Neurons are pruned in blocks, so that widths stay multiples of the SIMD width."""
_DIRECTIONS = 4
"""Random projections of the sentence vector per batch; their noise averages out over the texts."""


@dataclass(frozen=True)
class Importance:
    """Importance of the parts of an encoder. feed_forward: one array per layer, in squared distance."""

    feed_forward: tuple[NDArray[np.float64], ...]
    layers: NDArray[np.float64]
    """``[layers]``: 1 − cosine between the sentence vectors with and without the layer, mean over texts."""


def measure_importance(encoder: CompactEncoder, batches: Iterable[Batch], seed: int = 0) -> Importance:
    """Measure the importance of every neuron and layer on the texts in ``batches``.

    Raises:
        ConfigError: there are no batches.
    """
    batches = list(batches)
    if not batches:
        raise ConfigError("importance needs at least one batch of texts, received none")
    draw = torch.Generator().manual_seed(seed)
    neurons = [_first_order(encoder, batch, draw) for batch in batches]
    count = sum(len(ids_BL) for ids_BL, _ in batches)
    return Importance(
        feed_forward=tuple(sum(parts) / count for parts in zip(*neurons, strict=True)),
        layers=np.sum([_layer_importance(encoder, batch) for batch in batches], axis=0) / count,
    )


def keep_layers(encoder: CompactEncoder, which: Sequence[int]) -> CompactEncoder:
    """The encoder with only the layers ``which``, 0-based and ascending.

    Raises:
        ConfigError: a layer that does not exist, a duplicate, wrong order, or no layers.
    """
    available = encoder.shape.num_layers
    if not which or list(which) != sorted(set(which)) or which[0] < 0 or which[-1] >= available:
        raise ConfigError(f"layers to keep must be ascending numbers from 0 to {available - 1}, received {list(which)}")
    shape = replace(
        encoder.shape,
        heads=tuple(encoder.shape.heads[number] for number in which),
        feed_forward=tuple(encoder.shape.feed_forward[number] for number in which),
    )
    state = {name: value for name, value in encoder.state_dict().items() if not name.startswith("layers.")}
    for new, old in enumerate(which):
        state |= {f"layers.{new}.{name}": value for name, value in encoder.layers[old].state_dict().items()}
    return CompactEncoder.from_state(shape, state)


def prune_feed_forward(encoder: CompactEncoder, importance: Importance, share: float) -> CompactEncoder:
    """The encoder without the ``share`` of its least important feed-forward neurons, in blocks of 32.

    Each layer keeps at least one block. The share is exact up to one block if widths are multiples of 32.

    Raises:
        ConfigError: ``share`` outside 0 … 1, or ``importance`` of an encoder of another shape.
    """
    measured = tuple(len(one) for one in importance.feed_forward)
    if measured != encoder.shape.feed_forward:
        raise ConfigError(f"importance has feed_forward {measured}, but the encoder {encoder.shape.feed_forward}")
    kept = _most_important(importance.feed_forward, share)
    state = encoder.state_dict()
    for number, neurons in enumerate(kept):
        for name in ("widen.weight", "widen.bias"):
            state[f"layers.{number}.{name}"] = state[f"layers.{number}.{name}"][neurons]
        state[f"layers.{number}.narrow.weight"] = state[f"layers.{number}.narrow.weight"][:, neurons]
    return CompactEncoder.from_state(replace(encoder.shape, feed_forward=tuple(map(len, kept))), state)


def trim_vocabulary(
    encoder: CompactEncoder, token_ids: Iterable[int], *, special_ids: Iterable[int], unknown_id: int
) -> tuple[CompactEncoder, NDArray[np.int32]]:
    """The encoder with the embeddings of ``token_ids``, ``special_ids`` and ``unknown_id`` only, and the id mapping.

    Returns:
        The encoder, and the new id of every old one, int32 ``[old vocabulary]``; that of [UNK] for removed ones.

    Raises:
        ConfigError: an id is outside the vocabulary.
    """
    kept = np.unique(np.array([*token_ids, *special_ids, unknown_id], np.int64))
    size = encoder.shape.vocabulary
    if kept[0] < 0 or kept[-1] >= size:
        outside = kept[0] if kept[0] < 0 else kept[-1]
        raise ConfigError(f"token id {outside} is outside the vocabulary, which has 0 to {size - 1}")
    remap = np.full(size, np.searchsorted(kept, unknown_id), np.int32)
    remap[kept] = np.arange(len(kept))
    state = encoder.state_dict()
    state["words.weight"] = state["words.weight"][torch.from_numpy(kept)]
    return CompactEncoder.from_state(replace(encoder.shape, vocabulary=len(kept)), state), remap


def _first_order(encoder: CompactEncoder, batch: Batch, draw: torch.Generator) -> list[NDArray[np.float64]]:
    """Estimated squared distance for zeroing each neuron, summed over a batch's texts."""
    layers: list[EncoderLayer] = list(encoder.layers)  # type: ignore[arg-type]
    with _inputs_of([layer.narrow for layer in layers]) as activations:
        vectors_BD = encoder(*batch)
    neurons = [np.zeros(layer.narrow.in_features) for layer in layers]
    for _ in range(_DIRECTIONS):
        direction_BD = torch.randn(vectors_BD.shape, generator=draw)
        gradients = torch.autograd.grad(vectors_BD, activations, direction_BD, retain_graph=True)
        for total, value, slope in zip(neurons, activations, gradients, strict=True):
            total += ((value * slope).detach().sum(1).double().square().sum(0) / _DIRECTIONS).numpy()
    return neurons


@contextmanager
def _inputs_of(modules: Sequence[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """A list with the inputs of each of ``modules`` after one forward pass."""
    given: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])) for module in modules]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def _layer_importance(encoder: CompactEncoder, batch: Batch) -> NDArray[np.float64]:
    """``[layers]``: 1 − cosine without the layer, summed over the batch's texts."""
    count = encoder.shape.num_layers
    whole_BD = encoder(*batch)
    lost = np.zeros(count)
    for absent in range(count) if count > 1 else ():
        shorter = keep_layers(encoder, [number for number in range(count) if number != absent])
        lost[absent] = len(whole_BD) - float((whole_BD * shorter(*batch)).sum())
    return lost


def _most_important(importance: Sequence[NDArray[np.float64]], share: float) -> list[Tensor]:
    """Per layer the neurons to keep, ascending, after removing ``share`` of all blocks of 32 neurons.

    Neurons are ranked within a layer and grouped into blocks from the best down; the best block always stays.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}, it must be between 0 and 1")
    ranked = [np.argsort(-one, kind="stable") for one in importance]
    blocks = [
        (float(one[order[start : start + _NEURONS_AT_ONCE]].sum()), layer, start)
        for layer, (one, order) in enumerate(zip(importance, ranked, strict=True))
        for start in range(0, len(order), _NEURONS_AT_ONCE)
    ]
    # Ties within a layer do not matter: the pruned blocks are its tail.
    gone = [layer for _, layer, _ in sorted(block for block in blocks if block[2])[: round(share * len(blocks))]]
    kept = []
    for layer, order in enumerate(ranked):
        remaining = -(-len(order) // _NEURONS_AT_ONCE) - gone.count(layer)
        kept.append(torch.from_numpy(np.sort(order[: remaining * _NEURONS_AT_ONCE])))
    return kept
