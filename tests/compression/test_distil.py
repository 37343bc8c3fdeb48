"""A pruned encoder recovers the full encoder's vectors, deterministically."""

import signal

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from lanner.compression.distil import distil, with_spans
from lanner.compression.encoder import EncoderRecipe
from lanner.compression.prune import keep_layers
from lanner.errors import ConfigError, Interrupted
from lanner.models.compact_encoder import CompactEncoder, EncoderShape, vectors_of

SHAPE = EncoderShape(heads=(2, 2), feed_forward=(32, 32), head_size=8, hidden=16, vocabulary=40, positions=24)
IDS = [np.random.default_rng(number).integers(0, 40, 3 + number % 20).astype(np.int32) for number in range(300)]


def teacher() -> CompactEncoder:
    torch.manual_seed(0)
    return CompactEncoder(SHAPE).eval()


def distilled(**changes: object):
    settings = {"epochs": 3, "learning_rate": 5e-3, "seed": 0}
    return distil(keep_layers(teacher(), [0]), vectors_of(teacher(), IDS), IDS, **(settings | changes))


def test_what_was_lost_comes_back() -> None:
    found = distilled(epochs=8)
    assert found.cosine > found.cosine_before + 0.25 * (1 - found.cosine_before)
    assert found.encoder.shape.num_layers == 1
    assert found.epochs == 8


def test_the_seed_decides() -> None:
    first, second, other = (distilled(seed=seed).encoder.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_student_stays_as_it_is_and_words_stay_in_place() -> None:
    student = keep_layers(teacher(), [0])
    found = distil(student, vectors_of(teacher(), IDS), IDS, epochs=1, learning_rate=5e-3, seed=0)
    for name, value in keep_layers(teacher(), [0]).state_dict().items():
        assert_array_equal(value, student.state_dict()[name])
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert_array_equal(found.encoder.words.weight.detach(), student.words.weight.detach())
    assert not torch.equal(found.encoder.positions.weight, student.positions.weight)


def test_a_worse_student_is_not_given_back() -> None:
    found = distil(teacher(), vectors_of(teacher(), IDS), IDS, epochs=1, learning_rate=0.5, seed=0)
    assert found.cosine == found.cosine_before
    assert_array_equal(vectors_of(found.encoder, IDS), vectors_of(teacher(), IDS))


def test_parts_of_a_text_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.arange(len(IDS)) // 10
    learned: set[int] = set()
    step = "lanner.compression.distil._Training.step"
    monkeypatch.setattr(step, lambda self, rows, done: learned.update(rows.tolist()))
    distilled(source=source, epochs=1)
    held_out = sorted(set(range(len(IDS))) - learned)
    assert len(held_out) == len(IDS) // 10
    assert not set(source[held_out]) & set(source[sorted(learned)])


def test_time_ends_it() -> None:
    found = distilled(epochs=1000, seconds=0.5)
    assert 0 < found.epochs < 1000
    assert found.cosine > found.cosine_before


def test_ctrl_c_ends_it_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    step = "lanner.compression.distil._Training.step"
    monkeypatch.setattr(step, lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="the encoder is unchanged"):
        distilled(epochs=1000)


def test_spans_are_passages_of_their_texts() -> None:
    texts = [np.array([2, *range(10, 10 + length), 3], np.int32) for length in (1, 2, 5, 30)]
    parts, source = with_spans(texts, per_text=40, longest=12, seed=0)
    assert all(np.array_equal(part, text) for part, text in zip(parts, texts, strict=False))
    # A text of one or two words has no passage but itself.
    assert np.bincount(source).tolist() == [1, 1, 41, 41]
    lengths = set()
    for part, number in zip(parts[4:], source[4:], strict=True):
        assert (part[0], part[-1]) == (2, 3)
        assert_array_equal(part[1:-1], np.arange(part[1], part[1] + len(part) - 2))
        assert set(part) <= set(texts[number])
        lengths.add(len(part))
    assert lengths == set(range(4, 13))
    again = with_spans(texts, per_text=40, longest=12, seed=0)[0]
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_what_cannot_be_learned_from_is_refused() -> None:
    vectors = vectors_of(teacher(), IDS)
    good = {"epochs": 1, "learning_rate": 1e-3, "seed": 0}
    with pytest.raises(ConfigError, match="at least 2 texts"):
        distil(teacher(), vectors[:1], IDS[:1], **good)
    with pytest.raises(ConfigError, match="at least 2 texts"):
        distil(teacher(), vectors, IDS, source=np.zeros(300, np.int64), **good)
    for setting in ("seconds", "epochs", "learning_rate"):
        with pytest.raises(ConfigError, match=f"{setting} 0"):
            EncoderRecipe(**{setting: 0})
