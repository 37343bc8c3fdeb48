"""The files of NGCF and LightGCN: a user and all their items on one line, the published split in two files.

Source: https://github.com/gusye1234/LightGCN-PyTorch.
"""

from pathlib import Path

import polars as pl

from lanner.data.sources.files import read_bytes
from lanner.data.tables import LINE, Table, Tables
from lanner.errors import DataError
from lanner.types import ITEM, USER

_PARTS = {"train": "train.txt", "test": "test.txt"}


def detect(folder: Path) -> bool:
    """Whether the folder holds train.txt and test.txt."""
    return all((folder / name).is_file() for name in _PARTS.values())


def read(folder: Path) -> Tables:
    """Both parts, distinguished by their partition. A user alone on a line has no events in that part."""
    return Tables(tuple(_part(folder / name, part) for part, name in _PARTS.items()))


def _part(path: Path, part: str) -> Table:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError("not text", path=path, line=1) from error
    rows = pl.Series(text.splitlines(), dtype=pl.String).str.strip_chars().str.split(" ").to_frame("cells")
    pairs = rows.with_row_index(LINE, 1).select(
        LINE, pl.col("cells").list.first().alias(USER), pl.col("cells").list.slice(1)
    )
    events = pairs.explode("cells").rename({"cells": ITEM}).filter(pl.col(ITEM).is_not_null() & (pl.col(ITEM) != ""))
    _require_numbers(events, path)
    ids = events.with_columns(pl.col(USER, ITEM).cast(pl.Int64))
    return Table(ids.with_columns(partition=pl.lit(part)), path)


def _require_numbers(events: pl.DataFrame, path: Path) -> None:
    """The format has no header and no names: anything but numbers means that this is another format."""
    for name in (USER, ITEM):
        strange = events.filter(pl.col(name).cast(pl.Int64, strict=False).is_null())
        if strange.height:
            line, cell = strange[LINE][0], strange[name][0]
            raise DataError(f"expected a number, received '{cell}'", path=path, line=line, field=name)
