"""The exported graphs give the encoder's vectors: exactly in float32, approximately in INT8."""

import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from lanner.artifacts import export
from lanner.artifacts.export import (
    ExportError,
    export_onnx,
    onnx_vectors,
    quantise_dynamic,
    quantise_openvino,
)
from lanner.errors import ConfigError, MissingExtraError
from lanner.models.compact_encoder import CompactEncoder, EncoderShape, vectors_of

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

SHAPE = EncoderShape(heads=(2, 4), feed_forward=(32, 64), head_size=8, hidden=32, vocabulary=60, positions=40)
IDS = [np.random.default_rng(number).integers(0, 60, 3 + number % 30).astype(np.int32) for number in range(16)]


@pytest.fixture(scope="module")
def encoder() -> CompactEncoder:
    torch.manual_seed(0)
    return CompactEncoder(SHAPE).eval()


@pytest.fixture(scope="module")
def content(encoder: CompactEncoder) -> bytes:
    return export_onnx(encoder)


def vectors_by_onnx(content: bytes, ids: list[np.ndarray] = IDS) -> np.ndarray:
    return np.concatenate([onnx_vectors(content, [one], SHAPE.hidden) for one in ids])


def int8_share(content: bytes) -> float:
    """Of the numbers of the linear maps, those in INT8."""
    numbers = [one for one in onnx.load_from_string(content).graph.initializer if ".weight" in one.name]
    matrices = [one for one in numbers if len(one.dims) == 2]
    whole = [one for one in matrices if one.data_type == onnx.TensorProto.INT8]
    return float(sum(np.prod(one.dims) for one in whole) / sum(np.prod(one.dims) for one in matrices))


def test_onnx_equals_the_encoder(encoder: CompactEncoder, content: bytes) -> None:
    assert_allclose(vectors_by_onnx(content), vectors_of(encoder, IDS), atol=1e-5)
    texts = [*IDS, np.empty(0, np.int32)]
    assert_allclose(onnx_vectors(content, texts, SHAPE.hidden), vectors_of(encoder, texts), atol=1e-5)


def test_the_graph_is_plain(content: bytes) -> None:
    model = onnx.load_from_string(content)
    assert {node.op_type for node in model.graph.node if node.domain} == {"MultiHeadAttention"}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 4 * len(SHAPE.heads), "four linear maps a layer"


def test_a_graph_that_computes_something_else_is_not_given_out(
    encoder: CompactEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MASKED", 0.0)
    with pytest.raises(ExportError, match="differ from the encoder's"):
        export_onnx(encoder)


def test_int8_is_near_the_encoder_and_smaller(encoder: CompactEncoder, content: bytes, caplog) -> None:
    int8 = quantise_dynamic(content)
    assert caplog.text == ""
    assert (vectors_by_onnx(int8) * vectors_of(encoder, IDS)).sum(1).min() > 0.999
    assert int8_share(content) == 0
    assert int8_share(int8) == 1


def test_openvino_int8_is_near_the_encoder(encoder: CompactEncoder, content: bytes, capfd) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    pytest.importorskip("nncf", reason="the extra 'openvino' is not installed")
    graph, numbers = quantise_openvino(content, IDS)
    core = openvino.Core()
    model = core.compile_model(core.read_model(graph, numbers), "CPU")
    vectors = [model({"ids": one[None].astype(np.int64), "mask": np.ones((1, len(one)), np.int64)})[0] for one in IDS]
    assert (np.concatenate(vectors) * vectors_of(encoder, IDS)).sum(1).min() > 0.999
    assert b"FakeQuantize" in graph
    assert capfd.readouterr().out == "", "stdout belongs to results"


def test_too_few_calibration_texts_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"at least 8 texts.*received 1$") as refusal:
        quantise_openvino(content, IDS[:1])
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="received 7"):
        quantise_openvino(content, IDS[:7])


@pytest.mark.parametrize(
    ("absent", "extra", "call"),
    [
        ("onnx", "onnx", lambda encoder, content: export_onnx(encoder)),
        ("onnxruntime", "onnx", lambda encoder, content: quantise_dynamic(content)),
        ("openvino", "openvino", lambda encoder, content: quantise_openvino(content, IDS)),
    ],
)
def test_a_library_that_is_not_there_is_named(
    encoder: CompactEncoder, content: bytes, monkeypatch: pytest.MonkeyPatch, absent: str, extra: str, call
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtraError, match=rf"lanner\[{extra}\]") as refusal:
        call(encoder, content)
    assert refusal.value.package == absent
