"""Recipes: column mappings in TOML. The keys are the fields of ``SourceMapping`` and of the classes in it."""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_data_dir

from lanner.data.sources.mapping import SourceMapping
from lanner.vocabulary import ConfigError, DataError

DATA_VARIABLE = "LANNER_DATA"
"""Environment variable with the folder that holds the datasets."""


def read_recipe(path: Path) -> SourceMapping:
    """The mapping that a recipe file describes.

    Raises:
        DataError: the file is missing or not TOML.
        ConfigError: a key is unknown (the error names the nearest), missing, or of a wrong type.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise DataError("no such recipe", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not TOML ({error})", path=path) from error
    mapping: SourceMapping = _build(SourceMapping, values, f"{path}: ")
    events = mapping.interactions
    if events is not None and not (events.file or events.files):
        raise ConfigError(f"{path}: interactions.file is missing; name the file with the events")
    if events is not None and bool(events.item) == bool(events.wide):
        raise ConfigError(f"{path}: interactions needs either item or wide; name the column with the items")
    return mapping


def data_folder(mapping: SourceMapping, recipe: Path) -> Path:
    """Where the recipe's data lies: beside it for a folder that starts with a dot, otherwise under LANNER_DATA."""
    if mapping.folder.startswith("."):
        return recipe.parent / mapping.folder
    return Path(os.environ.get(DATA_VARIABLE) or user_data_dir("lanner")) / mapping.folder


def _build(kind: type[Any], values: Mapping[str, Any], place: str) -> Any:
    """An instance of the dataclass ``kind`` from a table of TOML."""
    fields = {one.name: one for one in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            advice = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(fields)}"
            raise ConfigError(f"{place}unknown key '{key}'; {advice}")
    for name, one in fields.items():
        required = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{place}the key '{name}' is missing")
    return kind(**{key: _value(hints[key], value, f"{place}{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, place: str) -> Any:
    """``value`` as the type ``hint`` asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _value(next(one for one in arguments if one is not type(None)), value, place)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _build(hint, value, f"{place}.")
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, place) for one in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _value(arguments[1], one, f"{place}.{key}") for key, one in value.items()}
    if origin is not None and hasattr(origin, "__mro__") and isinstance(value, list) and origin is not tuple:
        return [_value(arguments[0], one, place) for one in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    expected = " or ".join(map(str, arguments)) if origin is typing.Literal else getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{place} = {value!r}: expected {expected}")
