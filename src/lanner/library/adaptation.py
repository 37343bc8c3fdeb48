"""Fine-tuning methods for the language model: values of the keyword ``adapt``."""

from typing import Any

from lanner.config import AdaptationConfig
from lanner.settings import build


def LoRA(**settings: Any) -> AdaptationConfig:
    """Low-rank adapters (Hu et al., ICLR 2022) on frozen weights; extra ``adapt``.

    Args:
        settings: rank, alpha, target_modules and the other ``adaptation`` settings of ``lanner settings language``.

    Raises:
        ConfigError: an unknown setting, or a value of the wrong type or out of range.
    """
    return _build_config("lora", settings)


def DoRA(**settings: Any) -> AdaptationConfig:
    """LoRA with a trained magnitude per weight vector (Liu et al., ICML 2024); settings and errors as for ``LoRA``."""
    return _build_config("dora", settings)


def FullFineTuning(**settings: Any) -> AdaptationConfig:
    """Train the weights themselves; settings and errors as for ``LoRA``."""
    return _build_config("full", settings)


def _build_config(method: str, settings: dict[str, Any]) -> AdaptationConfig:
    config: AdaptationConfig = build(AdaptationConfig, settings | {"method": method}, "adaptation.")
    return config
