"""Readers: a module or a recipe for each published format, and the caller's own recipe for any other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lanner.data.assemble import assemble
from lanner.data.interactions import Dataset
from lanner.data.sources import amazon, lightgcn, movielens, recbole, single
from lanner.data.sources.mapping import is_pattern, matching, read_mapping, without_missing
from lanner.data.sources.recipe import data_folder, read_recipe
from lanner.data.tables import Tables
from lanner.errors import DataError


@dataclass(frozen=True)
class Source:
    """A format: detects whether a path matches, and reads it."""

    detect: Callable[[Path], bool]
    read: Callable[[Path], Tables]


def _recipe_source(name: str) -> Source:
    """The format that ``<name>.toml`` beside this file describes; files of users and ties may be missing."""
    recipe = Path(__file__).with_name(f"{name}.toml")

    def detect(folder: Path) -> bool:
        mapping = read_recipe(recipe)
        files = [part.file for part in (mapping.interactions, mapping.items) if part is not None]
        return all((folder / file).is_file() for file in files if isinstance(file, str))

    def read(folder: Path) -> Tables:
        return read_mapping(without_missing(read_recipe(recipe), folder), folder)

    return Source(detect, read)


SOURCES = {
    "movielens": Source(movielens.detect, movielens.read),
    "amazon": Source(amazon.detect, amazon.read),
    "yelp": _recipe_source("yelp"),
    "lastfm-hetrec": _recipe_source("lastfm-hetrec"),
    "far-trans": _recipe_source("far-trans"),
    "lightgcn": Source(lightgcn.detect, lightgcn.read),
    "recbole": Source(recbole.detect, recbole.read),
    "single-file": Source(single.detect, single.read),
}
"""Formats by name, in the order in which ``load`` tries them."""


def load(path: Path | str, format: str = "auto") -> Dataset:
    """Read a dataset.

    path: a folder, a single file of interactions, a pattern for several (``events-*.csv``), or a recipe (``.toml``).
    format: ``"auto"`` detects it from the files; else a name in ``SOURCES``, or a recipe for the folder ``path``.
    Findings of the reader are in ``warnings`` and ``rejected``.

    Raises:
        DataError: nothing there, no format matches, or a file is not of its declared format.
        ConfigError: a recipe with an unknown or missing key.
    """
    path = Path(path)
    if not path.exists() and is_pattern(str(path)):
        return assemble(single.read_all(matching(Path(path.anchor), str(path.relative_to(path.anchor)))))
    if not path.exists():
        raise DataError(
            "no such file or folder; give a dataset's folder, a file of interactions or a recipe", path=path
        )
    return assemble(_tables(path, format))


def bundled(name: str) -> Path:
    """Recipe of a dataset that comes with the package.

    Raises:
        DataError: no dataset of that name is bundled.
    """
    shelf = Path(__file__).parents[2] / "bundled"
    recipe = shelf / name / f"{name}.toml"
    if not recipe.is_file():
        known = ", ".join(sorted(one.stem for one in shelf.glob("*/*.toml")))
        raise DataError(f"no bundled dataset '{name}'; known: {known}")
    return recipe


def _tables(path: Path, format: str) -> Tables:
    if path.suffix == ".toml":
        return _read_by_recipe(path, None)
    if format.endswith(".toml"):
        return _read_by_recipe(Path(format), path)
    if format == "auto":
        own = sorted(path.glob("*.toml")) if path.is_dir() else []
        return _read_by_recipe(own[0], path) if len(own) == 1 else _detected(path).read(path)
    if format not in SOURCES:
        raise DataError(f"unknown format '{format}'; known: auto, {', '.join(SOURCES)}, or a recipe (.toml)")
    return SOURCES[format].read(path)


def _read_by_recipe(recipe: Path, folder: Path | None) -> Tables:
    mapping = read_recipe(recipe)
    folder = folder or data_folder(mapping, recipe)
    if not folder.is_dir():
        raise DataError("no such folder; set LANNER_DATA to the folder that holds the datasets", path=folder)
    return read_mapping(mapping, folder)


def _detected(path: Path) -> Source:
    for source in SOURCES.values():
        if source.detect(path):
            return source
    known = ", ".join(SOURCES)
    raise DataError(f"no known format ({known}); describe its columns in a recipe (.toml) and load that", path=path)
