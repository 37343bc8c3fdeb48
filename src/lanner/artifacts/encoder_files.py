"""An encoder in every format that a bundle keeps: as files by role, and as what reads texts to evaluate it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from lanner.artifacts.export import export_onnx, onnx_vectors, quantise_dynamic, quantise_openvino
from lanner.artifacts.variants import FULL, TextFiles, Variant
from lanner.compression.encoder import whole_encoder
from lanner.compression.steps import Read
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.neural import NeuralRecommender
from lanner.models.recommender import Recommender
from lanner.models.text_features import TextFeatures

Tokenize = Callable[[Sequence[str]], Sequence[NDArray[np.int32]]]
"""Texts to the ids of the tokenizer."""


@dataclass(frozen=True)
class EncoderForm:
    """One form of an encoder. files: by role. figures: what is said of it. read: how profiles are read by it."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    read: Read | None = None


class EncoderFiles:
    """Makes the forms of one encoder.

    new_id: its own id of each of the tokenizer's tokens, None where they are the same. calibration: the tokenizer's ids
    of texts, off which the ranges of activations are read. profiles: all that an evaluation will read.
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
        """As it is, for every runtime."""
        return self._form(
            {"encoder.safetensors": _saved(self._encoder), "encoder.onnx": self._onnx},
            lambda texts: vectors_of(self._encoder, self._own(texts)),
        )

    def int8(self) -> EncoderForm:
        """INT8 with scales anew for each request, or calibrated ones (OpenVINO); torch has float32."""
        dynamic = quantise_dynamic(self._onnx)
        xml, numbers = quantise_openvino(self._onnx, self._calibration)
        files = {"encoder.onnx": dynamic, "encoder.xml": xml, "encoder.bin": numbers}
        return self._form(
            {"encoder.safetensors": _saved(self._encoder), **files},
            lambda texts: onnx_vectors(dynamic, self._own(texts), self._encoder.shape.hidden),
        )

    def _form(self, files: Mapping[str, bytes], encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> EncoderForm:
        """Read once: few profiles differ, and an evaluation asks for them again and again."""
        features = self._features.transform(self._profiles, encode)
        known = dict(zip(self._profiles, features, strict=True))
        return EncoderForm(
            {**self._vocabulary, **files}, self._figures, lambda texts: np.stack([known[text] for text in texts])
        )


def _saved(encoder: CompactEncoder) -> bytes:
    return bytes(save_tensors(dict(encoder.state_dict())))


def serving_parts(recommender: Recommender) -> dict[str, Any]:
    """What ``write_bundle`` adds so that texts are read wherever the bundle is served: ``full``, ``texts``, ``items``.

    Empty for a recommender that reads none.
    """
    if not isinstance(recommender, NeuralRecommender) or recommender.text_features is None:
        return {}
    language = recommender.encoder
    encoder = whole_encoder(language)
    files = {"encoder.safetensors": _saved(encoder)}
    if find_spec("onnx") is not None and find_spec("onnxruntime") is not None:
        files["encoder.onnx"] = export_onnx(encoder)
    return {
        "full": Variant(FULL, recommender.scoring_model, files, {"encoder_shape": asdict(encoder.shape)}),
        "texts": TextFiles(recommender.text_features, language.tokenizer_json, language.longest),
        "items": recommender.item_reader,
    }
