"""The bundle parts of models that use texts, beside the model; for other models, torch is not imported."""

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from lanner.artifacts.variants import FULL, TextFiles, Variant
from lanner.models.recommender import Recommender


def serving_parts(recommender: Recommender) -> dict[str, Any]:
    """Arguments of ``write_bundle`` for encoding texts while serving: ``full``, ``texts``, ``items``.

    Empty for a recommender that does not use texts.
    """
    if recommender.reader is None:
        return {}
    from lanner.artifacts.encoder_files import saved
    from lanner.artifacts.export import export_onnx
    from lanner.compression.encoder import whole_encoder
    from lanner.models.neural import TrainedRecommender

    if not isinstance(recommender, TrainedRecommender) or recommender.text_features is None:
        return {}
    language = recommender.encoder
    encoder = whole_encoder(language)
    files = {"encoder.safetensors": saved(encoder)}
    if find_spec("onnx") is not None and find_spec("onnxruntime") is not None:
        files["encoder.onnx"] = export_onnx(encoder)
    return {
        "full": Variant(FULL, recommender.scoring_model, files, {"encoder_shape": asdict(encoder.shape)}),
        "texts": TextFiles(recommender.text_features, language.tokenizer_json, language.longest),
        "items": recommender.item_reader,
    }
