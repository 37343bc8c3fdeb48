"""One call from a bundle to its ladder: every compression step, judged on validation, timed, and written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from lanner.models.neural import NeuralRecommender
from lanner.models.request_form import RequestForm
from lanner.models.request_network import item_reader, request_form
from lanner.pipeline import open_bundle
from lanner.vocabulary import ConfigError

Announce = Callable[[str], None]
Measure = Callable[[Rung, TextReader | None], Mapping[str, Any]]
"""Times a rung on this machine; the figures go into the ladder."""
_CALIBRATION_TEXTS = 256


@dataclass(frozen=True)
class _Encoder:
    """One encoder as a ladder keeps it: files by role, what is said of it, and how a judge reads profiles by it."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    int8_files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    read: Read | None = None


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
    form, twin = request_form(model), request_form(model.unaware())
    reader, whole, small_encoder = _encoders(model, recipe, announce)
    judge = Judge(twin, validation, whole.read, budget.max_ndcg_loss)
    users, twin_users = (_users(one, model.dataset, whole.read) for one in (form, twin))
    announce("judge INT8, and search the fewest neurons and dimensions")
    as_int8 = judge.step("int8", quantised(twin), whole.read)
    number = choose_neurons(judge, twin, twin_users, whole.read)
    pruned, pruned_twin = (fewer_neurons(one, u, number) for one, u in ((form, users), (twin, twin_users)))
    as_pruned = judge.step("pruned", pruned_twin, small_encoder.read)
    rank = choose_dimensions(judge, pruned_twin, twin_users, small_encoder.read)
    small, small_twin = (
        one if rank == form.dimensions else fewer_dimensions(one, u, rank)
        for one, u in ((pruned, users), (pruned_twin, twin_users))
    )
    as_distilled = judge.step("distilled", quantised(small_twin), small_encoder.read)
    popular = popularity_form(form, np.bincount(model.dataset.interactions.item, minlength=form.num_items))
    as_popular = judge.step("popularity", popular, None)
    rungs = [
        _rung(judge.steps[0], form, whole.files, whole.figures),
        _rung(as_int8, quantised(form), whole.int8_files, whole.figures),
        _rung(as_pruned, pruned, small_encoder.files, small_encoder.figures),
        _rung(as_distilled, quantised(small), small_encoder.int8_files, small_encoder.figures),
        _rung(as_popular, popular, {}, {}),
    ]
    announce("measure every rung")
    measured = [Rung(r.name, r.form, r.files, {**r.figures, **measure(r, reader)}) for r in rungs]
    report = {
        "budget": asdict(budget),
        "recipe": asdict(recipe),
        "steps": [asdict(step) for step in judge.steps],
        "best": min((rung for rung in measured if rung.figures["kept"]), key=_cost(budget.target)).name,
    }
    announce(f"write {path}/ladder")
    return write_ladder(path, measured, reader, report, item_reader(model))


def _rung(step: Step, form: RequestForm, encoder: Mapping[str, bytes], figures: Mapping[str, Any]) -> Rung:
    # The network of an INT8 rung multiplies what its codes stand for: users' vectors as INT8 cost ml-1m 8 % of ndcg.
    judged = {key: value for key, value in asdict(step).items() if key != "name"}
    files = {"network.onnx": export_network(form), **encoder}
    return Rung(step.name, form, files, {**judged, "dimensions": form.dimensions, **figures})


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


def _encoders(
    model: NeuralRecommender, recipe: EncoderRecipe, announce: Announce
) -> tuple[TextReader | None, _Encoder, _Encoder]:
    """How texts are read, and the encoder whole and small; nothing where no texts are."""
    features, language, dataset = model.features, model.encoder, model.dataset
    if features is None:
        return None, _Encoder(), _Encoder()
    announce("measure the encoder, prune it, and teach it from the whole one")
    teacher = whole_encoder(language)
    profiles = sorted(set(dataset.user_catalogue.texts))
    fields = sorted({field for text in dataset.item_catalogue.texts for field in text.split(FIELD_SEPARATOR)})
    small = shrink_encoder(language, teacher, [*fields, *profiles], recipe)
    ids = language.token_ids([*fields, *profiles])
    chosen = np.random.default_rng(recipe.seed).permutation(len(ids))[:_CALIBRATION_TEXTS]
    calibration = [ids[row] for row in chosen if len(ids[row])]
    announce("quantise the encoder")

    def as_kept(encoder: CompactEncoder, new_id: NDArray[np.int32] | None, figures: dict[str, Any]) -> _Encoder:
        def own(ids: Sequence[NDArray[np.int32]]) -> Sequence[NDArray[np.int32]]:
            return ids if new_id is None else [new_id[one] for one in ids]

        onnx, same = export_onnx(encoder), {"encoder.safetensors": save_tensors(dict(encoder.state_dict()))}
        if new_id is not None:
            same["encoder.vocabulary.safetensors"] = save_arrays({"new_id": new_id})
        xml, numbers = quantise_openvino(onnx, own(calibration))
        int8 = {"encoder.onnx": quantise_dynamic(onnx), "encoder.xml": xml, "encoder.bin": numbers}
        read = features.transform(profiles, lambda texts: vectors_of(encoder, own(language.token_ids(texts))))
        known = dict(zip(profiles, read, strict=True))
        return _Encoder(
            {**same, "encoder.onnx": onnx},
            {**same, **int8},
            {"encoder_shape": asdict(encoder.shape), **figures},
            lambda texts: np.stack([known[text] for text in texts]),
        )

    whole = as_kept(teacher, None, {})
    pruned = as_kept(small.encoder, small.new_id, _pruned_figures(teacher, small))
    return TextReader(features, language.tokeniser_json, language.longest), whole, pruned


def _pruned_figures(teacher: CompactEncoder, small: SmallEncoder) -> dict[str, Any]:
    return {
        "encoder_cosine": small.cosine,
        "encoder_cosine_before_recovery": small.cosine_before,
        "encoder_parameter_share_removed": 1 - small.encoder.num_parameters / teacher.num_parameters,
        "encoder_layer_parameter_share_removed": 1 - small.encoder.num_layer_parameters / teacher.num_layer_parameters,
    }
