"""One call from a bundle to its ladder: every compression step, judged on validation, timed, and written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from lanner.artifact.export import export_onnx, quantise_dynamic, quantise_openvino
from lanner.artifact.export_network import export_network
from lanner.artifact.ladder import Ladder, Rung, TextReader, write_ladder
from lanner.choices import SPLITS
from lanner.compression.encoder import EncoderRecipe, SmallEncoder, shrink_encoder, whole_encoder
from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import (
    Budget,
    Judge,
    Read,
    Step,
    choose_dimensions,
    choose_neurons,
    popularity_form,
    quantised,
    sample_of_users,
)
from lanner.config import from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.interactions import Dataset
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.language import LanguageEncoder
from lanner.models.neural import NeuralRecommender
from lanner.models.request_form import RequestForm
from lanner.models.text_features import TextFeatures
from lanner.pipeline import open_bundle
from lanner.vocabulary import ConfigError

Announce = Callable[[str], None]
Measure = Callable[[Rung, TextReader | None], Mapping[str, Any]]
"""Times a rung on this machine; the figures go into the ladder."""
_CALIBRATION_TEXTS = 256


@dataclass(frozen=True)
class _Texts:
    """The encoder in the forms the rungs need, as files by role; how texts are read, and by which features."""

    reader: TextReader | None = None
    full: dict[str, bytes] = field(default_factory=dict)
    int8: dict[str, bytes] = field(default_factory=dict)
    pruned: dict[str, bytes] = field(default_factory=dict)
    pruned_int8: dict[str, bytes] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    read: dict[str, Read] = field(default_factory=dict)


def compress(
    path: Path,
    budget: Budget | None = None,
    recipe: EncoderRecipe | None = None,
    measure: Measure = lambda rung, reader: {},
    announce: Announce = lambda _: None,
) -> Ladder:
    """Write the ladder of the bundle at ``path``: full → int8 → pruned → distilled → popularity.

    Raises:
        ConfigError: the bundle's model has no compressed form. BundleError: no bundle there, or a damaged one.
    """
    budget, recipe = budget or Budget(), recipe or EncoderRecipe()
    bundle = open_bundle(path)
    model = bundle.recommender
    if not isinstance(model, NeuralRecommender):
        name = bundle.manifest["model"]["name"]
        raise ConfigError(f"the model '{name}' has no compressed form; compress a gnn, language or hybrid bundle")
    config = from_dict(bundle.config)
    validation = SPLITS[config.split.name](bundle.dataset, config.split).validation
    announce("split the ranking head, and solve the closed form without the validation events, to judge by them")
    form, twin = RequestForm.of(model), RequestForm.of(model.unaware())
    texts = _texts(model, model.dataset, recipe, announce)
    read = texts.read.get("full")
    judge = Judge(twin, validation, read, budget.max_ndcg_loss)
    users, twin_users = (_users(one, model.dataset, read) for one in (form, twin))
    announce("judge INT8, and search the fewest neurons and dimensions")
    as_int8 = judge.step("int8", quantised(twin), texts.read.get("full"))
    number = choose_neurons(judge, twin, twin_users, read)
    pruned, pruned_twin = (fewer_neurons(one, u, number or 1) for one, u in ((form, users), (twin, twin_users)))
    as_pruned = judge.step("pruned", pruned_twin, texts.read.get("pruned"))
    rank = choose_dimensions(judge, pruned_twin, twin_users, texts.read.get("pruned"))
    small, small_twin = (
        one if rank == form.dimensions else fewer_dimensions(one, u, rank)
        for one, u in ((pruned, users), (pruned_twin, twin_users))
    )
    as_distilled = judge.step("distilled", quantised(small_twin), texts.read.get("pruned"))
    popular = popularity_form(form, np.bincount(model.dataset.interactions.item, minlength=form.num_items))
    as_popular = judge.step("popularity", popular, None)
    rungs = [
        _rung(judge.steps[0], form, texts.full, texts.figures.get("full")),
        _rung(as_int8, quantised(form), texts.int8, texts.figures.get("full")),
        _rung(as_pruned, pruned, texts.pruned, texts.figures.get("pruned")),
        _rung(as_distilled, quantised(small), texts.pruned_int8, texts.figures.get("pruned")),
        _rung(as_popular, popular, {}, None),
    ]
    announce("measure every rung")
    measured = [Rung(r.name, r.form, r.files, {**r.figures, **measure(r, texts.reader)}) for r in rungs]
    report = {
        "budget": asdict(budget),
        "recipe": asdict(recipe),
        "steps": [asdict(step) for step in judge.steps],
        "best": min((rung for rung in measured if rung.figures["kept"]), key=_cost(budget.target)).name,
    }
    announce(f"write {path}/ladder")
    return write_ladder(path, measured, texts.reader, report)


def _rung(step: Step, form: RequestForm, encoder: dict[str, bytes], figures: dict[str, Any] | None) -> Rung:
    # The network of an INT8 rung multiplies what its codes stand for: users' vectors as INT8 cost ml-1m 8 % of ndcg.
    judged = {key: value for key, value in asdict(step).items() if key != "name"}
    files = {"network.onnx": export_network(form), **encoder}
    return Rung(step.name, form, files, {**judged, "dimensions": form.dimensions, **(figures or {})})


def _cost(target: str) -> Callable[[Rung], float]:
    """What the best rung has least of. Where no time was measured, fewer bytes are taken to be quicker."""

    def milliseconds(rung: Rung) -> float:
        by_backend = rung.figures.get("latency", {}).values()
        times = [one["score_p50_ms"]["1"] + one.get("encode_p50_ms", 0.0) for one in by_backend]
        return min(times, default=float(rung.num_bytes))

    return milliseconds if target == "latency" else lambda rung: float(rung.num_bytes)


def _users(form: RequestForm, dataset: Dataset, read: Read | None) -> NDArray[np.float32]:
    batch = dataset.user_batch()
    features = None if read is None or batch.profiles is None else read(batch.profiles)
    return sample_of_users(form, batch, features)


def _texts(model: NeuralRecommender, dataset: Dataset, recipe: EncoderRecipe, announce: Announce) -> _Texts:
    features, language = model.features, model.encoder
    if features is None:
        return _Texts()
    announce("measure the encoder, prune it, and teach it from the whole one")
    teacher = whole_encoder(language)
    fields = sorted({field for text in dataset.item_catalogue.texts for field in text.split(FIELD_SEPARATOR)})
    fields += sorted(set(dataset.user_catalogue.texts))
    small = shrink_encoder(language, teacher, fields, recipe)
    ids = language.token_ids(fields)
    chosen = np.random.default_rng(recipe.seed).permutation(len(ids))[:_CALIBRATION_TEXTS]
    calibration = [ids[row] for row in chosen if len(ids[row])]
    vocabulary = save_arrays({"new_id": small.new_id})
    whole_onnx, small_onnx = export_onnx(teacher), export_onnx(small.encoder)
    announce("quantise the encoder")
    return _Texts(
        TextReader(features, language.tokeniser_json, language.longest),
        _files(teacher, whole_onnx),
        _files(teacher, quantise_dynamic(whole_onnx), quantise_openvino(whole_onnx, calibration)),
        _files(small.encoder, small_onnx, vocabulary=vocabulary),
        _files(
            small.encoder,
            quantise_dynamic(small_onnx),
            quantise_openvino(small_onnx, [small.new_id[one] for one in calibration]),
            vocabulary=vocabulary,
        ),
        {"full": {"encoder_shape": asdict(teacher.shape)}, "pruned": _pruned_figures(teacher, small)},
        _readers(features, language, teacher, small),
    )


def _files(
    encoder: CompactEncoder, onnx: bytes, openvino: tuple[bytes, bytes] | None = None, vocabulary: bytes | None = None
) -> dict[str, bytes]:
    files = {"encoder.safetensors": save_tensors(dict(encoder.state_dict())), "encoder.onnx": onnx}
    if openvino is not None:
        files |= {"encoder.xml": openvino[0], "encoder.bin": openvino[1]}
    return files if vocabulary is None else files | {"encoder.vocabulary.safetensors": vocabulary}


def _pruned_figures(teacher: CompactEncoder, small: SmallEncoder) -> dict[str, Any]:
    return {
        "encoder_shape": asdict(small.encoder.shape),
        "encoder_cosine": small.cosine,
        "encoder_cosine_before_recovery": small.cosine_before,
        "encoder_parameter_share_removed": 1 - small.encoder.num_parameters / teacher.num_parameters,
        "encoder_layer_parameter_share_removed": 1 - small.encoder.num_layer_parameters / teacher.num_layer_parameters,
    }


def _readers(
    features: TextFeatures, language: LanguageEncoder, teacher: CompactEncoder, small: SmallEncoder
) -> dict[str, Read]:
    """Profiles to features by each encoder, float32: what the judge sees."""

    def encode(encoder: CompactEncoder, new_id: NDArray[np.int32] | None, texts: Sequence[str]) -> NDArray[np.float32]:
        distinct = list(dict.fromkeys(texts))
        ids = language.token_ids(distinct)
        vectors = vectors_of(encoder, ids if new_id is None else [new_id[one] for one in ids])
        place = {text: row for row, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    def read(of: Callable[[Sequence[str]], NDArray[np.float32]], profiles: Sequence[str]) -> NDArray[np.float32]:
        distinct = list(dict.fromkeys(profiles))
        known = dict(zip(distinct, features.transform(distinct, of), strict=True))
        return np.stack([known[text] for text in profiles])

    whole, pruned = (
        partial(read, partial(encode, teacher, None)),
        partial(read, partial(encode, small.encoder, small.new_id)),
    )
    return {"full": whole, "pruned": pruned}
