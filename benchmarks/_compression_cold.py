"""What a small encoder costs where texts are all there is: cold items, given to the request form as new ones."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._quality_settings import SETTINGS
from lanner.compression.encoder import EncoderRecipe, shrink_encoder, whole_encoder
from lanner.config import from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.sources import load
from lanner.evaluation.protocol import evaluate
from lanner.models.compact_encoder import vectors_of
from lanner.models.request_form import ItemRows, RequestForm, RequestScorer
from lanner.models.request_network import item_reader, request_form
from lanner.registry import MODELS, SPLITS


def measure(seed: int, recovery_seconds: float) -> dict[str, Any]:
    """Test ndcg@20 among the cold items: as the network has them, and given as new items by either encoder.

    The small encoder was taught on the texts of the other items.
    """
    settings = json.loads(json.dumps(SETTINGS["ml-1m/cold-items"]["hybrid"]))
    config = from_dict({**settings, "data": {"path": "recipes/ml-1m.toml"}, "model": "hybrid"})
    config = replace(config, split=replace(config.split, name="cold-items", seed=seed))
    dataset = load(Path("recipes") / "ml-1m.toml")
    split = SPLITS["cold-items"](dataset, config.split)
    model: Any = MODELS["hybrid"](config, None).fit(split.train, split.validation)
    form, items, texts = request_form(model), item_reader(model), dataset.item_catalogue.texts
    assert items is not None
    met = sorted({part for row in np.flatnonzero(items.is_met_I) for part in texts[row].split(FIELD_SEPARATOR)})
    encoders, cosine = _encoders(model.encoder, met, recovery_seconds)

    def quality(scorer: Any) -> float:
        return float(evaluate(scorer, split, ks=(20,), metrics=("ndcg",))["ndcg_at_20"])

    def profiles(asked: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(model._read_profiles(asked).numpy())

    rows = {"as trained": quality(RequestScorer(form, profiles))}
    new = np.flatnonzero(~items.is_met_I)
    for name, encode in encoders.items():
        read = model.features.transform([texts[row] for row in new], encode)
        given = _with_rows(form, new, items.read(form, read, [None] * len(new)))
        rows[name] = quality(RequestScorer(given, profiles))
    for name in ("popularity", "random"):
        rows[name] = quality(MODELS[name](config, None).fit(split.train))
    return {"commit": _record._commit(), "ndcg_at_20": rows, "encoder_cosine": cosine, "new_items": len(new)}


def _encoders(
    language: Any, texts: Sequence[str], seconds: float
) -> tuple[dict[str, Callable[[Sequence[str]], NDArray[np.float32]]], float]:
    teacher = whole_encoder(language)
    small = shrink_encoder(language, teacher, texts, EncoderRecipe(seconds=seconds))

    def by_teacher(asked: Sequence[str]) -> NDArray[np.float32]:
        return vectors_of(teacher, language.token_ids(asked))

    def by_student(asked: Sequence[str]) -> NDArray[np.float32]:
        return vectors_of(small.encoder, [small.new_id[ids] for ids in language.token_ids(asked)])

    return {"whole encoder": by_teacher, "small encoder": by_student}, small.cosine


def _with_rows(form: RequestForm, rows: NDArray[np.int64], given: ItemRows) -> RequestForm:
    """The form with other rows for some items."""
    source, target, bias = (np.array(table) for table in (form.source_ID, form.target_ID, form.bias_I))
    source[rows], target[rows], bias[rows] = given.source_ND, given.target_ND, given.bias_N
    head = form.head
    if head is not None:
        half = np.array(head.item_IH)
        half[rows] = given.half_NH
        head = replace(head, item_IH=half)
    return replace(form, source_ID=source, target_ID=target, bias_I=bias, head=head)
