"""Pruned parts are removed, the rest is unchanged, and the least important parts go first."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from lanner.compression.prune import (
    Importance,
    keep_layers,
    measure_importance,
    prune_feed_forward,
    trim_vocabulary,
)
from lanner.errors import ConfigError
from lanner.models.batches_of_texts import pad_right
from lanner.models.compact_encoder import CompactEncoder, EncoderShape, vectors_of

SHAPE = EncoderShape(heads=(4, 4, 4), feed_forward=(96,) * 3, head_size=4, hidden=16, vocabulary=40, positions=24)
IDS = [np.random.default_rng(number).integers(0, 40, 3 + number % 20).astype(np.int32) for number in range(24)]
BATCHES = [pad_right(IDS[start : start + 8], 0) for start in range(0, 24, 8)]


def random_encoder() -> CompactEncoder:
    torch.manual_seed(0)
    return CompactEncoder(SHAPE).eval()


def distance(one: CompactEncoder, other: CompactEncoder) -> float:
    return float(np.abs(vectors_of(one, IDS) - vectors_of(other, IDS)).max())


def even_importance(neurons: int = 96) -> Importance:
    return Importance((np.ones(neurons),) * 3, np.ones(3))


def test_layers_are_kept_as_they_are() -> None:
    encoder = random_encoder()
    assert distance(keep_layers(encoder, [0, 1, 2]), encoder) == 0
    shorter = keep_layers(encoder, [0, 2])
    assert shorter.shape.heads == (4, 4)
    assert shorter.num_layer_parameters == encoder.num_layer_parameters * 2 // 3
    assert_array_equal(shorter.layers[1].widen.weight.detach(), encoder.layers[2].widen.weight.detach())
    assert distance(shorter, encoder) > 1e-3


@pytest.mark.parametrize("which", [[], [1, 0], [0, 0], [-1, 0], [0, 3]])
def test_layers_that_are_not_there_are_refused(which: list[int]) -> None:
    with pytest.raises(ConfigError, match="ascending numbers from 0 to 2"):
        keep_layers(random_encoder(), which)


def test_silent_neurons_go_first_and_change_nothing() -> None:
    encoder = random_encoder()
    with torch.no_grad():
        encoder.layers[1].narrow.weight[:, 10:74] = 0
    pruned = prune_feed_forward(encoder, measure_importance(encoder, BATCHES), 2 / 9)
    assert pruned.shape.feed_forward == (96, 32, 96)
    assert distance(pruned, encoder) < 1e-6
    assert encoder.num_parameters - pruned.num_parameters == 64 * (16 + 1 + 16)


def test_each_layer_keeps_its_best_part() -> None:
    importance = Importance((np.arange(96.0), np.ones(96), np.full(96, 200.0)), np.ones(3))
    pruned = prune_feed_forward(random_encoder(), importance, 1.0)
    assert pruned.shape.feed_forward == (32, 32, 32)
    assert_array_equal(pruned.layers[0].widen.bias.detach(), random_encoder().layers[0].widen.bias[64:].detach())
    assert prune_feed_forward(random_encoder(), importance, 4 / 9).shape.feed_forward == (32, 32, 96)
    assert prune_feed_forward(random_encoder(), importance, 1 / 9).shape.feed_forward == (96, 64, 96), "a tie"
    assert distance(prune_feed_forward(random_encoder(), importance, 0.0), random_encoder()) == 0


def test_estimates_agree_with_what_silencing_does() -> None:
    encoder = random_encoder()
    importance = measure_importance(encoder, BATCHES)
    moved, expected = [], []
    for number in range(3):
        for neuron in range(0, 96, 12):
            without = encoder.copy()
            with torch.no_grad():
                without.layers[number].narrow.weight[:, neuron] = 0
            moved.append(np.square(vectors_of(without, IDS) - vectors_of(encoder, IDS)).sum(1).mean())
            expected.append(importance.feed_forward[number][neuron])
    assert np.corrcoef(np.log(expected), np.log(moved))[0, 1] > 0.8


def test_a_layer_is_worth_what_is_lost_without_it() -> None:
    encoder = random_encoder()
    lost = measure_importance(encoder, BATCHES).layers
    without = vectors_of(keep_layers(encoder, [0, 2]), IDS)
    assert_allclose(lost[1], 1 - (without * vectors_of(encoder, IDS)).sum(1).mean(), atol=1e-6)


def test_measuring_changes_nothing_and_repeats() -> None:
    encoder = random_encoder()
    first, second = (measure_importance(encoder, BATCHES, seed=3) for _ in range(2))
    assert_array_equal(np.concatenate(first.feed_forward), np.concatenate(second.feed_forward))
    assert distance(encoder, random_encoder()) == 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_what_does_not_fit_is_refused() -> None:
    encoder = random_encoder()
    with pytest.raises(ConfigError, match="received none"):
        measure_importance(encoder, [])
    with pytest.raises(ConfigError, match=r"share is 1\.5, it must be between 0 and 1"):
        prune_feed_forward(encoder, even_importance(), 1.5)
    with pytest.raises(ConfigError, match="feed_forward"):
        prune_feed_forward(encoder, even_importance(neurons=64), 0.5)


def test_words_that_stay_mean_the_same() -> None:
    encoder = random_encoder()
    used = np.unique(np.concatenate(IDS[:4]))
    trimmed, remap = trim_vocabulary(encoder, used.tolist(), special_ids=[0, 2], unknown_id=1)
    kept = sorted({*used.tolist(), 0, 1, 2})
    assert trimmed.shape.vocabulary == len(kept)
    assert encoder.num_parameters - trimmed.num_parameters == (40 - len(kept)) * 16
    assert remap.dtype == np.int32
    assert remap[kept].tolist() == list(range(len(kept)))
    assert set(remap[[old for old in range(40) if old not in kept]]) <= {remap[1]}
    assert_array_equal(vectors_of(trimmed, [remap[ids] for ids in IDS[:4]]), vectors_of(encoder, IDS[:4]))


@pytest.mark.parametrize("outside", [-1, 40])
def test_ids_outside_the_vocabulary_are_refused(outside: int) -> None:
    with pytest.raises(ConfigError, match=f"token id {outside} is outside the vocabulary, which has 0 to 39"):
        trim_vocabulary(random_encoder(), [3, outside], special_ids=[0], unknown_id=1)
