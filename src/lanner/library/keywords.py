"""Model settings as keywords of the class: names, types, defaults and descriptions, defined once."""

import inspect
import textwrap
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

from lanner.config import AdaptationConfig, RunConfig
from lanner.errors import ConfigError, nearest
from lanner.registry import CLOSED_FORMS, FIXED
from lanner.settings import Setting, described, replaced

_VIEW_SETTINGS = {
    "graph": ("neural.dimensions", "neural.layers", "neural.fanout"),
    "relational": ("neural.dimensions", "neural.layers", "neural.fanout"),
    "filter": ("neural.filter_rank", "neural.filter_ridge"),
    "language": (
        *("neural.language_dimensions", "neural.meaning_dimensions", "neural.word_dimensions"),
        *("neural.feature_dropout", "neural.cold_neighbours", "neural.encoder."),
    ),
}
"""Settings, or beginnings of them, that matter to one view alone."""
_OF_HEAD = "training.fusion_learning_rate"
"""Matters to models with a ranking head alone."""
_ENCODER = "neural.encoder."
_ADAPT = Setting(
    "adaptation",
    "LoRA, DoRA or FullFineTuning",
    AdaptationConfig(),
    "How the language model itself is trained, such as lanner.LoRA(rank=8). Default: it stays as it is.",
)


@dataclass(frozen=True)
class Keyword:
    """One keyword. settings: the keys of ``RunConfig`` that it sets; a seed or a device may set several."""

    name: str
    setting: Setting
    settings: list[str] = field(default_factory=list)

    @property
    def default(self) -> Any:
        """Its default value."""
        return self.setting.default

    def of(self, config: RunConfig) -> Any:
        """Its value in ``config``."""
        return reduce(getattr, self.setting.name.split("."), config)


def keywords_of(model: str) -> dict[str, Keyword]:
    """The keywords of a registered model by name, in the order of its settings."""
    trained = ("hybrid", "neural", "training") if model == "hybrid" else ("neural", "training")
    sections = (model.replace("-", "_"),) if model in CLOSED_FORMS else trained
    found: dict[str, Keyword] = {}
    for setting in _every_setting():
        section, _, key = setting.name.partition(".")
        if section not in sections or _is_fixed(model, setting.name):
            continue
        name = key.removeprefix("encoder.")
        if setting.name.startswith(_ENCODER) and name != "device":
            name = f"encoder_{name}"
        found.setdefault(name, Keyword(name, setting)).settings.append(setting.name)
    if f"{_ENCODER}model" in (key for one in found.values() for key in one.settings):
        found["adapt"] = Keyword("adapt", _ADAPT, ["adaptation"])
    return found


def configured(model: str, keywords: dict[str, Keyword], given: dict[str, Any], owner: str) -> RunConfig:
    """The run settings of ``model`` with the given keywords.

    Raises:
        ConfigError: an unknown keyword (the nearest is suggested), or a value of the wrong type or out of range.
    """
    config = RunConfig(model=model)
    for name, value in given.items():
        if name not in keywords:
            near = nearest(name, keywords)
            known = ", ".join(keywords) or "none"
            advice = f"did you mean '{near}'?" if near else f"its settings: {known}"
            raise ConfigError(f"{owner} has no setting '{name}'; {advice}")
        if name == "adapt" and not isinstance(value, AdaptationConfig):
            raise ConfigError(f"adapt: received {value!r}, expected {_ADAPT.type}, such as lanner.LoRA(rank=8)")
        for key in keywords[name].settings:
            config = replaced(config, key, value)
    return config


def signature_of(keywords: dict[str, Keyword]) -> inspect.Signature:
    """The signature that ``help`` and editors show."""
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(one.name, kind, default=one.default, annotation=one.setting.type) for one in keywords.values()
    ]
    return inspect.Signature(parameters)


def documented(text: str | None, keywords: dict[str, Keyword]) -> str:
    """A class docstring with its settings."""
    lines = [inspect.cleandoc(text or ""), "", "Args:"]
    for one in keywords.values():
        setting = one.setting
        said = f"{one.name}: {setting.meaning} ({setting.type}, default {setting.default!r})"
        lines += textwrap.wrap(said, 100, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines if keywords else [*lines[:2], "It has no settings."])


@cache
def _every_setting() -> tuple[Setting, ...]:
    return tuple(described(RunConfig))


def _is_fixed(model: str, name: str) -> bool:
    """Whether the model fixes the setting, or has no view that uses it."""
    fixed = FIXED.get(model, {})
    if name in {f"{section}.{key}" for section, values in fixed.items() for key in values}:
        return True
    if name == _OF_HEAD and fixed.get("neural", {}).get("fusion") == "sum":
        return True
    views = fixed.get("neural", {}).get("views", tuple(_VIEW_SETTINGS))
    read = {key for view in views for key in _VIEW_SETTINGS[view]}
    return any(name.startswith(keys) and not read.issuperset(keys) for keys in _VIEW_SETTINGS.values())
