"""Numeric settings are checked against bounds and against the range of float32."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from lanner.errors import ConfigError

_LARGEST = float(np.finfo(np.float32).max)
"""Models compute in float32; larger numbers become infinite."""


def check_numbers(
    config: Any,
    section: str,
    *,
    at_least_1: Iterable[str] = (),
    at_least_0: Iterable[str] = (),
    above_0: Iterable[str] = (),
) -> None:
    """Check that every number of a dataclass is finite in float32, and that those named are within their bounds.

    section: prefix of the field's name in the message.

    Raises:
        ConfigError: a number violates its bound.
    """
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, float) and not abs(value) <= _LARGEST:
            raise ConfigError(f"{section}.{one.name} must be a finite number, received {value}")
    for names, least in ((at_least_1, 1), (at_least_0, 0)):
        for name in names:
            if getattr(config, name) < least:
                raise ConfigError(f"{section}.{name} must be at least {least}, received {getattr(config, name)}")
    for name in above_0:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{section}.{name} must be above 0, received {getattr(config, name)}")
