"""How the language model of a model with texts is trained, as its keyword ``adapt`` takes it."""

from typing import Any

from lanner.config import AdaptationConfig
from lanner.settings import build


def LoRA(**settings: Any) -> AdaptationConfig:
    """Low-rank adapters (Hu et al., ICLR 2022) beside the frozen weights; extra ``adapt``.

    Args:
        settings: rank, alpha, target_modules and the other ``adaptation`` settings of ``lanner settings language``.

    Raises:
        ConfigError: an unknown setting, or a value of a wrong type or out of range.
    """
    return _of("lora", settings)


def DoRA(**settings: Any) -> AdaptationConfig:
    """LoRA with a trained length of each weight vector (Liu et al., ICML 2024); settings and errors as of ``LoRA``."""
    return _of("dora", settings)


def FullFineTuning(**settings: Any) -> AdaptationConfig:
    """The weights themselves are trained; settings and errors as of ``LoRA``."""
    return _of("full", settings)


def _of(method: str, settings: dict[str, Any]) -> AdaptationConfig:
    config: AdaptationConfig = build(AdaptationConfig, settings | {"method": method}, "adaptation.")
    return config
