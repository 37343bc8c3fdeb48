"""Recipes: column mappings in TOML. The keys are the fields of ``SourceMapping`` and of the classes in it."""

import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_data_dir

from lanner.data.sources.mapping import SourceMapping
from lanner.errors import ConfigError, DataError
from lanner.settings import Setting, build, described

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
    if events is not None and "%Z" in events.format:
        hint = "write offsets and %z, or UTC itself where every time ends in it"
        raise ConfigError(f"{path}: interactions.format: '{events.format}' would skip the zone's name (%Z); {hint}")
    if events is not None and bool(events.item) == bool(events.wide):
        raise ConfigError(f"{path}: interactions needs either item or wide; name the column with the items")
    return mapping


def data_folder(mapping: SourceMapping, recipe: Path) -> Path:
    """Where the recipe's data lies: relative to it for a folder that starts with a dot, otherwise under LANNER_DATA."""
    if mapping.folder.startswith("."):
        return recipe.parent / mapping.folder
    return data_root() / mapping.folder


def data_root() -> Path:
    """The folder that holds the datasets: the variable LANNER_DATA, else the user's data directory."""
    return Path(os.environ.get(DATA_VARIABLE) or user_data_dir("lanner"))


_REFERENCE = """# Recipes

Generated from the code by `python -m benchmarks.readme`. A recipe is a TOML file that names the files and columns of a
dataset. `lanner run shop.toml` reads it; a folder that holds exactly one recipe is read by it. More are in `recipes/`.

```toml
name = "shop"
folder = "."

[interactions]
file = ["orders.csv", "events-*.parquet"]
user = "customer"
item = "article"
timestamp = "date"
format = "%d/%m/%Y"
weight = "stars"

[items]
file = "articles.csv"
id = "article"
title = "name"
text = ["{name}.", "By {brand}.", "{description}"]
attributes = { brand = "", categories = "|" }

[layout]
separator = ";"
encoding = "latin-1"
```

Parquet files end in `.parquet`, files with one JSON object a line in `.jsonl`, `.ndjson` or `.json`; any other is a
delimited text. Text files may be packed (`.gz`). Without a recipe, a single file is read by the names of its columns:
`user` or `user_id`, `item` or `item_id`, `timestamp`, `rating` or `weight`, `behaviour`, `title`, `description`.

Ids are kept as written, without space around them, with one exception: if a column holds only numbers and some end in
`.0`, those ids lose it, as tools write whole numbers so when a cell is missing. `1.0` and `1` are then one id, and `01`
is another; in a column with a single text, `7` and `7.0` are two. An empty cell is a missing id, and its row is
rejected. `nan`, `NULL` or `None` is an id, but a warning counts such events.
"""
_SECTIONS = {
    "": "The recipe",
    "interactions": "Events: `[interactions]`",
    "items": "Items, and users in the same way: `[items]`, `[users]`",
    "items.gather": "Values from a file of their own: `[[items.gather]]`, `[[users.gather]]`",
    "ties": "Social edges: `[ties]`",
    "links": "Edges between items: `[links]`",
    "layout": "Delimited files: `[layout]`",
}


def recipe_reference() -> str:
    """``docs/recipes.md``: every key of a recipe with its type, default, meaning and example."""
    found = list(described(SourceMapping))
    tables = {
        title: _table(one for one in found if one.name.rpartition(".")[0] == section)
        for section, title in _SECTIONS.items()
    }
    return "\n".join([_REFERENCE, *(f"## {title}\n\n{table}" for title, table in tables.items())])


def _table(keys: Iterable[Setting]) -> str:
    rows = [("key", "type", "default", "meaning", "example"), ("---",) * 5]
    for key in keys:
        meaning, _, example = key.meaning.partition(" Example: ")
        shown = "" if key.default is None else f"`{json.dumps(key.default)}`"
        name = f"`{key.name.rpartition('.')[2]}`"
        rows.append((name, key.type, "required" if key.required else shown, meaning, f"`{example}`" if example else ""))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
