"""The encoder that Numba compiles: whole numbers as they are defined, any shape, any number of threads."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from lanner.artifacts.ladder import Rung
from lanner.errors import BundleError, ConfigError
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.encoder_codes import HIGHEST, LARGEST_SUM, LARGEST_WEIGHT, encoder_codes, largest_sums
from lanner.models.encoder_shape import EncoderShape
from lanner.models.request_form import RequestForm
from lanner.serving.backends import numba as backend_module
from lanner.serving.backends.numba import NumbaBackend
from lanner.serving.backends.numba_products import processor_has_avx2
from lanner.serving.backends.numba_threads import APART, run_of

pytestmark = pytest.mark.skipif(not processor_has_avx2(), reason="the backend needs AVX2")

ODD = EncoderShape((3, 1, 2), (20, 7, 33), head_size=5, hidden=19, vocabulary=50, positions=90)
EVEN = EncoderShape((2, 4), (64, 128), head_size=16, hidden=64, vocabulary=50, positions=90)
LENGTHS = (1, 2, 17, 16, 33, 5, 90, 4)
FORM = RequestForm(*(np.zeros(shape, np.float32) for shape in ((1, 1), (1, 1), 1)), (1,))


def encoder(shape: EncoderShape) -> CompactEncoder:
    torch.manual_seed(0)
    made = CompactEncoder(shape)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.ones_(parameter)
    return made.eval()


def backend(made: CompactEncoder, int8: bool, threads: int = 1) -> NumbaBackend:
    arrays = encoder_codes(made) if int8 else {name: value.numpy() for name, value in made.state_dict().items()}
    role = "encoder.codes.safetensors" if int8 else "encoder.safetensors"
    rung = Rung("full", FORM, {role: save(arrays)}, {"encoder_shape": asdict(made.shape)})
    return NumbaBackend(rung, reader=object(), threads=threads)  # the tokeniser is not asked


def texts(shape: EncoderShape, lengths=LENGTHS) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, shape.vocabulary, min(length, shape.positions)) for length in lengths]


def read(one: NumbaBackend, ids: list[np.ndarray], width: int) -> np.ndarray:
    vectors = np.zeros((len(ids), width), np.float32)
    one._encode_tokens(ids, vectors)
    return vectors


def in_whole_numbers(made: CompactEncoder, ids: np.ndarray) -> np.ndarray:
    """What ``encoder_codes`` defines, written down once more in NumPy: float64 but for the products of codes."""
    arrays, shape = encoder_codes(made), made.shape

    def linear(rows, stem):
        low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
        scale = (high - low) / HIGHEST
        zero = np.floor(0.5 - low / scale).astype(np.int64)
        codes = np.clip(np.floor(rows / scale[:, None] + zero[:, None] + 0.5), 0, HIGHEST).astype(np.int64)
        weights = arrays[f"{stem}.codes"].astype(np.int64)
        assert largest_sums(weights).max() <= LARGEST_SUM
        whole = codes @ weights.T - zero[:, None] * weights.sum(axis=1)
        return whole * scale[:, None] * arrays[f"{stem}.scale"] + arrays[f"{stem}.bias"]

    def norm(rows, stem):
        centred = rows - rows.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + shape.norm_epsilon)
        return centred / deviation * arrays[f"{stem}.weight"] + arrays[f"{stem}.bias"]

    rows = arrays["words.codes"][ids] * arrays["words.scale"][ids, None].astype(np.float64)
    rows = norm(rows + arrays["positions.weight"][: len(ids)], "norm")
    for number, heads in enumerate(shape.heads):
        stem = f"layers.{number}"
        parts = linear(rows, f"{stem}.attend").reshape(len(ids), 3, heads, shape.head_size)
        scores = np.einsum("qhd,khd->hqk", parts[:, 0], parts[:, 1])
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, parts[:, 2]).reshape(len(ids), -1)
        rows = norm(rows + linear(mixed, f"{stem}.join"), f"{stem}.attention_norm")
        wide = linear(rows, f"{stem}.widen")
        wide *= (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        rows = norm(rows + linear(wide, f"{stem}.narrow"), f"{stem}.norm")
    total = rows.sum(axis=0)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("shape", [ODD, EVEN])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_floats_are_those_of_torch_whatever_the_shape_and_the_threads(shape, threads):
    made = encoder(shape)
    ids = texts(shape)
    wanted = vectors_of(made, ids)
    assert np.abs(read(backend(made, False, threads), ids, shape.hidden) - wanted).max() < 1e-5


@pytest.mark.parametrize("shape", [ODD, EVEN])
def test_codes_are_multiplied_as_they_are_defined(shape):
    made = encoder(shape)
    ids = texts(shape)
    got = read(backend(made, True, 2), ids, shape.hidden)
    wanted = np.stack([in_whole_numbers(made, one) for one in ids])
    # A number that lies on the border of two codes may get either.
    assert (got * wanted).sum(axis=1).min() > 0.9995
    assert np.median(np.abs(got - wanted)) < 1e-4


def test_the_largest_codes_do_not_overflow():
    shape = EncoderShape((1,), (2048,), head_size=16, hidden=16, vocabulary=4, positions=8)
    made = encoder(shape)
    with torch.no_grad():
        for name in ("widen", "narrow"):
            weight = getattr(made.layers[0], name).weight
            # Outputs that differ, or the norm behind them would take off whatever they are wrong by.
            weight.copy_(torch.linspace(0.1, 1, len(weight))[:, None].expand_as(weight))
            getattr(made.layers[0], name).bias.fill_(3.0)
    ids = [np.array([1, 2, 3])]
    assert np.abs(read(backend(made, True), ids, 16) - in_whole_numbers(made, ids[0])).max() < 2e-3


def test_outputs_that_need_no_larger_scale_keep_all_seven_bits():
    made = encoder(EVEN)
    with torch.no_grad():
        made.layers[0].widen.weight[0] = 1.0
    codes = encoder_codes(made)["layers.0.widen.codes"]
    assert codes[0].max() == LARGEST_SUM // 8
    assert (np.abs(codes[1:]).max(axis=1) == LARGEST_WEIGHT).mean() > 0.95


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_threads_share_all_tokens_by_their_pace(parts):
    random = np.random.default_rng(parts)
    for tokens in range(1, 45):
        pace = np.zeros((2, APART * parts))
        pace[1, ::APART] = random.choice([0.0, 1e-9, 0.02, 0.03, 5.0], parts)
        runs = [run_of(pace, part, parts, 7, tokens) for part in range(parts)]
        ends = [0, *(last for _, last in runs)]
        assert [first for first, _ in runs] == ends[:-1]
        assert ends == sorted(ends)
        assert ends[-1] == tokens
        assert all(end % 2 == 0 for end in ends[:-1] if end < tokens)


def test_who_was_faster_is_given_more_and_nobody_is_left_out():
    pace = np.zeros((2, 2 * APART))
    assert [run_of(pace, part, 2, 4, 32) for part in (0, 1)] == [(0, 16), (16, 32)]
    pace[0, ::APART] = 1.0, 3.0
    assert [run_of(pace, part, 2, 4, 32) for part in (0, 1)] == [(0, 8), (8, 32)]
    pace[0, ::APART] = 0.0, 3.0
    assert run_of(pace, 0, 2, 4, 32) == (0, 6)


def test_a_text_without_tokens_keeps_its_zeros():
    made = encoder(EVEN)
    none = np.empty(0, np.int64)
    got = read(backend(made, False, 2), [none, np.array([3, 4]), none, none, np.array([5])], 64)
    assert got.any(axis=1).tolist() == [False, True, False, False, True]
    assert not read(backend(made, False), [none] * 3, 64).any()


def test_more_texts_than_fit_at_once_are_read():
    made = encoder(EVEN)
    ids = texts(EVEN, [90, 60, 3] * 20)
    one = backend(made, True, 2)
    alone = np.concatenate([read(one, [each], 64) for each in ids])
    assert np.abs(read(one, ids, 64) - alone).max() < 1e-6


def test_many_callers_share_two_threads():
    made = encoder(EVEN)
    one, ids = backend(made, True, 2), texts(EVEN)
    wanted = [read(one, [each], 64) for each in ids]
    wrong = []

    def ask():
        for each, right in list(zip(ids, wanted, strict=True)) * 20:
            if np.abs(read(one, [each], 64) - right).max() > 1e-6:
                wrong.append(len(each))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_an_interrupted_call_leaves_no_thread_waiting(monkeypatch):
    made = encoder(EVEN)
    one, ids = backend(made, True, 3), texts(EVEN)
    wanted = read(one, ids, 64)
    real = backend_module.read_texts

    def interrupted(part, *asked):
        if part == 0:
            raise KeyboardInterrupt
        real(part, *asked)

    monkeypatch.setattr(backend_module, "read_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(one, ids, 64)
    monkeypatch.setattr(backend_module, "read_texts", real)
    for _ in range(3):
        assert np.abs(read(one, ids, 64) - wanted).max() < 1e-6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    one, ids = backend(encoder(EVEN), True, 2), texts(EVEN)
    wanted = read(one, ids, 64)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(read(one, ids, 64), wanted) else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
    assert ended == (child, 0)


def test_threads_end_with_their_backend():
    readers = lambda: {thread for thread in threading.enumerate() if thread.name == "encoder"}
    before = readers()
    one = backend(encoder(EVEN), True, 3)
    read(one, texts(EVEN), 64)
    mine = readers() - before
    assert len(mine) == 2
    one.close()
    del one
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("ids", [[50], [0] * 91])
def test_what_another_tokeniser_gives_is_refused(ids):
    with pytest.raises(BundleError, match="its tokeniser is another one's"):
        read(backend(encoder(EVEN), True), [np.array(ids)], 64)


def test_a_file_of_another_shape_is_named():
    made = encoder(EVEN)
    other = {"encoder_shape": asdict(EncoderShape((2, 4), (64, 96), 16, 64, 50, 90))}
    files = {"encoder.safetensors": save({name: value.numpy() for name, value in made.state_dict().items()})}
    with pytest.raises(BundleError, match=r"full.encoder.safetensors: no encoder of the shape .*\[128, 64\]"):
        NumbaBackend(Rung("full", FORM, files, other), reader=object())
    with pytest.raises(BundleError, match=r"full.encoder.safetensors: no encoder of the shape"):
        NumbaBackend(Rung("full", FORM, {"encoder.safetensors": b"nothing of the kind"}, other), reader=object())
    with pytest.raises(ConfigError, match=r"has no encoder.safetensors"):
        NumbaBackend(Rung("full", FORM, {"network.onnx": b""}, other), reader=object())


def test_a_processor_without_avx2_is_told(monkeypatch):
    monkeypatch.setattr(backend_module, "processor_has_avx2", lambda: False)
    with pytest.raises(ConfigError, match="needs a processor that has AVX2"):
        NumbaBackend(Rung("full", FORM))


def test_every_number_of_rows_is_multiplied():
    shape = EncoderShape((2,), (32,), head_size=8, hidden=16, vocabulary=50, positions=40)
    made = encoder(shape)
    whole, int8 = backend(made, False), backend(made, True)
    for length in range(1, 30):
        ids = texts(shape, [length])
        assert np.abs(read(whole, ids, 16) - vectors_of(made, ids)).max() < 1e-5
        assert (read(int8, ids, 16)[0] @ in_whole_numbers(made, ids[0])) > 0.9995


def test_texts_do_not_see_each_other():
    made = encoder(ODD)
    one = backend(made, False, 2)
    for pair in itertools.combinations(texts(ODD), 2):
        alone = np.concatenate([read(one, [each], 19) for each in pair])
        assert np.abs(read(one, list(pair), 19) - alone).max() < 1e-5


def test_it_is_read_without_torch():
    asked = "import sys, lanner.serving.backends.numba; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
