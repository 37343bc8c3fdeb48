"""Whether query texts work: does a named genre come back?

18 genres of MovieLens × 5 phrasings; an item is relevant if it has the genre. Phrasings and spellings were written down
before any was tried.
"""

from typing import Any

import numpy as np

from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT
from lanner.config import from_dict
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.evaluation.metrics import RANKED
from lanner.inference.ranker import Query, Ranker
from lanner.registry import MODELS, SPLITS

PHRASINGS = ("{}", "slow {}", "a good {} film", "{} for a rainy evening", "I would like to watch some {}")
SPELLED = {"Sci-Fi": "science fiction", "Film-Noir": "film noir", "Children": "children's"}
"""How people write genres that the catalogue abbreviates."""
K = 10


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """``query_text_ndcg`` of the models that read texts, fitted on training events, and of popularity."""
    data, found = named(dataset), {}
    for model in ("popularity", "language", "hybrid"):
        config = from_dict({"model": model, "feedback": EVERY_EVENT, "split": {"name": "random", "seed": seed}})
        weighted = Feedback.decide(data.interactions, config.feedback).apply(data)
        split = SPLITS["random"](weighted, config.split)
        recommender = MODELS[model](config, None).fit(split.train, split.validation)
        found[model] = query_text_ndcg(split.train, recommender.ranker)
    return {"query_text_ndcg": found}


def queries(dataset: Dataset) -> list[tuple[str, str]]:
    """Genre and query text of each query."""
    genres = [name for name in dataset.item_catalogue.attributes["genres"].names if name != "IMAX"]
    return [(genre, form.format(SPELLED.get(genre, genre.lower()))) for genre in genres for form in PHRASINGS]


def query_text_ndcg(dataset: Dataset, ranker: Ranker) -> float:
    """Mean ndcg@10 over all queries, for users known by the text alone."""
    genres = dataset.item_catalogue.attributes["genres"]
    found = []
    for genre, text in queries(dataset):
        code = genres.names.index(genre)
        has = np.zeros(dataset.num_items, np.bool_)
        has[genres.codes.row_of_value[genres.codes.values == code]] = True
        items = ranker.rank([Query(text=text, k=K)])[0].items
        hits = np.zeros((1, K), np.bool_)
        hits[0, : len(items)] = has[items]
        found.append(RANKED["ndcg"](hits, np.array([has.sum()]), K)[0])
    return float(np.mean(found))
