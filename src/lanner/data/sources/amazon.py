"""Amazon Reviews of 2014, 2018 and 2023: one JSON object a line, reviews and (where present) ``meta_*`` metadata.

The 2014 metadata are Python literals rather than JSON; they are read with ``ast.literal_eval``, which runs no code.
Without metadata an item's text is made of its first three reviews: convenient, but they may include reviews that an
evaluation holds out, so published figures need the metadata.

Source: McAuley Lab, https://amazon-reviews-2023.github.io and https://jmcauley.ucsd.edu/data/amazon.
"""

import ast
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lanner.data.columns import plain_text, read_times
from lanner.data.sources.files import read_bytes, read_file
from lanner.data.sources.mapping import (
    SLOT,
    InteractionColumns,
    SourceMapping,
    compose_text,
    read_mapping,
    split_values,
)
from lanner.data.tables import Entities, Table, Tables
from lanner.errors import DataError

_ENDS = (".json", ".json.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class _Edition:
    """The fields of one edition."""

    user: str
    item: str
    timestamp: str
    weight: str
    review: tuple[str, str]
    """Headline and body of a review."""
    lists: tuple[str, ...]
    """Metadata fields that become attributes."""
    text: tuple[str, ...]


_EARLY = _Edition(
    "reviewerID",
    "asin",
    "unixReviewTime",
    "overall",
    ("summary", "reviewText"),
    ("category", "categories", "brand"),
    ("{title}.", "By {brand}.", "{category}.", "{categories}.", "{feature}", "{description}"),
)
_EDITION_2023 = _Edition(
    "user_id",
    "parent_asin",
    "timestamp",
    "rating",
    ("title", "text"),
    ("main_category", "categories", "store"),
    ("{title}.", "By {store}.", "{main_category}.", "{categories}.", "{features}", "{description}"),
)


def detect(folder: Path) -> bool:
    """Whether the folder holds Amazon reviews of any edition."""
    return _reviews(folder) is not None


def read(folder: Path) -> Tables:
    """Reviews as interactions, metadata (or first reviews) as item texts and attributes."""
    found = _reviews(folder)
    if found is None:
        raise DataError("no file with Amazon reviews (reviewerID and asin, or user_id and parent_asin)", path=folder)
    path, edition = found
    columns = InteractionColumns(
        edition.user, edition.item, path.name, timestamp=edition.timestamp, weight=edition.weight
    )
    tables = read_mapping(SourceMapping("amazon", columns), folder)
    metadata = next((path for path in _files(folder) if path.name.startswith("meta_")), None)
    if metadata is not None:
        return Tables(tables.interactions, _from_metadata(metadata, edition))
    reviews = tuple(table.read_too(edition.review) for table in tables.interactions)
    return Tables(reviews, _from_reviews(path, edition))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(_ENDS)) if folder.is_dir() else []


def _reviews(folder: Path) -> tuple[Path, _Edition] | None:
    for path in _files(folder):
        keys = set() if path.name.startswith("meta_") else _first_keys(path)
        for edition in (_EARLY, _EDITION_2023):
            if {edition.user, edition.item} <= keys:
                return path, edition
    return None


def _first_keys(path: Path) -> set[str]:
    """Fields of the first line; empty if it is not a JSON object."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            first = json.loads(file.readline())
    except (OSError, EOFError, ValueError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def _from_reviews(path: Path, edition: _Edition) -> Entities:
    headline, body = edition.review
    table = read_file(path, [edition.item, edition.timestamp, headline, body])
    frame = table.frame.with_columns(read_times(table.frame[edition.timestamp])).sort(
        edition.timestamp, maintain_order=True
    )
    review = pl.concat_str(pl.col(headline, body), separator=". ", ignore_nulls=True)
    texts = frame.group_by(edition.item, maintain_order=True).agg(review.head(3).str.join(" ").alias("text"))
    texts = texts.with_columns(plain_text(texts["text"]))
    return Entities(Table(texts.rename({edition.item: "id"}).filter(pl.col("id").is_not_null()), path))


def _from_metadata(path: Path, edition: _Edition) -> Entities:
    slots = [name for fragment in edition.text for name in SLOT.findall(fragment)]
    wanted = list(dict.fromkeys([edition.item, "title", *slots, *edition.lists]))
    is_literal = read_bytes(path)[:2] == b"{'"
    frame = _literals(path, wanted) if is_literal else read_file(path, wanted, lists=wanted[1:]).frame
    frame = frame.with_columns(
        _lists(name) if name in edition.lists else _lists(name).list.join(" ").alias(name) for name in wanted
    )
    text = compose_text(edition.text, frame.schema).alias("text")
    return Entities(Table(frame.select(pl.col(edition.item).alias("id"), "title", text, *edition.lists), path))


def _literals(path: Path, wanted: list[str]) -> pl.DataFrame:
    """Lines that are Python dictionaries, every field as text."""
    rows = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        try:
            parsed = ast.literal_eval(line)
            rows.append([_as_text(parsed.get(name)) for name in wanted])
        except (ValueError, SyntaxError, AttributeError) as error:
            raise DataError(f"neither JSON nor a Python dictionary ({error})", path=path, line=number) from error
    return pl.DataFrame(rows, schema=dict.fromkeys(wanted, pl.String), orient="row")


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lists(name: str) -> pl.Expr:
    """Lists from JSON lists (nested ones flattened) and from plain texts alike."""
    column = pl.col(name)
    is_list = column.str.starts_with("[")
    return pl.when(is_list).then(split_values(column, "json")).otherwise(split_values(column, "")).alias(name)
