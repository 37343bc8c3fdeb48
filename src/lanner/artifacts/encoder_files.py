"""A text encoder in every file format of a bundle, and as a function for evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from lanner.artifacts.export import export_onnx, onnx_vectors, quantise_dynamic, quantise_openvino
from lanner.compression.steps import Read
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.text_features import TextFeatures

Tokenize = Callable[[Sequence[str]], Sequence[NDArray[np.int32]]]
"""From texts to token ids."""


@dataclass(frozen=True)
class EncoderForm:
    """One form of an encoder. files: by role. figures: its metadata. read: encodes profiles with it."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    read: Read | None = None


class EncoderFiles:
    """Creates the forms of one encoder.

    new_id: the encoder's id of each of the tokenizer's tokens, None if equal. calibration: token ids of texts for the
    activation ranges. profiles: all texts that the evaluation will read.
    """

    def __init__(
        self,
        encoder: CompactEncoder,
        new_id: NDArray[np.int32] | None,
        features: TextFeatures,
        tokenize: Tokenize,
        calibration: Sequence[NDArray[np.int32]],
        profiles: Sequence[str],
        figures: Mapping[str, Any],
    ) -> None:
        self._encoder, self._features, self._profiles = encoder, features, profiles
        self._figures = {"encoder_shape": asdict(encoder.shape), **figures}
        self._own: Tokenize = lambda texts: tokenize(texts) if new_id is None else [new_id[i] for i in tokenize(texts)]
        self._calibration = calibration if new_id is None else [new_id[ids] for ids in calibration]
        self._vocabulary = {}
        if new_id is not None:
            self._vocabulary["encoder.vocabulary.safetensors"] = save_arrays({"new_id": new_id})
        self._onnx = export_onnx(encoder)

    def float32(self) -> EncoderForm:
        """Unquantised, for every runtime."""
        return self._form(
            {"encoder.safetensors": saved(self._encoder), "encoder.onnx": self._onnx},
            lambda texts: vectors_of(self._encoder, self._own(texts)),
        )

    def int8(self) -> EncoderForm:
        """INT8: dynamic quantisation (ONNX Runtime) and static quantisation (OpenVINO); torch uses float32."""
        dynamic = quantise_dynamic(self._onnx)
        xml, numbers = quantise_openvino(self._onnx, self._calibration)
        files = {"encoder.onnx": dynamic, "encoder.xml": xml, "encoder.bin": numbers}
        return self._form(
            {"encoder.safetensors": saved(self._encoder), **files},
            lambda texts: onnx_vectors(dynamic, self._own(texts), self._encoder.shape.hidden),
        )

    def _form(self, files: Mapping[str, bytes], encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> EncoderForm:
        """Encoded once and cached: an evaluation reads the same few profiles repeatedly."""
        features = self._features.transform(self._profiles, encode)
        known = dict(zip(self._profiles, features, strict=True))
        return EncoderForm(
            {**self._vocabulary, **files}, self._figures, lambda texts: np.stack([known[text] for text in texts])
        )


def saved(encoder: CompactEncoder) -> bytes:
    """The encoder's weights as safetensors."""
    return bytes(save_tensors(dict(encoder.state_dict())))
