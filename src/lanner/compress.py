"""One call from a bundle to its ladder: every compression step, judged on validation, timed, and written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.encoder_files import EncoderFiles, EncoderForm
from lanner.artifacts.export_network import export_network
from lanner.artifacts.ladder import Ladder, Rung, TextReader, TextSample, write_ladder
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
from lanner.errors import ConfigError
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.neural import NeuralRecommender
from lanner.models.request_form import RequestForm
from lanner.models.request_network import item_reader, request_form
from lanner.pipeline import open_bundle
from lanner.registry import SPLITS

Announce = Callable[[str], None]
Measure = Callable[[Rung, TextReader | None, TextSample | None, Sequence[str] | None], Mapping[str, Any]]
"""Times a rung on this machine, in the runtimes named or in all; the figures go into the ladder."""
_CALIBRATION_TEXTS = 256
_JUDGED_TEXTS = 64
"""Read twice by every form in every runtime: seconds each."""


_ON = {"bf16": ("torch",), "int8-static": ("onnxruntime",)}
"""Forms of the encoder that are tried and told of, and the runtime that reads each. The ladder does not hold them: on
the machines met so far the rung of INT8 was quicker than either."""


@dataclass(frozen=True)
class _Encoders:
    """How texts are read, texts to judge encoders by, and the encoder's forms: those of the rungs, and those tried."""

    reader: TextReader | None
    sample: TextSample | None
    full: EncoderForm
    int8: EncoderForm
    pruned: EncoderForm
    pruned_int8: EncoderForm
    tried: Mapping[str, EncoderForm]


def compress(
    path: Path,
    budget: Budget | None = None,
    recipe: EncoderRecipe | None = None,
    measure: Measure = lambda *_: {},
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
    texts = _encoders(model, recipe, announce)
    judge = Judge(twin, validation, texts.full.read, budget.max_ndcg_loss)
    users, twin_users = (_users(one, model.dataset, texts.full.read) for one in (form, twin))
    announce("judge INT8, and search the fewest neurons and dimensions")
    tried = [_rung(judge.step(name, twin, one.read), form, one) for name, one in texts.tried.items()]
    as_int8 = judge.step("int8", quantised(twin), texts.int8.read)
    number = choose_neurons(judge, twin, twin_users, texts.full.read)
    pruned, pruned_twin = (fewer_neurons(one, u, number) for one, u in ((form, users), (twin, twin_users)))
    as_pruned = judge.step("pruned", pruned_twin, texts.pruned.read)
    rank = choose_dimensions(judge, pruned_twin, twin_users, texts.pruned_int8.read)
    small, small_twin = (
        one if rank == form.dimensions else fewer_dimensions(one, u, rank)
        for one, u in ((pruned, users), (pruned_twin, twin_users))
    )
    as_distilled = judge.step("distilled", quantised(small_twin), texts.pruned_int8.read)
    popular = popularity_form(form, np.bincount(model.dataset.interactions.item, minlength=form.num_items))
    as_popular = judge.step("popularity", popular, None)
    rungs = [
        _rung(judge.steps[0], form, texts.full),
        _rung(as_int8, quantised(form), texts.int8),
        _rung(as_pruned, pruned, texts.pruned),
        _rung(as_distilled, quantised(small), texts.pruned_int8),
        _rung(as_popular, popular, EncoderForm()),
    ]
    announce("measure every rung")
    measured = [_measured(rung, texts, measure, None) for rung in rungs]
    report = {
        "budget": asdict(budget),
        "recipe": asdict(recipe),
        "steps": [asdict(step) for step in judge.steps],
        "tried": {rung.name: dict(_measured(rung, texts, measure, _ON[rung.name]).figures) for rung in tried},
        "best": min((rung for rung in measured if rung.figures["kept"]), key=_cost(budget.target)).name,
    }
    announce(f"write {path}/ladder")
    return write_ladder(path, measured, texts.reader, report, item_reader(model))


def _rung(step: Step, form: RequestForm, encoder: EncoderForm) -> Rung:
    # The network of an INT8 rung multiplies what its codes stand for: users' vectors as INT8 cost ml-1m 8 % of ndcg.
    judged = {key: value for key, value in asdict(step).items() if key != "name"}
    files = {"network.onnx": export_network(form), **encoder.files}
    return Rung(step.name, form, files, {**judged, "dimensions": form.dimensions, **encoder.figures})


def _measured(rung: Rung, texts: _Encoders, measure: Measure, backends: Sequence[str] | None) -> Rung:
    found = measure(rung, texts.reader, texts.sample, backends)
    return Rung(rung.name, rung.form, rung.files, {**rung.figures, **found})


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


def _encoders(model: NeuralRecommender, recipe: EncoderRecipe, announce: Announce) -> _Encoders:
    """Nothing where no texts are read."""
    features, language, dataset = model.features, model.encoder, model.dataset
    if features is None:
        unread = EncoderForm()
        return _Encoders(None, None, unread, unread, unread, unread, {})
    announce("measure the encoder, prune it, and teach it from the whole one")
    teacher = whole_encoder(language)
    profiles = sorted(set(dataset.user_catalogue.texts))
    fields = sorted({field for text in dataset.item_catalogue.texts for field in text.split(FIELD_SEPARATOR)})
    small = shrink_encoder(language, teacher, [*fields, *profiles], recipe)
    texts = [*fields, *profiles]
    chosen = [texts[row] for row in np.random.default_rng(recipe.seed).permutation(len(texts))[:_CALIBRATION_TEXTS]]
    calibration = [ids for ids in language.token_ids(chosen) if len(ids)]
    judged = chosen[:_JUDGED_TEXTS]
    sample = TextSample(tuple(judged), vectors_of(teacher, language.token_ids(judged)))
    announce("quantise the encoder")
    shared = (features, language.token_ids, calibration, profiles)
    whole = EncoderFiles(teacher, None, *shared, {})
    fewer = EncoderFiles(small.encoder, small.new_id, *shared, _pruned_figures(teacher, small))
    return _Encoders(
        TextReader(features, language.tokeniser_json, language.longest),
        sample,
        whole.float32(),
        whole.int8(),
        fewer.float32(),
        fewer.int8(),
        {"bf16": whole.bfloat16(), "int8-static": whole.static_int8()},
    )


def _pruned_figures(teacher: CompactEncoder, small: SmallEncoder) -> dict[str, Any]:
    return {
        "encoder_cosine": small.cosine,
        "encoder_cosine_before_recovery": small.cosine_before,
        "encoder_parameter_share_removed": 1 - small.encoder.num_parameters / teacher.num_parameters,
        "encoder_layer_parameter_share_removed": 1 - small.encoder.num_layer_parameters / teacher.num_layer_parameters,
    }
