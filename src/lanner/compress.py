"""From a bundle to a smaller one: every compression step, evaluated on validation, timed, and written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import Bundle, write_compressed
from lanner.artifacts.encoder_files import EncoderFiles, EncoderForm
from lanner.artifacts.variants import POPULARITY, TextFiles, Variant
from lanner.compression.encoder import EncoderRecipe, SmallEncoder, shrink_encoder, whole_encoder
from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import (
    Budget,
    Evaluator,
    Read,
    Step,
    choose_dimensions,
    choose_neurons,
    quantised,
    sample_of_users,
)
from lanner.config import from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.interactions import Dataset
from lanner.errors import ConfigError
from lanner.inference.scoring_model import ScoringModel, popularity_model
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.neural import NeuralRecommender
from lanner.models.recommender import Recommender
from lanner.pipeline import open_bundle
from lanner.registry import SPLITS

Announce = Callable[[str], None]
Measure = Callable[[Variant, TextFiles | None, "TextSample | None", Sequence[str] | None], Mapping[str, Any]]
"""Times a variant on this machine, in the runtimes named or in all; the figures go into the bundle."""
_CALIBRATION_TEXTS = 256
_COMPARED_TEXTS = 64
"""Read twice by every form in every runtime: seconds each."""


_ON = {"bf16": ("torch",), "int8-static": ("onnxruntime",)}
"""Formats of the encoder that are tried and reported, and the runtime that reads each. A bundle does not hold them: on
the machines met so far INT8 with scales anew for each request was quicker than either."""


@dataclass(frozen=True)
class TextSample:
    """Texts of the catalogue, and the vectors float32 ``[T, E]`` that the whole encoder gives them."""

    texts: tuple[str, ...]
    vectors_TE: NDArray[np.float32]


@dataclass(frozen=True)
class _Encoders:
    """Texts to compare encoders by, and the encoder's formats: those of the variants, and those tried."""

    sample: TextSample | None
    full: EncoderForm
    int8: EncoderForm
    pruned: EncoderForm
    pruned_int8: EncoderForm
    tried: Mapping[str, EncoderForm]


def compress(
    path: Path,
    out: Path | None = None,
    budget: Budget | None = None,
    recipe: EncoderRecipe | None = None,
    measure: Measure = lambda *_: {},
    announce: Announce = lambda _: None,
) -> Bundle:
    """Write a new bundle with smaller variants of the one at ``path``: full → int8 → pruned → distilled → popularity.

    out: None: ``path`` with ``-compressed`` at its end. A model without dense vectors has nothing to be made smaller:
    its new bundle has the full variant and popularity, evaluated and timed.

    Raises:
        ConfigError: ``out`` is ``path``. BundleError: no bundle there, or a damaged one. StorageError: the disk
            refused.
    """
    out = path.with_name(f"{path.name}-compressed") if out is None else out
    if out.absolute() == path.absolute():
        raise ConfigError(f"{out} is the bundle that is compressed; give another folder for the new one")
    budget, recipe = budget or Budget(), recipe or EncoderRecipe()
    bundle = open_bundle(path)
    model, config = bundle.recommender, from_dict(bundle.config)
    validation = SPLITS[config.split.name](bundle.dataset, config.split).validation
    announce("solve closed forms without the validation events, to evaluate by them")
    full, twin = model.scoring_model, _twin(model).scoring_model
    texts = _encoders(model, recipe, announce)
    evaluator = Evaluator(twin, validation, texts.full.read, budget.max_ndcg_loss)
    announce("evaluate INT8, and search the fewest neurons and dimensions")
    tried = [_variant(evaluator.step(name, twin, one.read), full, one) for name, one in texts.tried.items()]
    variants = [_variant(evaluator.steps[0], full, texts.full)]
    if full.dimensions:
        variants += _smaller(evaluator, full, twin, texts, model.dataset)
    if full.is_personal:
        popular = popularity_model(full.popularity_I, full.dimensions)
        variants.append(_variant(evaluator.step(POPULARITY, popular, None), popular, EncoderForm()))
    announce("time every variant")
    measured = [_measured(one, bundle.text_files, texts.sample, measure, None) for one in variants]
    timed = [_measured(one, bundle.text_files, texts.sample, measure, _ON[one.name]) for one in tried]
    report = {
        "budget": asdict(budget),
        "recipe": asdict(recipe),
        "steps": [asdict(step) for step in evaluator.steps],
        "tried": {one.name: dict(one.figures) for one in timed},
        "best": min((one for one in measured if one.figures["kept"]), key=_cost(budget.target)).name,
    }
    announce(f"write {out}")
    return open_bundle(write_compressed(out, bundle, measured, report))


def _twin(model: Recommender) -> Recommender:
    """The model as if it had never seen the validation events, where it can be had without training it anew."""
    return model.unaware() if isinstance(model, NeuralRecommender) else model


def _smaller(
    evaluator: Evaluator, full: ScoringModel, twin: ScoringModel, texts: _Encoders, dataset: Dataset
) -> list[Variant]:
    """int8, pruned and distilled; a step that removes nothing is left out."""
    users, twin_users = (_users(one, dataset, texts.full.read) for one in (full, twin))
    variants = [_variant(evaluator.step("int8", quantised(twin), texts.int8.read), quantised(full), texts.int8)]
    number = choose_neurons(evaluator, twin, twin_users, texts.full.read)
    pruned, pruned_twin = (
        one if number == 0 else fewer_neurons(one, u, number) for one, u in ((full, users), (twin, twin_users))
    )
    if number or texts.pruned.files:
        variants.append(_variant(evaluator.step("pruned", pruned_twin, texts.pruned.read), pruned, texts.pruned))
    rank = choose_dimensions(evaluator, pruned_twin, twin_users, texts.pruned_int8.read)
    small, small_twin = (
        one if rank == full.dimensions else fewer_dimensions(one, u, rank)
        for one, u in ((pruned, users), (pruned_twin, twin_users))
    )
    if rank < full.dimensions or len(variants) > 1:
        step = evaluator.step("distilled", quantised(small_twin), texts.pruned_int8.read)
        variants.append(_variant(step, quantised(small), texts.pruned_int8))
    return variants


def _variant(step: Step, model: ScoringModel, encoder: EncoderForm) -> Variant:
    # The head of an INT8 variant multiplies what its codes stand for: users' vectors as INT8 cost ml-1m 8 % of ndcg.
    evaluated = {key: value for key, value in asdict(step).items() if key != "name"}
    return Variant(step.name, model, encoder.files, {**evaluated, "dimensions": model.dimensions, **encoder.figures})


def _measured(
    variant: Variant,
    texts: TextFiles | None,
    sample: TextSample | None,
    measure: Measure,
    backends: Sequence[str] | None,
) -> Variant:
    found = measure(variant, texts, sample, backends)
    return replace(variant, figures={**variant.figures, **found})


def _cost(target: str) -> Callable[[Variant], float]:
    """What the best variant has least of. Where no time was measured, fewer bytes are taken to be quicker."""

    def milliseconds(variant: Variant) -> float:
        by_backend = variant.figures.get("latency", {}).values()
        times = [one["rank_p50_ms"] + one.get("encode_p50_ms", 0.0) for one in by_backend]
        return min(times, default=float(variant.num_bytes))

    return milliseconds if target == "latency" else lambda variant: float(variant.num_bytes)


def _users(model: ScoringModel, dataset: Dataset, read: Read | None) -> NDArray[np.float32]:
    batch = dataset.user_batch()
    features = None if read is None or batch.profiles is None else read(batch.profiles)
    return sample_of_users(model, batch, features)


def _encoders(model: Recommender, recipe: EncoderRecipe, announce: Announce) -> _Encoders:
    """Nothing where no texts are read."""
    if not isinstance(model, NeuralRecommender) or model.text_features is None:
        unread = EncoderForm()
        return _Encoders(None, unread, unread, unread, unread, {})
    features, language, dataset = model.text_features, model.encoder, model.dataset
    announce("prune the encoder, and distil the whole one into it")
    teacher = whole_encoder(language)
    profiles = sorted(set(dataset.user_catalogue.texts))
    fields = sorted({field for text in dataset.item_catalogue.texts for field in text.split(FIELD_SEPARATOR)})
    small = shrink_encoder(language, teacher, [*fields, *profiles], recipe)
    texts = [*fields, *profiles]
    chosen = [texts[row] for row in np.random.default_rng(recipe.seed).permutation(len(texts))[:_CALIBRATION_TEXTS]]
    calibration = [ids for ids in language.token_ids(chosen) if len(ids)]
    compared = chosen[:_COMPARED_TEXTS]
    sample = TextSample(tuple(compared), vectors_of(teacher, language.token_ids(compared)))
    announce("quantise the encoder")
    shared = (features, language.token_ids, calibration, profiles)
    whole = EncoderFiles(teacher, None, *shared, {})
    fewer = EncoderFiles(small.encoder, small.new_id, *shared, _pruned_figures(teacher, small))
    return _Encoders(
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
