"""``RunConfig``: everything a run depends on, composed of the rooms' own settings."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lanner.data.feedback import FeedbackConfig
from lanner.models.baselines import PopularityConfig, RandomConfig
from lanner.models.ease import EASEConfig
from lanner.models.graph_filter import GraphFilterConfig
from lanner.models.ials import IALSConfig
from lanner.models.item_knn import ItemKNNConfig
from lanner.models.neural import NeuralConfig
from lanner.settings import everywhere, overlay, read_toml
from lanner.training.loop import TrainingConfig


@dataclass(frozen=True)
class DataConfig:
    """What to learn from."""

    path: str = "ml-latest-small"
    """A dataset's folder, a file of interactions, a recipe (.toml), or the name of a bundled dataset."""
    format: str = "auto"
    """How to read it; ``auto`` looks at the files."""


@dataclass(frozen=True)
class SplitConfig:
    """Which events are hidden."""

    name: Literal["random", "leave-last-out", "global-time", "cold-items", "published"] = "random"
    test: float = 0.2
    """Share of events (of a user, of all, or of the items) to test on."""
    validation: float = 0.1
    """Share of the rest to stop training by."""
    seed: int = 0
    among: Literal["cold", "all"] = "cold"
    """Rank cold items among themselves or among all (only cold-items)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked of the hidden events."""

    ks: tuple[int, ...] = (10, 20)
    """Lengths of the lists that are judged."""
    candidates: Literal["all", "sampled", "rated"] = "all"
    """Rank all items, each positive among ``negatives`` drawn ones, or only the user's hidden items."""
    negatives: int = 99
    """How many items are drawn for a user (only sampled)."""
    threshold: float = 4.0
    """Ratings from here on are relevant (only rated)."""
    seed: int = 0
    """Of the drawn negatives."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. A section that the chosen model does not use changes nothing."""

    model: str = "hybrid"
    """Which recommender; a name in ``registry.MODELS``."""
    data: DataConfig = field(default_factory=DataConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    random: RandomConfig = field(default_factory=RandomConfig)
    popularity: PopularityConfig = field(default_factory=PopularityConfig)
    item_knn: ItemKNNConfig = field(default_factory=ItemKNNConfig)
    ease: EASEConfig = field(default_factory=EASEConfig)
    ials: IALSConfig = field(default_factory=IALSConfig)
    graph_filter: GraphFilterConfig = field(default_factory=GraphFilterConfig)
    neural: NeuralConfig = field(default_factory=NeuralConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def read_config(path: Path) -> RunConfig:
    """Settings from a TOML file; what it does not name keeps its default.

    Raises:
        ConfigError: no such file, not TOML, or a key that is unknown or of a wrong type.
    """
    config: RunConfig = overlay(RunConfig(), read_toml(path), f"{path}: ")
    return config


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Settings from the table that ``to_dict`` of this or an earlier version gave."""
    config: RunConfig = overlay(RunConfig(), values)
    return config


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """``config`` with the seeds of models and training set; the split stays, so that runs can be compared."""
    seeded: RunConfig = everywhere(config, "seed", seed)
    return replace(seeded, split=config.split, evaluation=config.evaluation)


def with_device(config: RunConfig, device: str) -> RunConfig:
    """``config`` with every part that can choose placed on ``device``."""
    placed: RunConfig = everywhere(config, "device", device)
    return placed


def to_dict(config: Any) -> dict[str, Any]:
    """Nested tables that JSON and TOML can hold; None is left out."""
    return asdict(config, dict_factory=_table)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs if value is not None}
