"""``RunConfig``: everything a run depends on, composed of the rooms' own settings; TOML in and out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lanner.data.feedback import FeedbackConfig
from lanner.models.baselines import PopularityConfig, RandomConfig
from lanner.models.ease import EASEConfig
from lanner.models.graph_filter import GraphFilterConfig
from lanner.models.ials import IALSConfig
from lanner.models.item_knn import ItemKNNConfig
from lanner.models.neural import NeuralConfig
from lanner.settings import everywhere, overlay, read_toml, replaced
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


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """``config`` with settings replaced, by dotted key."""
    for key, value in values.items():
        config = replaced(config, key, value)
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
    table: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            table[one.name] = to_dict(value)
        elif isinstance(value, Mapping):
            table[one.name] = dict(value)
        elif value is not None:
            table[one.name] = list(value) if isinstance(value, tuple) else value
    return table


def to_toml(config: RunConfig) -> str:
    """The effective settings, as a file that ``read_config`` reads."""
    return "\n".join(_toml_lines(to_dict(config), ""))


def _toml_lines(table: dict[str, Any], place: str) -> Iterable[str]:
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"\n[{place}{_toml_key(key)}]"
            yield from _toml_lines(value, f"{place}{_toml_key(key)}.")


def _toml_key(key: str) -> str:
    """Names that a user chose, such as behaviours, may hold anything."""
    return key if key.replace("_", "").isascii() and key.replace("_", "").isalnum() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'
