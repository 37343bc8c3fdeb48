"""What every runtime must keep: the numbers of torch eager, for every variant it can run."""

import builtins
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

from lanner.files import digest
from lanner.artifacts.ladder import Rung, TextReader
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import BundleError, ConfigError, MissingExtraError
from lanner.models.compact_encoder import CompactEncoder
from lanner.models.encoder_codes import encoder_codes
from lanner.models.encoder_shape import EncoderShape
from lanner.models.request_form import RequestForm, RequestHead
from lanner.models.text_features import TextFeatures
from lanner.serving.backends import BACKENDS, Backend, open_backend
from lanner.serving.backends.open_vino import padded_length

pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

ITEMS, WIDTH, HIDDEN = 40, 8, 5
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "slow", "films", "about", "the", "sea", "war"]
SHAPE = EncoderShape((2, 1), (16, 8), head_size=4, hidden=8, vocabulary=len(WORDS), positions=16)
TEXTS = ["slow films", "the sea", "", "war war war about the slow unheard sea"]
HERE = [name for name in BACKENDS if name not in ("cuda", "tensorrt", "torch-compile")]
SLOW = [pytest.param(name, marks=pytest.mark.filterwarnings("ignore")) for name in HERE]


def reader() -> TextReader:
    tokeniser = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokeniser.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokeniser.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    encode = lambda texts: np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
    return TextReader(TextFeatures.fit(["slow sea", "war films", "the sea"], encode, 4, 0), tokeniser.to_str(), 12)


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


def backend_of(name: str) -> type[Backend]:
    bare = open_backend(name, Rung("bare", RequestForm(*(np.zeros(shape) for shape in ((1, 1), (1, 1), 1)), (1,))))
    bare.close()
    return type(bare)


def encoder() -> CompactEncoder:
    torch.manual_seed(0)
    made = CompactEncoder(SHAPE)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.fixture(scope="module")
def rungs() -> dict[str, Rung]:
    from lanner.artifacts.export import export_onnx, quantise_dynamic
    from lanner.artifacts.export_network import export_network

    draw = lambda *shape: np.random.default_rng(1).normal(size=shape).astype(np.float32)
    head = RequestHead(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN))
    form = RequestForm(draw(ITEMS, WIDTH), draw(ITEMS, WIDTH), draw(ITEMS), (3, 5), head, draw(4, WIDTH))
    network, onnx = export_network(form), export_onnx(encoder())
    weights, figures = save(dict(encoder().state_dict())), {"encoder_shape": asdict(SHAPE)}
    files = {"network.onnx": network, "encoder.onnx": onnx, "encoder.safetensors": weights}
    int8 = files | {"network.onnx": quantise_dynamic(network), "encoder.onnx": quantise_dynamic(onnx)}
    int8 |= {"encoder.codes.safetensors": save_arrays(encoder_codes(encoder()))}
    return {"full": Rung("full", form, files, figures), "int8": Rung("int8", form, int8, figures)}


@pytest.fixture(scope="module")
def batch() -> UserBatch:
    return UserBatch(Ragged.from_lists([[0, 4, 7], [], [39]]), ("slow films", "", "war"))


@pytest.mark.parametrize("name", SLOW)
class TestEveryBackend:
    def test_scores_and_vectors_are_those_of_torch(self, name, rungs, batch):
        backend, oracle = (open_backend(one, rungs["full"], reader(), 1) for one in (name, "torch"))
        assert np.allclose(backend.score(batch), oracle.score(batch), atol=1e-3)
        assert np.allclose(backend.encode(TEXTS), oracle.encode(TEXTS), atol=1e-4)

    def test_a_text_alone_is_as_among_others(self, name, rungs):
        backend = open_backend(name, rungs["full"], reader(), 1)
        alone = np.concatenate([backend.encode([text]) for text in TEXTS])
        assert np.allclose(backend.encode(TEXTS), alone, atol=1e-4)
        assert not alone[2].any()
        assert np.allclose(np.linalg.norm(alone[[0, 1, 3]], axis=1), 1, atol=1e-4)

    def test_a_profile_moves_the_scores(self, name, rungs, batch):
        backend = open_backend(name, rungs["full"], reader(), 1)
        without = backend.score(UserBatch(batch.history))
        assert not np.allclose(backend.score(batch)[0], without[0])
        assert np.allclose(backend.score(batch)[1], without[1], atol=1e-3)

    def test_a_text_that_is_read_once_is_read_alike_and_not_kept(self, name, rungs):
        backend = open_backend(name, rungs["full"], reader(), 1)
        assert np.allclose(backend.read(TEXTS), backend.features(TEXTS), atol=1e-4)
        kept = dict(backend._profiles)
        backend.read(["a film of which nobody heard"])
        assert backend._profiles.keys() == kept.keys() == set(TEXTS)

    def test_a_text_of_100_000_characters_is_read(self, name, rungs):
        backend = open_backend(name, rungs["full"], reader(), 1)
        assert np.isfinite(backend.encode(["the slow sea " * 8000])).all()

    def test_many_threads_read_texts_at_once(self, name, rungs):
        backend = open_backend(name, rungs["full"], reader(), 1)
        texts = [" ".join(WORDS[4 : 5 + number % 5] * 2) for number in range(40)]
        wanted = [backend.encode([text]) for text in texts]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda text: backend.encode([text]), texts * 5))
        assert np.allclose(np.concatenate(got), np.concatenate(wanted * 5), atol=1e-5)

    def test_rungs_with_one_encoder_share_it_until_the_last_is_closed(self, name, rungs, monkeypatch):
        loaded, load = [], backend_of(name)._load_encoder
        monkeypatch.setattr(backend_of(name), "_load_encoder", lambda self: loaded.append(self.rung.name) or load(self))
        text = reader()
        same = [replace(rungs["full"], name=rung, encoder_digest="a") for rung in ("full", "pruned")]
        other = [replace(rungs["full"], name="other", encoder_digest="b"), replace(rungs["full"], name="unknown")]
        opened = []
        for rung in (*same, *other, other[-1]):
            opened.append(open_backend(name, rung, text, 1, opened))
        assert loaded == ["full", "other", "unknown", "unknown"]
        wanted = opened[0].encode(TEXTS)
        opened[0].close()
        with pytest.raises(ConfigError, match="was closed"):
            opened[0].encode(["slow"])
        assert np.array_equal(opened[1].encode(TEXTS), wanted)
        for one in opened:
            one.close()

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map of Linux")
    def test_a_signal_is_survived_after_backends_were_closed_in_order(self, name, rungs):
        opened = [open_backend(name, rungs["full"], reader(), 1) for _ in range(3)]
        while opened:
            opened.pop(0).close()
            gc.collect()
            assert signals_have_a_stack()

    def test_a_rung_without_an_encoder_refuses_texts(self, name, rungs):
        bare = Rung("popularity", rungs["full"].form, {"network.onnx": rungs["full"].files["network.onnx"]})
        with pytest.raises(ConfigError, match="'popularity' reads no texts"):
            open_backend(name, bare, reader(), 1).encode(["slow"])

    def test_warm_up_and_close(self, name, rungs, batch):
        backend = open_backend(name, rungs["full"], reader(), 1)
        backend.warm_up()
        backend.close()
        backend.close()
        with pytest.raises(ConfigError, match="was closed"):
            backend.score(batch)
        with pytest.raises(ConfigError, match="was closed"):
            backend.encode(["slow"])


def test_openvino_meets_few_shapes_whatever_is_read(rungs, monkeypatch):
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    backend, oracle = (open_backend(one, rungs["full"], reader(), 1) for one in ("openvino", "torch"))
    shapes, encoder = set(), backend._encoder
    monkeypatch.setattr(backend, "_encoder", lambda inputs: shapes.add(inputs["ids"].shape) or encoder(inputs))
    for number in range(1, 20):
        texts = [" ".join(["slow", "sea", "war"][: 1 + place % 3] * (1 + place // 3)) for place in range(number)]
        assert np.allclose(backend.encode(texts), oracle.encode(texts), atol=1e-4)
    backend.encode(["war " * 30])  # of which 12 tokens are read
    assert shapes == {(1, 8), (1, 12), (4, 8), (4, 12)}


class TestWhatOpenVinoCompiledIsKept:
    @pytest.fixture
    def rung(self, rungs, tmp_path, monkeypatch):
        pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
        self.compiled = []
        real = backend_of("openvino")._compiled
        count = lambda backend, role: self.compiled.append(role) or real(backend, role)
        monkeypatch.setattr(backend_of("openvino"), "_compiled", count)
        return replace(rungs["full"], encoder_digest="a", kept=tmp_path)

    @staticmethod
    def encoded(rung):
        backend = open_backend("openvino", rung, reader(), 1)
        vectors = backend.encode(TEXTS)
        backend.close()
        return vectors

    def test_for_the_next_start(self, rung):
        first = self.encoded(rung)
        assert np.array_equal(self.encoded(replace(rung, files={})), first)
        assert self.compiled == ["encoder"]

    def test_until_the_files_are_others(self, rung):
        for files in ("a", "b", "a", "b", "", ""):  # of unknown files nothing is kept
            self.encoded(replace(rung, encoder_digest=files))
        assert self.compiled == ["encoder"] * 4

    @pytest.mark.parametrize("said", ["model.blob: damaged", "OpenVINO cannot read it"])
    def test_but_for_damage(self, rung, said, caplog):
        first = self.encoded(rung)
        (blob,) = rung.kept.glob("*/model.blob")
        written = blob.read_bytes()
        blob.write_bytes(written[: len(written) // 2])
        if said == "OpenVINO cannot read it":
            (blob.parent / "model.sha256").write_text(digest(blob.read_bytes()))
        for _ in range(2):
            assert np.array_equal(self.encoded(rung), first)
        assert self.compiled == ["encoder"] * 2
        assert said in caplog.text

    def test_where_the_disk_takes_it(self, rung, caplog):
        rung.kept.joinpath("file").write_text("no folder")
        assert self.encoded(replace(rung, kept=rung.kept / "file")).any()
        assert "the model is compiled anew whenever this bundle is opened" in caplog.text


def test_openvino_pads_texts_to_two_lengths_for_each_doubling():
    lengths = [padded_length(tokens) for tokens in range(1, 513)]
    assert sorted(set(lengths)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert all(tokens <= length < 1.5 * tokens + 8 for tokens, length in enumerate(lengths, 1))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_modules_are_those_of_torch(rungs, batch):
    backend, oracle = (open_backend(name, rungs["full"], reader(), 1) for name in ("torch-compile", "torch"))
    assert np.allclose(backend.score(batch), oracle.score(batch), atol=1e-3)
    assert np.allclose(backend.encode(TEXTS), oracle.encode(TEXTS), atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "numba"])
def test_int8_stays_close_to_eager(name, rungs, batch):
    backend, oracle = (
        open_backend(name, rungs["int8"], reader(), 1),
        open_backend("torch", rungs["int8"], reader(), 1),
    )
    assert np.abs(backend.score(batch) - oracle.score(batch)).max() < 0.05 * np.abs(oracle.score(batch)).max()
    cosines = (backend.encode(TEXTS) * oracle.encode(TEXTS)).sum(axis=1)[[0, 1, 3]]
    assert cosines.min() > 0.98


def test_tokens_left_out_are_read_as_unknown(rungs):
    new_id = np.arange(len(WORDS), dtype=np.int32)
    new_id[WORDS.index("war")] = WORDS.index("[UNK]")
    files = {**rungs["full"].files, "encoder.vocabulary.safetensors": save_arrays({"new_id": new_id})}
    trimmed = open_backend("onnxruntime", Rung("t", rungs["full"].form, files, rungs["full"].figures), reader(), 1)
    assert np.allclose(trimmed.encode(["war sea"]), trimmed.encode(["unheard sea"]))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_damaged_model_is_named(name, rungs):
    broken = Rung("full", rungs["full"].form, {"network.onnx": b"nothing of the kind"})
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    with pytest.raises(BundleError, match=r"full.network"):
        open_backend(name, broken, None, 1).warm_up()


@pytest.mark.parametrize(("name", "module"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_library_names_its_extra(name, module, rungs, monkeypatch):
    real = builtins.__import__

    def without(wanted, *rest, **named):
        if wanted.split(".")[0] == module:
            raise ImportError(wanted)
        return real(wanted, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="pip install"):
        open_backend(name, rungs["full"], None, 1)


def test_what_does_not_exist_is_named(rungs):
    with pytest.raises(ConfigError, match="unknown backend 'tpu'; choose one of torch"):
        open_backend("tpu", rungs["full"])
    with pytest.raises(ConfigError, match=r"no network.onnx"):
        open_backend("onnxruntime", Rung("r", rungs["full"].form)).warm_up()
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="NVIDIA GPU"):
            open_backend("cuda", rungs["full"])
        with pytest.raises(ConfigError, match="'tensorrt' needs ONNX Runtime's TensorrtExecutionProvider"):
            open_backend("tensorrt", rungs["full"])
