"""What can be chosen by name (models, splits, candidate items), and validation of the choices against a dataset."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lanner.config import DataConfig, EvaluationConfig, RunConfig, SplitConfig, SplitName
from lanner.data.interactions import Dataset
from lanner.data.narrowing import rated_only, sampled_negatives
from lanner.data.ragged import Ragged
from lanner.data.sources import bundled, load
from lanner.data.split import HeldOut, Split
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError, DataError, MissingExtraError, optional_module
from lanner.models.baselines import PopularityRecommender, RandomRecommender
from lanner.models.ease import EASE
from lanner.models.graph_filter import GraphFilter
from lanner.models.ials import IALS
from lanner.models.item_knn import ItemKNN
from lanner.models.neural_config import NeuralConfig, ViewName, has_texts
from lanner.models.recommender import Recommender
from lanner.training.config import ADAPTATION

if TYPE_CHECKING:
    from lanner.training.adaptation import EncoderAdaptation

Build = Callable[[RunConfig, Path | None], Recommender]
"""Creates an unfitted recommender; the folder is where interrupted training keeps its checkpoint."""

FIXED: dict[str, dict[str, dict[str, Any]]] = {
    # As published (He et al., SIGIR 2020), except that users are represented by their histories.
    "lightgcn": {
        "neural": {"views": ("graph",), "fusion": "sum", "layers": 3, "dimensions": 64},
        "training": {"objective": "bpr"},
    },
    "language": {"neural": {"views": ("language",)}},
    "gnn": {"neural": {"views": ("graph",)}},
    "gnn-filter": {"neural": {"views": ("graph", "filter")}},
    "fusion": {"neural": {"views": ("graph", "filter", "language")}},
    # Its weights replace a head.
    "hybrid": {"neural": {"fusion": "sum"}},
}
"""Settings implied by a model's name, by section; they cannot be overridden."""


def _check_torch(config: RunConfig) -> None:
    """Raises ``MissingExtraError`` if torch is missing; the extra it names also has what reads texts, if needed."""
    extra = "language" if "language" in views_of(config) else "train"
    optional_module("torch", "torch", extra, f"the model '{config.model}'")


def _neural(config: RunConfig, folder: Path | None) -> Recommender:
    _check_torch(config)
    from lanner.models.neural import NeuralRecommender
    from lanner.training.loop import Trainer

    config = _with_fixed(config)
    return NeuralRecommender(config.neural, Trainer(config.training, folder), _adaptation(config, folder))


def _hybrid(config: RunConfig, folder: Path | None) -> Recommender:
    _check_torch(config)
    from lanner.models.hybrid.model import HybridRecommender
    from lanner.models.neural import NeuralRecommender
    from lanner.training.joining import Joiner
    from lanner.training.loop import Trainer

    config = _with_fixed(config)
    trainer = Trainer(config.training, folder, fuses=False)
    network = NeuralRecommender(config.neural, trainer, _adaptation(config, folder))
    return HybridRecommender(config.hybrid, network, Joiner())


def _adaptation(config: RunConfig, folder: Path | None) -> "EncoderAdaptation | None":
    if config.adaptation.method == "none":
        return None
    from lanner.training.adaptation import EncoderAdaptation

    place = None if folder is None else folder / ADAPTATION
    return EncoderAdaptation(config.adaptation, config.neural, config.training, place, parallel=config.parallel)


def _with_fixed(config: RunConfig) -> RunConfig:
    sections = FIXED.get(config.model, {})
    changes: dict[str, Any] = {name: replace(getattr(config, name), **fixed) for name, fixed in sections.items()}
    return replace(config, **changes)


MODELS: dict[str, Build] = {
    "random": lambda config, _: RandomRecommender(config.random),
    "popularity": lambda config, _: PopularityRecommender(config.popularity),
    "item-knn": lambda config, _: ItemKNN(config.item_knn),
    "ease": lambda config, _: EASE(config.ease),
    "ials": lambda config, _: IALS(config.ials),
    "graph-filter": lambda config, _: GraphFilter(config.graph_filter),
    "lightgcn": _neural,
    "language": _neural,
    "gnn": _neural,
    "gnn-filter": _neural,
    "fusion": _neural,
    "hybrid": _hybrid,
}
CLOSED_FORMS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter")
"""Models that never look at validation events and may therefore be fitted on them."""


def _nothing_hidden(dataset: Dataset, config: SplitConfig) -> Split:
    """The final model is trained on all events; ``train`` and ``validation`` serve to choose the number of epochs."""
    no_users = np.empty(0, np.int64)
    empty = HeldOut(no_users, dataset.user_batch(no_users), Ragged.empty(0), Ragged.empty(0))
    try:
        carved = random_ratio(dataset, config.validation, 0.0, config.seed)
    except DataError:  # no user has a second item
        return Split("none", dataset, dataset, empty, empty, np.zeros(len(dataset.interactions), np.uint8))
    return Split("none", carved.train, dataset, carved.test, empty, np.minimum(carved.labels, 1))


def _split_of(name: str) -> Callable[[Dataset, SplitConfig], Split]:
    return lambda dataset, c: dataset.split(
        name, test=c.test, validation=c.validation, seed=c.seed, among=c.among, exclude=c.exclude
    )


SPLITS: dict[str, Callable[[Dataset, SplitConfig], Split]] = {
    "auto": _split_of("auto"),
    "none": _nothing_hidden,
    "random": _split_of("random"),
    "leave-last-out": _split_of("leave-last-out"),
    "global-time": _split_of("global-time"),
    "cold-items": _split_of("cold-items"),
    "published": _split_of("published"),
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
    """The builder of a model. Raises ``ConfigError`` for a model that is not in ``MODELS``."""
    if name not in MODELS:
        raise ConfigError(f"unknown model '{name}'; choose one of {', '.join(MODELS)}")
    return MODELS[name]


def views_of(config: RunConfig) -> tuple[ViewName, ...]:
    """The views of a trained model; none for a closed form."""
    return () if config.model in CLOSED_FORMS else _with_fixed(config).neural.views


@dataclass(frozen=True)
class Plan:
    """The validated plan of a run on one dataset.

    config: with ``auto`` resolved, and without the language view if no item has a text. split: the resulting split.
    test: its test users, with candidates as set by ``evaluation``. notes: deviations from the settings, and why.
    """

    config: RunConfig
    split: Split
    test: HeldOut
    notes: tuple[str, ...]


def planned(config: RunConfig, dataset: Dataset, *, measure: bool = True) -> Plan:
    """Validate the settings against the dataset, and split it; nothing is trained yet.

    Args:
        config: the settings.
        dataset: with feedback applied.
        measure: whether there will be an evaluation, so that its settings matter.

    Raises:
        ConfigError: settings that cannot work on this dataset or machine. DataError: too few events for the split.
        MissingExtraError: a package that the model needs is not installed.
    """
    model_builder(config.model)
    _check_split(config, dataset)
    _check_machine(config)
    split = SPLITS[config.split.name](dataset, config.split)
    if config.split.name == "auto":
        name: SplitName = "global-time" if split.name == "global-time" else "random"
        config = replace(config, split=replace(config.split, name=name))
    config, notes = without_unreadable_texts(config, split.train)
    if "language" in views_of(config):
        from lanner.models.language import LanguageEncoder

        LanguageEncoder(config.neural.encoder).check()
        _check_adaptation(config)
    elif config.adaptation.method != "none":
        raise ConfigError(
            f"adaptation.method={config.adaptation.method} trains the language model, and '{config.model}' reads no "
            "texts here; set adaptation.method=none, or use --model hybrid on a dataset with texts"
        )
    test = narrowed(split.test, dataset.num_items, config.evaluation) if measure and len(split.test) else split.test
    return Plan(config, split, test, (*notes, *_not_asked(config.split, dataset, split)))


def _check_split(config: RunConfig, dataset: Dataset) -> None:
    """Raises ``ConfigError`` for a split that this dataset does not support."""
    split, events, path = config.split, dataset.interactions, config.data.path
    has_times, name = dataset.has_times, split.name
    instead = "use --split random" + (", or --split global-time" if has_times else "")
    if name == "leave-last-out" and not dataset.has_order:
        raise ConfigError(f"--split leave-last-out needs timestamps or an order column, and {path} has none; {instead}")
    if name == "global-time" and not has_times:
        raise ConfigError(f"--split global-time needs timestamps that differ, and {path} has none; {instead}")
    if name == "published" and (events.partition is None or "test" not in events.partitions):
        parts = ", ".join(events.partitions) or "none"
        raise ConfigError(f"--split published needs a test part, and the parts of {path} are: {parts}; {instead}")
    if name in ("auto", "random", "global-time", "cold-items") and split.test == 0:
        raise ConfigError(
            "split.test=0 leaves nothing to evaluate on; to train on every event: lanner train, or lanner run --refit"
        )
    carves = name in ("auto", "none", "random", "global-time", "cold-items") or (
        name == "published" and "validation" not in events.partitions
    )
    if carves and split.validation == 0 and config.model not in CLOSED_FORMS:
        raise ConfigError(f"split.validation=0 leaves '{config.model}' nothing for early stopping; set it above 0")


def _not_asked(config: SplitConfig, dataset: Dataset, split: Split) -> tuple[str, ...]:
    """A note on users that leave-last-out does not evaluate: the last event is negative or repeats a seen item."""
    repeated = int((np.bincount(dataset.interactions.user) >= 2).sum()) - len(split.test)
    if config.name != "leave-last-out" or config.exclude == "nothing" or not repeated:
        return ()
    return (
        f"{repeated:,} users are not evaluated, because their last event is negative or of an item that they had seen "
        "before; split.exclude=nothing ranks all items and evaluates repeats, too",
    )


def _check_machine(config: RunConfig) -> None:
    """Raises ``ConfigError`` or ``MissingExtraError`` if this machine lacks something that the model needs."""
    if config.model == "ials" and find_spec("implicit") is None:
        raise MissingExtraError("implicit", "baselines", "the model 'ials'")
    if config.model not in CLOSED_FORMS:
        _check_torch(config)
        from lanner.training.loop import device_of
        from lanner.training.tracking import check_log

        device_of(config.training.device)
        check_log(config.training)


def _check_adaptation(config: RunConfig) -> None:
    """Raises ``MissingExtraError`` if a package for the adaptation is not installed."""
    if config.adaptation.method != "none":
        from lanner.training.adapters import check_packages

        check_packages(config.adaptation)


_TO_GIVE_TEXTS = (
    "to give texts, add columns 'title' and 'description' to the events file, or name an items file in a recipe "
    '(.toml): [items] text = ["{title}", "{description}"]'
)


def without_unreadable_texts(
    config: RunConfig, train: Dataset, instead: str = "use --model gnn-filter", advice: str = _TO_GIVE_TEXTS
) -> tuple[RunConfig, tuple[str, ...]]:
    """The settings without the language view if no training item has a text, and a note about it.

    instead, advice: for the messages, how to choose another model or provide texts.

    Raises:
        ConfigError: the language view was requested explicitly, by the model ``language`` or by non-default
            ``neural.views``.
    """
    views = views_of(config)
    if "language" not in views or has_texts(train):
        return config, ()
    problem = "no item in the training events has a text"
    if config.model != "hybrid" or views != NeuralConfig().views:
        raise ConfigError(f"{problem}, which the language view needs; {instead}, or {advice}")
    rest = tuple(view for view in views if view != "language")
    note = f"{problem}: training without texts; {advice}"
    return replace(config, neural=replace(config.neural, views=rest)), (note,)


def narrowed(test: HeldOut, num_items: int, config: EvaluationConfig) -> HeldOut:
    """The test users, with candidates as set by the evaluation settings.

    Raises:
        ConfigError: the settings do not fit these users and items.
    """
    if config.candidates == "sampled" and config.negatives >= num_items:
        raise ConfigError(
            f"evaluation.negatives={config.negatives} cannot be drawn from {num_items} items; "
            f"set it below {num_items}, or evaluation.candidates=all"
        )
    if config.candidates == "rated" and test.ratings is None:
        raise ConfigError(
            "evaluation.candidates=rated needs ratings, and the test events have none; use all or sampled"
        )
    chosen = CANDIDATES[config.candidates](test, num_items, config)
    if not len(chosen):
        raise ConfigError(f"no test user has an item rated {config.threshold:g} or more; lower evaluation.threshold")
    return chosen
