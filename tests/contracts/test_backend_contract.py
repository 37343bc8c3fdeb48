"""The contract of every encoder runtime: the vectors of torch eager, for every variant it can run."""

import ctypes
import gc
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from lanner import encoders
from lanner.artifacts.export import export_onnx, quantise_dynamic
from lanner.artifacts.variants import TextFiles, Variant
from lanner.encoders import BACKENDS, TextReader, installed_backend, open_text_reader
from lanner.encoders.open_vino import padded_length
from lanner.errors import BundleError, ConfigError, LannerError, MissingExtraError
from lanner.inference.scoring_model import popularity_model
from lanner.models.compact_encoder import CompactEncoder, EncoderShape
from lanner.models.text_features import TextFeatures

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library, reason="the extra 'onnx' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "slow", "films", "about", "the", "sea", "war"]
SHAPE = EncoderShape((2, 1), (16, 8), head_size=4, hidden=8, vocabulary=len(WORDS), positions=16)
TEXTS = ["slow films", "the sea", "", "war war war about the slow unheard sea"]
EVERYWHERE = ("torch", "onnxruntime", "openvino")


def text_files() -> TextFiles:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    encode = lambda texts: np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
    return TextFiles(TextFeatures.fit(["slow sea", "war films", "the sea"], encode, 4, 0), tokenizer.to_str(), 12)


@pytest.fixture(scope="module")
def encoder() -> CompactEncoder:
    torch.manual_seed(0)
    made = CompactEncoder(SHAPE)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.fixture(scope="module")
def full(encoder) -> Variant:
    files = {"encoder.onnx": export_onnx(encoder), "encoder.safetensors": save(dict(encoder.state_dict()))}
    return Variant("full", popularity_model(np.ones(3)), files, {"encoder_shape": asdict(SHAPE)})


@pytest.fixture(params=BACKENDS)
def name(request) -> str:
    """A backend that runs here."""
    if request.param in ("cuda", "tensorrt") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    if request.param == "torch-compile" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    return request.param


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signals_have_a_stack() -> bool:
    """Whether the stack that this thread's signal handlers run on, if one was set, is memory of this process."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    ranges = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    bounds = [[int(end, 16) for end in span.split("-")] for span, rights in ranges if "w" in rights]
    return not stack.start or any(start <= stack.start < end for start, end in bounds)


@pytest.mark.filterwarnings("ignore")
def test_every_backend_gives_the_vectors_of_torch(name, full):
    reader, oracle = (open_text_reader(full, text_files(), one) for one in (name, "torch"))
    reader.warm_up()
    vectors = reader.encode(TEXTS)
    assert np.allclose(vectors, oracle.encode(TEXTS), atol=1e-4)
    assert np.allclose(reader.features(TEXTS), oracle.features(TEXTS), atol=1e-3)
    alone = np.concatenate([reader.encode([text]) for text in TEXTS])
    assert np.allclose(vectors, alone, atol=1e-4), "a text alone is as among others"
    assert not alone[2].any()
    assert np.allclose(np.linalg.norm(alone[[0, 1, 3]], axis=1), 1, atol=1e-4)
    reader.close()
    reader.close()
    with pytest.raises(LannerError, match="was closed"):
        reader.encode(["slow"])


@pytest.mark.parametrize("backend", EVERYWHERE)
class TestEveryRuntimeOnACpu:
    @pytest.fixture
    def reader(self, backend, full) -> TextReader:
        pytest.importorskip(backend)
        return open_text_reader(full, text_files(), backend)

    def test_texts_that_recur_are_encoded_once(self, reader, monkeypatch):
        first = reader.features(TEXTS)
        monkeypatch.setattr(reader, "_encode", lambda *_: pytest.fail("encoded again"))
        assert np.array_equal(reader.features([*TEXTS[::-1], "slow films"])[:4], first[::-1])
        assert reader.features([]).shape == (0, reader.width)

    def test_a_text_that_is_read_once_is_read_alike_and_not_kept(self, reader):
        assert np.allclose(reader.read(TEXTS), reader.features(TEXTS), atol=1e-4)
        reader.read(["a film of which nobody heard"])
        assert set(reader._known) == set(TEXTS)

    def test_no_more_than_2000_texts_are_kept(self, reader, monkeypatch):
        monkeypatch.setattr(encoders.contract, "_TEXTS_KEPT", 3)
        for number in range(5):
            rows = reader.features([f"slow sea {number}", "war"])
            assert np.allclose(rows, reader.read([f"slow sea {number}", "war"]), atol=1e-4)
            assert len(reader._known) <= 3

    def test_a_text_of_100_000_characters_is_read(self, reader):
        assert np.isfinite(reader.encode(["the slow sea " * 8000])).all()

    def test_many_threads_read_texts_at_once(self, reader):
        texts = [" ".join(WORDS[4 : 5 + number % 5] * 2) for number in range(40)]
        wanted = [reader.encode([text]) for text in texts]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda text: reader.encode([text]), texts * 5))
        assert np.allclose(np.concatenate(found), np.concatenate(wanted * 5), atol=1e-5)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map of Linux")
    def test_a_signal_is_survived_after_readers_were_closed_in_order(self, reader, backend, full):
        opened = [reader, *(open_text_reader(full, text_files(), backend) for _ in range(2))]
        while opened:
            opened.pop(0).close()
            gc.collect()
            assert signals_have_a_stack()

    def test_a_variant_without_an_encoder_is_refused(self, reader, backend, full):
        with pytest.raises(ConfigError, match="'popularity' has no text encoder"):
            open_text_reader(Variant("popularity", full.model), text_files(), backend)
        with pytest.raises(ConfigError, match=r"'full' has no encoder"):
            open_text_reader(replace(full, files={}), text_files(), backend)


def test_without_a_name_the_fastest_installed_runtime_reads(full, monkeypatch):
    assert open_text_reader(full, text_files()).backend == installed_backend(full)
    assert installed_backend(replace(full, files={"encoder.safetensors": b""})) == "torch"
    monkeypatch.setattr(encoders, "find_spec", lambda package: None if package == "openvino" else object())
    assert installed_backend(full) == "onnxruntime"
    monkeypatch.setattr(encoders, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"lanner\[onnx\]"):
        installed_backend(full)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_stays_close_to_eager(backend, full):
    pytest.importorskip(backend)
    files = {**full.files, "encoder.onnx": quantise_dynamic(full.files["encoder.onnx"])}
    int8, oracle = replace(full, name="int8", files=files), open_text_reader(full, text_files(), "torch")
    vectors = open_text_reader(int8, text_files(), backend).encode(TEXTS)
    assert (vectors * oracle.encode(TEXTS)).sum(axis=1)[[0, 1, 3]].min() > 0.98


def test_tokens_left_out_are_read_as_unknown(full):
    new_id = np.arange(len(WORDS), dtype=np.int32)
    new_id[WORDS.index("war")] = WORDS.index("[UNK]")
    files = {**full.files, "encoder.vocabulary.safetensors": save_arrays({"new_id": new_id})}
    trimmed = open_text_reader(replace(full, files=files), text_files(), "onnxruntime")
    assert np.allclose(trimmed.encode(["war sea"]), trimmed.encode(["unheard sea"]))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_damaged_model_is_named(backend, full):
    pytest.importorskip(backend)
    with pytest.raises(BundleError, match=r"full.encoder") as refusal:
        open_text_reader(replace(full, files={"encoder.onnx": b"nothing of the kind"}), text_files(), backend)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("module", ["onnxruntime", "openvino", "tokenizers"])
def test_a_missing_library_names_its_extra(module, full, monkeypatch):
    files = text_files()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match="pip install"):
        open_text_reader(full, files, "torch" if module == "tokenizers" else module).encode(["slow"])


def test_what_does_not_exist_is_named(full):
    with pytest.raises(ConfigError, match="unknown backend 'tpu'; choose one of torch, torch-compile, onnxruntime"):
        open_text_reader(full, text_files(), "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="NVIDIA GPU"):
            open_text_reader(full, text_files(), "cuda")
        with pytest.raises(ConfigError, match="'tensorrt' needs ONNX Runtime with TensorrtExecutionProvider"):
            open_text_reader(full, text_files(), "tensorrt")


class TestOpenVino:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

    def test_few_shapes_are_met_whatever_is_read(self, full, monkeypatch):
        reader, oracle = (open_text_reader(full, text_files(), one) for one in ("openvino", "torch"))
        shapes, run = set(), reader._encoder
        monkeypatch.setattr(reader, "_encoder", lambda inputs: shapes.add(inputs["ids"].shape) or run(inputs))
        for number in range(1, 20):
            texts = [" ".join(["slow", "sea", "war"][: 1 + place % 3] * (1 + place // 3)) for place in range(number)]
            assert np.allclose(reader.encode(texts), oracle.encode(texts), atol=1e-4)
        reader.encode(["war " * 30])  # of which 12 tokens are read
        assert shapes == {(1, 8), (1, 12), (4, 8), (4, 12)}

    def test_texts_are_padded_to_two_lengths_for_each_doubling(self):
        lengths = [padded_length(tokens) for tokens in range(1, 513)]
        assert sorted(set(lengths)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
        assert all(tokens <= length < 1.5 * tokens + 8 for tokens, length in enumerate(lengths, 1))
