"""Settings of models are numbers that their arithmetic can hold."""

from dataclasses import fields
from typing import Any

import numpy as np

from lanner.errors import ConfigError

_LARGEST = float(np.finfo(np.float32).max)
"""Models compute in float32; what is larger becomes infinite there."""


def require_finite(config: Any, section: str) -> None:
    """Raises ``ConfigError`` for the first field of a dataclass that is NaN, infinite, or infinite in float32.

    section: begins the field's name in the message.
    """
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, float) and not abs(value) <= _LARGEST:
            raise ConfigError(f"{section}.{one.name} must be a finite number, received {value}")
