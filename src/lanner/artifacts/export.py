"""Export a compact encoder to ONNX and OpenVINO, in float32 and INT8.

The graph is built node by node: the architecture is fixed, while the output of exporters changes between releases. It
is verified against the encoder before it is returned.
"""

import io
import logging
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanner.errors import ConfigError, LannerError, optional_module
from lanner.models.compact_encoder import MASKED, SHORTEST, CompactEncoder, EncoderLayer, read_in_batches, vectors_of

FEWEST_CALIBRATION_TEXTS = 8
"""Minimum number of calibration texts; ranges from fewer texts do not generalise."""
OPSET = 20
"""The first opset with Gelu."""
_IR = 10
_MICROSOFT_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's contrib operators."""
_LARGEST_DIFFERENCE = 1e-4
_OPTIONAL = {"onnx": "onnx", "onnxruntime": "onnx", "openvino": "openvino", "nncf": "openvino"}
"""The extra that provides each package."""


class ExportError(LannerError):
    """The exported graph's output differs from the encoder's."""


def export_onnx(encoder: CompactEncoder) -> bytes:
    """Export to ONNX: ``ids`` and ``mask``, int64 ``[B, L]``, to ``vectors``, float32 ``[B, D]``.

    Raises:
        ExportError: a vector differs from the encoder's by more than 1e-4.
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    content: bytes = _Graph(encoder).model().SerializeToString()
    _require_equal(encoder, content)
    return content


def quantise_dynamic(onnx_bytes: bytes) -> bytes:
    """INT8 weights with one scale per output channel; activations are quantised dynamically.

    Raises:
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    quantization = _module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            _prepared(onnx_bytes),
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            # 7-bit weights: CPUs without VNNI accumulate two 8-bit products in 16 bits, which overflows; scores were
            # off by an eighth.
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            # Attention scores and mixtures multiply two activations: small, and slow to quantise.
            extra_options={"MatMulConstBOnly": True},
        )
        return target.read_bytes()


def quantise_openvino(onnx_bytes: bytes, calibration: Sequence[NDArray[np.int32]]) -> tuple[bytes, bytes]:
    """INT8 weights and activations for OpenVINO, by NNCF's post-training quantisation for transformers.

    Returns:
        The model's XML and weights, to be stored as ``*.xml`` and ``*.bin``.

    Raises:
        ConfigError: fewer than 8 texts. MissingExtraError: OpenVINO or NNCF is not installed.
    """
    if len(calibration) < FEWEST_CALIBRATION_TEXTS:
        raise ConfigError(
            f"INT8 calibration needs at least {FEWEST_CALIBRATION_TEXTS} texts, received {len(calibration)}"
        )
    openvino, nncf = _module("openvino"), _module("nncf")
    range_estimator = _module("nncf.quantization.range_estimator")
    # One text per batch, as in production.
    texts = [np.asarray(ids, np.int64) for ids in calibration]
    # Not NNCF's own function: it also changes handlers shared with others.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    # NNCF prints progress bars to stdout, which is for results.
    with redirect_stdout(io.StringIO()):
        quantised = nncf.quantize(
            openvino.Core().read_model(onnx_bytes),
            nncf.Dataset([{"ids": ids[None], "mask": np.ones_like(ids[None])} for ids in texts]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # As ``reduce_range`` above; min/max ranges, since the mean of ranges would clip activations.
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=range_estimator.RangeEstimatorParametersSet.MINMAX,
            ),
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.xml"
        openvino.save_model(quantised, target)
        return target.read_bytes(), target.with_suffix(".bin").read_bytes()


def _prepared(onnx_bytes: bytes) -> Any:
    """The model, marked as preprocessed to silence ONNX Runtime's warning; there is nothing to fold."""
    model = _module("onnx").load_from_string(onnx_bytes)
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return model


class _Graph:
    """Accumulates the nodes and constants of a model."""

    def __init__(self, encoder: CompactEncoder) -> None:
        self.onnx = _module("onnx")
        self.shape = encoder.shape
        self.nodes: list[Any] = []
        self.numbers: list[Any] = []
        self.shapes: list[Any] = []
        hidden = self._embedded(encoder)
        for number, layer in enumerate(encoder.layers):
            assert isinstance(layer, EncoderLayer)
            hidden = self._layer(f"layer{number}", layer, hidden)
        self._pooled(hidden)

    def model(self) -> Any:
        helper, kind = self.onnx.helper, self.onnx.TensorProto
        tokens = [helper.make_tensor_value_info(name, kind.INT64, ["batch", "length"]) for name in ("ids", "mask")]
        vectors = helper.make_tensor_value_info("vectors", kind.FLOAT, ["batch", self.shape.hidden])
        graph = helper.make_graph(
            self.nodes, "sentence_encoder", tokens, [vectors], self.numbers, value_info=self.shapes
        )
        operators = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT_DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=operators, ir_version=_IR)
        self.onnx.checker.check_model(model)
        return model

    def _embedded(self, encoder: CompactEncoder) -> str:
        self._node("Cast", "mask", name="mask_BL", to=self.onnx.TensorProto.FLOAT)
        self._node("Cast", "mask", name="padding_BL", to=self.onnx.TensorProto.INT32)
        words = self._node("Gather", self._number("words", encoder.words.weight), "ids", name="words_BLD")
        length = self._node("Shape", "ids", start=1, end=2)
        place = [self._number("positions", encoder.positions.weight), self._number("first", [0]), length]
        embedded = self._node("Add", words, self._node("Slice", *place))
        return self._norm("embeddings", encoder.norm, embedded)

    def _layer(self, name: str, layer: EncoderLayer, hidden: str) -> str:
        mixed = self._attention(name, layer, self._linear(f"{name}.attend", layer.attend, hidden))
        joined = self._linear(f"{name}.join", layer.join, mixed)
        hidden = self._norm(f"{name}.attention_norm", layer.attention_norm, self._node("Add", hidden, joined))
        wide = self._node("Gelu", self._linear(f"{name}.widen", layer.widen, hidden))
        narrow = self._linear(f"{name}.narrow", layer.narrow, wide)
        return self._norm(f"{name}.norm", layer.norm, self._node("Add", hidden, narrow))

    def _attention(self, name: str, layer: EncoderLayer, projected: str) -> str:
        """Uses an ONNX Runtime operator that OpenVINO also supports; standard operators take a fifth longer."""
        helper, width = self.onnx.helper, layer.heads * layer.head_size
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        self.nodes.append(helper.make_node("Split", [projected], parts, name=f"{name}.parts", axis=2, num_outputs=3))
        # The query weights include the scale.
        settings: dict[str, Any] = {"num_heads": layer.heads, "scale": 1.0, "mask_filter_value": MASKED}
        inputs = [*parts, "", "padding_BL"]
        mixed = self._node("MultiHeadAttention", *inputs, domain=_MICROSOFT_DOMAIN, **settings)
        # Shapes are inferred for standard operators only, and later ones need it.
        shape = ["batch", "length", width]
        self.shapes.append(helper.make_tensor_value_info(mixed, self.onnx.TensorProto.FLOAT, shape))
        return mixed

    def _pooled(self, hidden: str) -> None:
        present = self._node("Unsqueeze", "mask_BL", self._number("last_axis", [2]))
        total = self._node("ReduceSum", self._node("Mul", hidden, present), self._number("axis", [1]), keepdims=0)
        length = self._node("ReduceL2", total, self._number("axis", [1]), keepdims=1)
        self._node("Div", total, self._node("Max", length, self._number("shortest", SHORTEST)), name="vectors")

    def _linear(self, name: str, linear: torch.nn.Linear, value: str) -> str:
        product = self._node("MatMul", value, self._number(f"{name}.weight", linear.weight.T), name=f"{name}.product")
        return self._node("Add", product, self._number(f"{name}.bias", linear.bias))

    def _norm(self, name: str, norm: torch.nn.LayerNorm, value: str) -> str:
        scale, bias = self._number(f"{name}.weight", norm.weight), self._number(f"{name}.bias", norm.bias)
        return self._node("LayerNormalization", value, scale, bias, axis=-1, epsilon=norm.eps)

    def _node(self, operation: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name. "" stands for an omitted optional input."""
        output = name or f"{operation.lower()}{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def _number(self, name: str, value: Tensor | float | list[int]) -> str:
        """Add a constant once and return its name. Floats become float32, integers int64."""
        if all(present.name != name for present in self.numbers):
            array = value.detach().numpy() if isinstance(value, Tensor) else np.array(value)
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64, order="C")
            self.numbers.append(self.onnx.numpy_helper.from_array(array, name))
        return name


def _require_equal(encoder: CompactEncoder, content: bytes) -> None:
    """Compare on two random texts, one of them padded."""
    length = min(12, encoder.shape.positions)
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, encoder.shape.vocabulary, size, np.int32) for size in (length, max(1, length // 2))]
    expected, found = vectors_of(encoder, texts), onnx_vectors(content, texts, encoder.shape.hidden)
    difference = float(np.abs(found - expected).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise ExportError(f"the ONNX model's vectors differ from the encoder's by {difference:.1e}; please report this")


def onnx_vectors(content: bytes, token_ids: Sequence[NDArray[np.int32]], hidden: int) -> NDArray[np.float32]:
    """Sentence vectors ``[T, hidden]`` of an exported encoder with ONNX Runtime; zeros for texts without tokens.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = _module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])

    def encode(ids_BL: Tensor, mask_BL: Tensor) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"ids": ids_BL.numpy(), "mask": mask_BL.numpy()})[0])

    return read_in_batches(encode, token_ids, hidden)


def _module(name: str) -> Any:
    package = name.partition(".")[0]
    return optional_module(name, package, _OPTIONAL[package], "the export of an encoder")
