"""MovieLens: ``ratings.dat`` and friends (100K's successors up to 10M), or ``ratings.csv`` and friends (latest, 20M …).

Source: Harper and Konstan, "The MovieLens Datasets: History and Context", TiiS 5(4), 2015.
"""

from dataclasses import replace
from pathlib import Path

from lanner.data.sources.mapping import Gather, read_mapping, without_missing
from lanner.data.sources.recipe import read_recipe
from lanner.data.tables import Tables


def detect(folder: Path) -> bool:
    """Whether the folder holds MovieLens ratings and movies."""
    return any((folder / f"ratings{end}").is_file() and (folder / f"movies{end}").is_file() for end in (".dat", ".csv"))


def read(folder: Path) -> Tables:
    """Ratings with times, movies with genres (and tags), users with gender, age and occupation where given."""
    kind = "dat" if (folder / "ratings.dat").is_file() else "csv"
    mapping = without_missing(read_recipe(Path(__file__).with_name(f"movielens-{kind}.toml")), folder)
    movies, tags_file = mapping.items, f"tags.{kind}"
    if movies is not None and (folder / tags_file).is_file():
        tags = Gather("tags", tags_file, movies.id, "tag")
        text, attributes = (*movies.text, "Tags: {tags}."), {**movies.attributes, "tags": ""}
        mapping = replace(mapping, items=replace(movies, text=text, attributes=attributes, gather=(tags,)))
    return read_mapping(mapping, folder)
