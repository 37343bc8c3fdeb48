"""``RunConfig``: all settings of a training run, composed of the packages' own settings."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lanner.data.feedback import FeedbackConfig
from lanner.data.ranking import MAXIMUM_K
from lanner.distributed.config import EngineConfig
from lanner.errors import ConfigError
from lanner.models.baselines import PopularityConfig, RandomConfig
from lanner.models.ease import EASEConfig
from lanner.models.graph_filter import GraphFilterConfig
from lanner.models.hybrid.config import HybridConfig
from lanner.models.ials import IALSConfig
from lanner.models.item_knn import ItemKNNConfig
from lanner.models.neural_config import NeuralConfig
from lanner.settings import everywhere, overlay, read_toml
from lanner.training.config import AdaptationConfig as AdaptationConfig
from lanner.training.config import TrainingConfig

SplitName = Literal["auto", "none", "random", "leave-last-out", "global-time", "cold-items", "published"]


@dataclass(frozen=True)
class DataConfig:
    """The dataset to train on."""

    path: str = "ml-latest-small"
    """Dataset: a folder, a file of events, a recipe (.toml), or the name of a bundled dataset."""
    format: str = "auto"
    """Format of the dataset; auto: detected from the files."""


@dataclass(frozen=True)
class SplitConfig:
    """Which events are withheld from training, for validation and test."""

    name: SplitName = "auto"
    """How events are split. auto: global-time where events have timestamps, else random. none: train on every event."""
    test: float = 0.2
    """Share withheld for testing: of each user's items (random), of all events (global-time), of items (cold-items)."""
    validation: float = 0.1
    """Share of the remaining events withheld for validation (early stopping)."""
    seed: int = 0
    """Random seed of the split."""
    among: Literal["cold", "all"] = "cold"
    """For cold-items: rank the withheld items among themselves (cold) or among all items (all)."""
    exclude: Literal["seen", "nothing"] = "seen"
    """For leave-last-out: items excluded from ranking. seen: those seen before, even as test items; nothing: none."""

    def __post_init__(self) -> None:
        for name in ("test", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"split.{name} must be at least 0 and below 1, received {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"split.seed must be at least 0, received {self.seed}")


@dataclass(frozen=True)
class EvaluationConfig:
    """How the withheld events are evaluated."""

    ks: tuple[int, ...] = (10, 20)
    """Cutoffs of the metrics: list lengths, such as 10 for ndcg@10."""
    candidates: Literal["all", "sampled", "rated"] = "all"
    """Items to rank: all, each user's test items among sampled negatives, or only the user's rated test items."""
    negatives: int = 99
    """For sampled: number of negatives drawn per user."""
    threshold: float = 4.0
    """For rated: minimum rating of a relevant item."""
    seed: int = 0
    """Random seed of the sampled negatives."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or max(self.ks) > MAXIMUM_K:
            raise ConfigError(
                f"evaluation.ks must be one or more numbers from 1 to {MAXIMUM_K:,}, received {list(self.ks)}"
            )
        if self.negatives < 1:
            raise ConfigError(f"evaluation.negatives must be at least 1, received {self.negatives}")
        if self.seed < 0:
            raise ConfigError(f"evaluation.seed must be at least 0, received {self.seed}")


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. A section that the chosen model does not use has no effect."""

    model: str = "hybrid"
    """Model to train; ``lanner run --help`` lists the names."""
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
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    neural: NeuralConfig = field(default_factory=NeuralConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    parallel: EngineConfig = field(default_factory=EngineConfig)


def read_config(path: Path) -> RunConfig:
    """Settings from a TOML file; omitted ones keep their defaults.

    Raises:
        ConfigError: no such file, not TOML, or a key that is unknown or of the wrong type.
    """
    config: RunConfig = overlay(RunConfig(), read_toml(path), f"{path}: ")
    return config


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Settings from a table returned by ``to_dict`` of this or an earlier version."""
    config: RunConfig = overlay(RunConfig(), values)
    return config


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """``config`` with new seeds for models and training; the split stays the same, so that runs can be compared."""
    seeded: RunConfig = everywhere(config, "seed", seed)
    return replace(seeded, split=config.split, evaluation=config.evaluation)


def with_device(config: RunConfig, device: str) -> RunConfig:
    """``config`` with every configurable part on ``device``."""
    placed: RunConfig = everywhere(config, "device", device)
    return placed


def to_dict(config: Any) -> dict[str, Any]:
    """Nested tables compatible with JSON and TOML; None is left out."""
    return asdict(config, dict_factory=_table)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs if value is not None}
