"""Yelp Academic (Open) Dataset: businesses, reviews and users with their friends, one JSON object a line.

Source: https://www.yelp.com/dataset/documentation/main.
"""

from dataclasses import replace
from pathlib import Path

from lanner.data.sources.mapping import EntityColumns, InteractionColumns, SourceMapping, TieColumns, read_mapping
from lanner.data.tables import Tables

_PREFIX = "yelp_academic_dataset_"
_MAPPING = SourceMapping(
    "yelp",
    InteractionColumns("user_id", "business_id", f"{_PREFIX}review.json", timestamp="date", weight="stars"),
    EntityColumns(
        f"{_PREFIX}business.json",
        "business_id",
        "name",
        ("{name}.", "Categories: {categories}.", "In {city}."),
        {"categories": ",", "city": ""},
    ),
    EntityColumns(f"{_PREFIX}user.json", "user_id", "name"),
    TieColumns(f"{_PREFIX}user.json", "user_id", "friends", ","),
)


def detect(folder: Path) -> bool:
    """Whether the folder holds Yelp reviews and businesses."""
    return all((folder / f"{_PREFIX}{part}.json").is_file() for part in ("review", "business"))


def read(folder: Path) -> Tables:
    """Reviews as interactions, businesses as items; users and friends where the file is there."""
    known = (folder / f"{_PREFIX}user.json").is_file()
    return read_mapping(_MAPPING if known else replace(_MAPPING, users=None, ties=None), folder)
