"""What can be chosen by name: models, splits, and which items are ranked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lanner.config import DataConfig, EvaluationConfig, RunConfig, SplitConfig
from lanner.data.interactions import Dataset
from lanner.data.narrowing import rated_only, sampled_negatives
from lanner.data.sources import bundled, load
from lanner.data.split import HeldOut, Split
from lanner.data.splitting import cold_items, global_time, leave_last_out, published, random_ratio
from lanner.errors import ConfigError
from lanner.models.baselines import PopularityRecommender, RandomRecommender
from lanner.models.ease import EASE
from lanner.models.graph_filter import GraphFilter
from lanner.models.ials import IALS
from lanner.models.item_knn import ItemKNN
from lanner.models.neural import NeuralRecommender
from lanner.models.recommender import Recommender
from lanner.models.views import ViewName
from lanner.training.loop import Trainer

Build = Callable[[RunConfig, Path | None], Recommender]
"""An unfitted recommender; the folder is where a training that is interrupted keeps its checkpoint."""


def _neural(config: RunConfig, folder: Path | None, views: Sequence[ViewName] = (), **changes: Any) -> Recommender:
    network = replace(config.neural, views=tuple(views) or config.neural.views, **changes)
    return NeuralRecommender(network, Trainer(config.training, folder))


def _lightgcn(config: RunConfig, folder: Path | None) -> Recommender:
    """As published (three layers, 64 dimensions, BPR), but that users are read from their histories."""
    published = replace(config.neural, views=("graph",), fusion="sum", layers=3, dimensions=64)
    return NeuralRecommender(published, Trainer(replace(config.training, objective="bpr"), folder))


MODELS: dict[str, Build] = {
    "random": lambda config, _: RandomRecommender(config.random),
    "popularity": lambda config, _: PopularityRecommender(config.popularity),
    "item-knn": lambda config, _: ItemKNN(config.item_knn),
    "ease": lambda config, _: EASE(config.ease),
    "ials": lambda config, _: IALS(config.ials),
    "graph-filter": lambda config, _: GraphFilter(config.graph_filter),
    "lightgcn": _lightgcn,
    "language": partial(_neural, views=("language",)),
    "gnn": partial(_neural, views=("graph",)),
    "gnn-filter": partial(_neural, views=("graph", "filter")),
    "hybrid": _neural,
}
CLOSED_FORMS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter")
"""Models that never look at validation events, and so may learn from them too."""
SPLITS: dict[str, Callable[[Dataset, SplitConfig], Split]] = {
    "random": lambda dataset, c: random_ratio(dataset, c.test, c.validation, c.seed),
    "leave-last-out": lambda dataset, _: leave_last_out(dataset),
    "global-time": lambda dataset, c: global_time(dataset, c.test, c.validation),
    "cold-items": lambda dataset, c: cold_items(dataset, c.test, c.validation, c.seed, c.among),
    "published": lambda dataset, c: published(dataset, c.validation, c.seed),
}
CANDIDATES: dict[str, Callable[[HeldOut, int, EvaluationConfig], HeldOut]] = {
    "all": lambda held_out, num_items, c: held_out,
    "sampled": lambda held_out, num_items, c: sampled_negatives(held_out, num_items, c.negatives, c.seed),
    "rated": lambda held_out, num_items, c: rated_only(held_out, c.threshold),
}


def load_dataset(config: DataConfig) -> Dataset:
    """A dataset by path or recipe, else by the name of a bundled one."""
    here = Path(config.path)
    return load(here if here.exists() or "." in here.name else bundled(config.path), config.format)


def model_builder(name: str) -> Build:
    """Raises ``ConfigError`` for a model that is not in ``MODELS``."""
    if name not in MODELS:
        raise ConfigError(f"unknown model '{name}'; choose one of {', '.join(MODELS)}")
    return MODELS[name]
