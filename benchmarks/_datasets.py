"""The datasets that benchmarks use: those of ``recipes``, and the one bundled with the package."""

from pathlib import Path

from lanner.data.interactions import Dataset
from lanner.data.sources import bundled, load

_RECIPES = Path(__file__).parents[1] / "recipes"


def named(name: str) -> Dataset:
    """A dataset by its name; raises the errors of ``load`` and ``bundled``."""
    recipe = _RECIPES / f"{name}.toml"
    return load(recipe if recipe.is_file() else bundled(name))
