"""Recipes: column mappings in TOML. The keys are the fields of ``SourceMapping`` and of the classes in it."""

import os
import tomllib
from pathlib import Path

from platformdirs import user_data_dir

from lanner.data.sources.mapping import SourceMapping
from lanner.errors import ConfigError, DataError
from lanner.settings import build

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
    mapping: SourceMapping = build(SourceMapping, values, f"{path}: ")
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
