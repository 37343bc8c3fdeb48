"""What a small encoder costs if texts are the only input: cold items, added to the scoring model as new items."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT, SETTINGS
from lanner.compression.encoder import EncoderRecipe, shrink_encoder, whole_encoder
from lanner.config import from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.evaluation.protocol import evaluate
from lanner.inference.ranker import RankedScorer
from lanner.inference.scoring_model import ItemRows, ScoringModel, SparseRows
from lanner.inference.tables import take
from lanner.models.compact_encoder import vectors_of
from lanner.registry import MODELS, SPLITS


def measure(seed: int, seconds: float) -> dict[str, Any]:
    """Test ndcg@20 among the cold items: with the network's own rows, and added as new items by either encoder.

    The small encoder was distilled on the texts of the other items.
    """
    settings = json.loads(json.dumps(SETTINGS["ml-1m/cold-items"].get("hybrid", {"feedback": EVERY_EVENT})))
    config = from_dict({**settings, "data": {"path": "recipes/ml-1m.toml"}, "model": "hybrid"})
    config = replace(config, split=replace(config.split, name="cold-items", seed=seed))
    dataset = named("ml-1m")
    split = SPLITS["cold-items"](dataset, config.split)
    model: Any = MODELS["hybrid"](config, None).fit(split.train, split.validation)
    scoring, items, texts = model.scoring_model, model.item_reader, dataset.item_catalogue.texts
    seen = sorted({part for row in np.flatnonzero(items.is_seen_I) for part in texts[row].split(FIELD_SEPARATOR)})
    encoders, cosine = _encoders(model.encoder, seen, seconds)

    def quality(scorer: Any) -> float:
        return float(evaluate(scorer, split, ks=(20,), metrics=("ndcg",))["ndcg_at_20"])

    rows = {"as trained": quality(RankedScorer(scoring, model.features))}
    new = np.flatnonzero(~items.is_seen_I)
    for name, encode in encoders.items():
        read = model.text_features.transform([texts[row] for row in new], encode)
        given = _with_rows(scoring, new, items.read(scoring, read, [None] * len(new)))
        rows[name] = quality(RankedScorer(given, model.features))
    for name in ("popularity", "random"):
        rows[name] = quality(MODELS[name](config, None).fit(split.train))
    return {"commit": _record._commit(), "ndcg_at_20": rows, "encoder_cosine": cosine, "new_items": len(new)}


def _encoders(
    language: Any, texts: Sequence[str], seconds: float
) -> tuple[dict[str, Callable[[Sequence[str]], NDArray[np.float32]]], float]:
    teacher = whole_encoder(language)
    small, new_id = shrink_encoder(language, teacher, texts, EncoderRecipe(seconds=seconds))

    def by_teacher(asked: Sequence[str]) -> NDArray[np.float32]:
        return vectors_of(teacher, language.token_ids(asked))

    def by_student(asked: Sequence[str]) -> NDArray[np.float32]:
        return vectors_of(small.encoder, [new_id[ids] for ids in language.token_ids(asked)])

    return {"whole encoder": by_teacher, "small encoder": by_student}, small.cosine


def _with_rows(model: ScoringModel, rows: NDArray[np.int64], given: ItemRows) -> ScoringModel:
    """The model with some items' rows replaced."""
    source, target, bias = (np.array(take(table)) for table in (model.source_ID, model.target_ID, model.bias_I))
    source[rows], target[rows], bias[rows] = given.source_ND, given.target_ND, given.bias_N
    changed = replace(model, source_ID=source, target_ID=target, bias_I=bias)
    if model.item_to_item is None or given.lenders_NK is None or given.shares_NK is None:
        return changed
    is_kept_I = np.ones(len(bias), np.float32)
    is_kept_I[rows] = 0
    columns = np.repeat(rows, given.lenders_NK.shape[1])
    lent_II = sp.csr_matrix((given.shares_NK.ravel(), (given.lenders_NK.ravel(), columns)), shape=(len(bias),) * 2)
    items = model.item_to_item.matrix(model.num_items) @ (sp.diags(is_kept_I) + lent_II)
    return replace(changed, item_to_item=SparseRows.of(sp.csr_matrix(items, dtype=np.float32)))
