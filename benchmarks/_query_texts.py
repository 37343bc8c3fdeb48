"""Whether query texts work: does a named genre come back?

18 genres of MovieLens × 5 phrasings; an item is relevant if it has the genre. Phrasings and spellings were written down
before any was tried. The hybrid is asked in every form in which it answers: as fitted, in each variant of its
compressed bundle, and through the API of a server of that bundle.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT
from benchmarks._serving_work import Work
from lanner.artifacts.bundle import Bundle
from lanner.artifacts.variants import POPULARITY
from lanner.config import RunConfig, from_dict
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.evaluation.metrics import RANKED
from lanner.inference.ranker import Query, Ranker
from lanner.registry import MODELS, SPLITS

PHRASINGS = ("{}", "slow {}", "a good {} film", "{} for a rainy evening", "I would like to watch some {}")
SPELLED = {"Sci-Fi": "science fiction", "Film-Noir": "film noir", "Children": "children's"}
"""How people write genres that the catalogue abbreviates."""
GENRES = "genres"
"""The attribute that holds them."""
K = 10
DIMENSIONS = 64
PATIENCE_MS = 30_000
"""Of a request to the server: quality is measured, not speed."""

Answer = Callable[[str], Sequence[int]]
"""The rows of the best ``K`` items for a text, best first."""


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """``query_text_ndcg`` of popularity, of the language model, and of every form of the hybrid, fitted on train."""
    found = {}
    for model in ("popularity", "language"):
        config = _config(dataset, model, seed)
        data = named(dataset)
        data = Feedback.decide(data.interactions, config.feedback).apply(data)
        split = SPLITS["random"](data, config.split)
        recommender = MODELS[model](config, None).fit(split.train, split.validation)
        found[model] = query_text_ndcg(data, answer_of(recommender.ranker))
    with tempfile.TemporaryDirectory() as folder:
        return {"query_text_ndcg": found | _hybrid(_config(dataset, "hybrid", seed), Path(folder))}


def _config(dataset: str, model: str, seed: int) -> RunConfig:
    split = {"name": "random", "seed": seed}
    return from_dict({"data": {"path": dataset}, "model": model, "feedback": EVERY_EVENT, "split": split})


def _hybrid(config: RunConfig, folder: Path) -> dict[str, float]:
    from lanner.compress import compress
    from lanner.pipeline import open_bundle, run

    run(config, folder / "bundle", measure=False)
    whole = open_bundle(folder / "bundle")
    found = {"hybrid": query_text_ndcg(whole.dataset, answer_of(whole.recommender.ranker))}
    return found | forms(compress(folder / "bundle", threads=0, dimensions=DIMENSIONS))


def forms(bundle: Bundle) -> dict[str, float]:
    """``query_text_ndcg`` of each variant of a compressed bundle, except the popularity list, and of its server."""
    from lanner.encoders import open_text_reader

    assert bundle.text_files is not None
    found = {}
    for name in bundle.variants:
        if name != POPULARITY:
            variant = bundle.variant(name)
            with closing(open_text_reader(variant, bundle.text_files)) as reader:
                found[f"hybrid, {name}"] = query_text_ndcg(
                    bundle.dataset, answer_of(Ranker(variant.model, reader=reader))
                )
    return found | {"hybrid, over HTTP": _served(bundle)}


@dataclass(frozen=True)
class _Served(Work):
    """What is served: a given bundle."""

    path: Path

    @property
    def bundle(self) -> Path:
        return self.path


def _served(bundle: Bundle) -> float:
    from benchmarks._serving_servers import Contender, Launcher
    from lanner.client import Client
    from lanner.serving.messages import RecommendRequest

    limits = ("--set", f"service.deadline_ms={PATIENCE_MS}", "--set", f"service.text_deadline_ms={PATIENCE_MS}")
    dataset = bundle.dataset
    with (
        Launcher(_Served(dataset.num_items, bundle.path)).running(Contender("lanner", options=limits)) as server,
        Client(f"http://127.0.0.1:{server.port}", timeout_s=PATIENCE_MS / 1e3) as client,
    ):

        def answer(text: str) -> list[int]:
            items = client.recommend(RecommendRequest(text=text, k=K)).items
            return [dataset.items.row(one.item_id) for one in items]

        return query_text_ndcg(dataset, answer)


def answer_of(ranker: Ranker) -> Answer:
    """The answers of a ranker to a user known by a text alone."""
    return lambda text: ranker.rank([Query(text=text, k=K)])[0].items.tolist()


def queries(dataset: Dataset) -> list[tuple[str, str]]:
    """Genre and query text of each query."""
    genres = [name for name in dataset.item_catalogue.attributes[GENRES].names if name != "IMAX"]
    return [(genre, form.format(SPELLED.get(genre, genre.lower()))) for genre in genres for form in PHRASINGS]


def query_text_ndcg(dataset: Dataset, answer: Answer) -> float:
    """Mean ndcg@10 over all queries, for users known by the text alone."""
    genres = dataset.item_catalogue.attributes[GENRES]
    found = []
    for genre, text in queries(dataset):
        code = genres.names.index(genre)
        has = np.zeros(dataset.num_items, np.bool_)
        has[genres.codes.row_of_value[genres.codes.values == code]] = True
        items = answer(text)
        hits = np.zeros((1, K), np.bool_)
        hits[0, : len(items)] = has[items]
        found.append(RANKED["ndcg"](hits, np.array([has.sum()]), K)[0])
    return float(np.mean(found))
