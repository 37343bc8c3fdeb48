"""The datasets that benchmarks name: those of ``recipes``, and the one that comes with the package."""

from pathlib import Path

from lanner.data.interactions import Dataset
from lanner.data.sources import bundled, load

_RECIPES = Path(__file__).parents[1] / "recipes"


def named(name: str) -> Dataset:
    """A dataset by its name; raises as ``load`` and ``bundled``."""
    recipe = _RECIPES / f"{name}.toml"
    return load(recipe if recipe.is_file() else bundled(name))
