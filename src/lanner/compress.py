"""Compress a bundle into smaller variants; each is evaluated on validation events, benchmarked and reported."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import contract_of, in_int8, statement
from lanner.artifacts.bundle import Bundle, check_apart, check_place, write_compressed
from lanner.artifacts.encoder_files import EncoderFiles, EncoderForm
from lanner.artifacts.variants import POPULARITY, TextFiles, Variant
from lanner.compression.distil import Distillation
from lanner.compression.embeddings import check_distillable, distilled
from lanner.compression.encoder import EncoderRecipe, shrink_encoder, whole_encoder
from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import (
    Budget,
    Evaluator,
    Step,
    choose_dimensions,
    choose_neurons,
    quantised,
    sample_of_users,
)
from lanner.config import RunConfig, from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.interactions import Dataset
from lanner.data.split import Split
from lanner.encoders import TextReader, open_text_reader, preferred, processor
from lanner.errors import BundleError, ConfigError, MissingExtraError
from lanner.inference.ranker import Query, Ranker
from lanner.inference.scoring_model import ScoringModel, popularity_model
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.neural import TrainedRecommender
from lanner.models.recommender import Recommender
from lanner.pipeline import open_bundle
from lanner.registry import SPLITS, model_builder

Announce = Callable[[str], None]
BATCH_SIZES = (1, 8, 64)
"""Batch size of the ranking benchmark."""
A_TEXT = " ".join(["a quiet film about two brothers who leave the city for the sea, told slowly and without music"] * 2)
_CALIBRATION_TEXTS, _COMPARED_TEXTS = 256, 64
_TIMED_HISTORY = 50
_EMBEDDINGS = "embeddings-"
_SEARCHED_TEXTS = 2_000
"""Items whose texts stand in for query texts, beside the users whose directions are kept."""


@dataclass(frozen=True)
class TextSample:
    """Texts of the catalogue and the full encoder's vectors, float32 ``[T, E]``."""

    texts: tuple[str, ...]
    vectors_TE: NDArray[np.float32]


Forms = Mapping[str, EncoderForm]
"""The encoder of the variants full, int8, pruned and pruned-int8."""


def compress(
    path: Path,
    out: Path | None = None,
    budget: Budget | None = None,
    recipe: EncoderRecipe | None = None,
    threads: int = 2,
    announce: Announce = lambda _: None,
    dimensions: int | None = None,
) -> Bundle:
    """Write a new bundle with smaller variants of the one at ``path``: full → int8 → pruned → distilled → popularity.

    out: default: ``path`` plus ``-compressed``. threads: runtime threads during benchmarks; 0: no benchmarks.
    dimensions: adds the variant ``embeddings-N``, the whole model as N dense factors per item.
    A model without dense vectors cannot be compressed: its new bundle has the variants full and popularity, evaluated
    and benchmarked.

    Raises:
        ConfigError: ``out`` is ``path``, or one contains the other; dimensions of a model that is not linear in the
            history. BundleError: no bundle, a damaged one, or one without validation events unseen by its model.
        StorageError: the disk cannot be written.
    """
    out = path.with_name(f"{path.name}-compressed") if out is None else out
    check_apart(path, out)
    check_place(out)
    budget, recipe = budget or Budget(), recipe or EncoderRecipe()
    bundle = open_bundle(path)
    model, config = bundle.recommender, from_dict(bundle.config)
    split = SPLITS[config.split.name](bundle.dataset, config.split)
    _check_unseen(bundle, config, split)
    if dimensions is not None:
        check_distillable(model.scoring_model, dimensions)
    announce("refit closed forms without the validation events")
    full, twin = model.scoring_model, _twin(model, config, split).scoring_model
    sample, texts = _encoders(model, recipe, announce)
    evaluator = Evaluator(twin, split.validation, texts["full"].read, budget.max_ndcg_loss)
    announce("evaluate INT8; search the fewest neurons and dimensions within the budget")
    variants = [_variant(evaluator.steps[0], full, texts["full"])]
    if full.dimensions:
        variants += _smaller(evaluator, full, twin, texts, model)
    if dimensions is not None:
        announce(f"distil the model into {dimensions} dimensions")
        variants.append(_embeddings(evaluator, dimensions, full, twin, texts, model, split))
    variants = [_with_contract(one, bundle.dataset) for one in variants]
    if full.is_personal:
        popular = popularity_model(full.popularity_I, full.dimensions)
        variants.append(_variant(evaluator.step(POPULARITY, popular, None), popular, EncoderForm()))
    announce("benchmark every variant")
    measured = [measure(one, bundle.text_files, sample, threads) for one in variants]
    report = {
        "budget": asdict(budget),
        "recipe": asdict(recipe),
        "steps": [asdict(step) for step in evaluator.steps],
        # Whether INT8 pays off depends on the CPU's INT8 instructions.
        "processor": dict(zip(("cpu", "vnni"), processor(), strict=True)),
        "validation_users": len(split.validation),
        "best": best_variant(measured, budget.target),
    }
    announce(f"write {out}")
    return open_bundle(write_compressed(out, bundle, measured, report))


def best_variant(measured: Sequence[Variant], target: str) -> str:
    """The name of the cheapest variant within the budget; popularity is excluded, since it is not personal."""
    kept = (one for one in measured if one.figures["kept"] and one.name != POPULARITY)
    return min(kept, key=_cost(target)).name


def _check_unseen(bundle: Bundle, config: RunConfig, split: Split) -> None:
    """Raises ``BundleError`` if there are no unseen events to measure the loss of a smaller variant.

    A trained model cannot unlearn what it was fitted on; a closed form is refitted, see ``_twin``.
    """
    anew = f"lanner run {config.data.path} --model {config.model} --out NEW"
    if config.split.name == "none" and isinstance(bundle.recommender, TrainedRecommender):
        raise BundleError(
            f"{bundle.path}: trained on every event, so none is left to measure what compression costs; "
            f"compress a bundle of lanner run without --refit: {anew}"
        )
    if not len(split.validation):
        raise BundleError(
            f"{bundle.path}: its split has no validation users to measure what compression costs; "
            f"compress a bundle that has some: {anew} --set split.validation=0.1"
        )


def _twin(model: Recommender, config: RunConfig, split: Split) -> Recommender:
    """A copy of the model that never saw the validation events: trained parameters stay, closed forms are refitted."""
    if isinstance(model, TrainedRecommender):
        return model.unaware()
    return model_builder(config.model)(config, None).fit(split.train)


def _smaller(
    evaluator: Evaluator, full: ScoringModel, twin: ScoringModel, texts: Forms, model: Recommender
) -> list[Variant]:
    """int8, pruned and distilled; steps without any reduction are skipped."""
    batch, read = model.dataset.user_batch(), texts["full"].read
    features = None if read is None or batch.profiles is None else read(batch.profiles)
    users, twin_users = (sample_of_users(one, batch, features, texts_sought(model)) for one in (full, twin))
    variants = [_variant(evaluator.step("int8", quantised(twin), texts["int8"].read), quantised(full), texts["int8"])]
    number = choose_neurons(evaluator, twin, twin_users, texts["full"].read)
    pruned, pruned_twin = (
        one if number == 0 else fewer_neurons(one, u, number) for one, u in ((full, users), (twin, twin_users))
    )
    if number or texts["pruned"].files:
        variants.append(_variant(evaluator.step("pruned", pruned_twin, texts["pruned"].read), pruned, texts["pruned"]))
    rank = choose_dimensions(evaluator, pruned_twin, twin_users, texts["pruned-int8"].read)
    small, small_twin = (
        one if rank == full.dimensions else fewer_dimensions(one, u, rank)
        for one, u in ((pruned, users), (pruned_twin, twin_users))
    )
    if rank < full.dimensions or len(variants) > 1:
        step = evaluator.step("distilled", quantised(small_twin), texts["pruned-int8"].read)
        variants.append(_variant(step, quantised(small), texts["pruned-int8"]))
    return variants


def _embeddings(
    evaluator: Evaluator,
    dimensions: int,
    full: ScoringModel,
    twin: ScoringModel,
    texts: Forms,
    model: Recommender,
    split: Split,
) -> Variant:
    """The whole model in ``dimensions`` dense dimensions; the twin determines the number of rounds."""
    sought, read = texts_sought(model), texts["full"].read
    knows, of_all = split.train.user_batch(), model.dataset.user_batch()
    small_twin, rounds = distilled(twin, knows, dimensions, texts_TF=sought, validation=split.validation, read=read)
    small, _ = distilled(full, of_all, dimensions, texts_TF=sought, rounds=rounds)
    return _variant(evaluator.step(f"{_EMBEDDINGS}{dimensions}", small_twin, read), small, texts["full"])


def texts_sought(model: Recommender) -> NDArray[np.float32] | None:
    """Features of texts that stand in for query texts; None for a model that does not use texts."""
    items = model.item_reader if isinstance(model, TrainedRecommender) else None
    return None if items is None else items.texts.features(np.arange(len(items.texts))[:_SEARCHED_TEXTS])


def _variant(step: Step, model: ScoringModel, encoder: EncoderForm) -> Variant:
    # The head of an INT8 variant multiplies dequantised rows: INT8 user vectors cost 8 % of ndcg on ml-1m.
    evaluated = {key: value for key, value in asdict(step).items() if key != "name"}
    return Variant(step.name, model, encoder.files, {**evaluated, "dimensions": model.dimensions, **encoder.figures})


def _with_contract(variant: Variant, dataset: Dataset) -> Variant:
    """The variant with its integer contract, if it has an integer form; see docs/accelerator.md."""
    if not variant.model.is_personal:
        return variant
    try:
        # Embeddings are stored in floats; their few dimensions may fit on chip, so the contract rounds them.
        model = in_int8(variant.model) if variant.name.startswith(_EMBEDDINGS) else variant.model
        stated = statement(contract_of(model, dataset))
    except ConfigError:
        return variant
    return replace(variant, figures={**variant.figures, "contract": stated})


def measure(variant: Variant, texts: TextFiles | None, sample: TextSample | None, threads: int) -> Variant:
    """The variant with its sizes and, unless ``threads`` is 0, its latencies on this machine.

    rank_p50_ms: milliseconds to rank all items, by batch size. encode: by installed runtime, p50_ms of ``A_TEXT``,
    and for a ``sample`` texts_per_s and the mean cosine to its vectors.
    """
    found: dict[str, Any] = {"size_mib": variant.num_bytes / 2**20, "encoder_mib": variant.encoder_bytes / 2**20}
    if threads:
        ranker, draw, items = Ranker(variant.model), np.random.default_rng(0), variant.model.num_items
        length = min(_TIMED_HISTORY, items // 2)
        queries = [Query(draw.choice(items, length, replace=False)) for _ in range(max(BATCH_SIZES))]
        found["rank_p50_ms"] = {str(size): median_ms(partial(ranker.rank, queries[:size])) for size in BATCH_SIZES}
    if threads and texts is not None and "encoder_shape" in variant.figures:
        encode = found["encode"] = {}
        for name in preferred():
            with suppress(MissingExtraError):
                encode[name] = _encoding(open_text_reader(variant, texts, name, threads), sample)
    return replace(variant, figures={**variant.figures, **found})


def _encoding(reader: TextReader, sample: TextSample | None) -> dict[str, float]:
    found = {"p50_ms": median_ms(partial(reader.encode, [A_TEXT]))}
    if sample is not None:
        vectors_TE = reader.encode(sample.texts)
        milliseconds = median_ms(partial(reader.encode, sample.texts), 1)
        found["texts_per_s"] = 1e3 * len(sample.texts) / milliseconds
        found["cosine"] = float((vectors_TE * sample.vectors_TE).sum(axis=1).mean())
    reader.close()
    return found


def median_ms(work: Callable[[], Any], repetitions: int = 30) -> float:
    """Median milliseconds of ``work``, after at most three warm-up calls."""
    seconds = []
    for _ in range(min(3, repetitions) + repetitions):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[-repetitions:]) * 1e3)


def _cost(target: str) -> Callable[[Variant], float]:
    """What the best variant minimises. Without benchmarks, fewer bytes are assumed to be faster."""

    def milliseconds(variant: Variant) -> float:
        found = latency_ms(variant.figures)
        return float(variant.num_bytes) if found is None else found

    return milliseconds if target == "latency" else lambda variant: float(variant.num_bytes)


def latency_ms(figures: Mapping[str, Any]) -> float | None:
    """Median milliseconds to encode a text, where the variant does, and rank for it; None without benchmarks."""
    if "rank_p50_ms" not in figures:
        return None
    encode = [one["p50_ms"] for one in figures.get("encode", {}).values()]
    return float(figures["rank_p50_ms"]["1"] + min(encode, default=0.0))


def _encoders(model: Recommender, recipe: EncoderRecipe, announce: Announce) -> tuple[TextSample | None, Forms]:
    """Empty if the model does not use texts."""
    if not isinstance(model, TrainedRecommender) or model.text_features is None:
        return None, dict.fromkeys(("full", "int8", "pruned", "pruned-int8"), EncoderForm())
    features, language, dataset = model.text_features, model.encoder, model.dataset
    announce("prune the encoder and distil the full one into it")
    teacher = whole_encoder(language)
    profiles = sorted(set(dataset.user_catalogue.texts))
    fields = sorted({field for text in dataset.item_catalogue.texts for field in text.split(FIELD_SEPARATOR)})
    small, new_id = shrink_encoder(language, teacher, [*fields, *profiles], recipe)
    texts = [*fields, *profiles]
    chosen = [texts[row] for row in np.random.default_rng(recipe.seed).permutation(len(texts))[:_CALIBRATION_TEXTS]]
    calibration = [ids for ids in language.token_ids(chosen) if len(ids)]
    compared = chosen[:_COMPARED_TEXTS]
    sample = TextSample(tuple(compared), vectors_of(teacher, language.token_ids(compared)))
    announce("quantise the encoder")
    shared = (features, language.token_ids, calibration, profiles)
    whole = EncoderFiles(teacher, None, *shared, {})
    fewer = EncoderFiles(small.encoder, new_id, *shared, _pruned_figures(teacher, small))
    forms = {"full": whole.float32(), "int8": whole.int8()}
    return sample, forms | {"pruned": fewer.float32(), "pruned-int8": fewer.int8()}


def _pruned_figures(teacher: CompactEncoder, small: Distillation) -> dict[str, Any]:
    return {
        "encoder_cosine": small.cosine,
        "encoder_cosine_before_distillation": small.cosine_before,
        "encoder_parameter_share_removed": 1 - small.encoder.num_parameters / teacher.num_parameters,
        "encoder_layer_parameter_share_removed": 1 - small.encoder.num_layer_parameters / teacher.num_layer_parameters,
    }
