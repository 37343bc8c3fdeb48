"""One file of interactions whose columns already have the house's names: user, item and, where known, the rest."""

from pathlib import Path
from typing import Any

import polars as pl

from lanner.data.sources.files import Layout, bad_json, header
from lanner.data.sources.mapping import OPTIONAL, InteractionColumns, SourceMapping, read_mapping
from lanner.data.tables import Tables
from lanner.errors import DataError
from lanner.types import ITEM, USER, WEIGHT

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_ENDS = (*_SEPARATORS, ".parquet", ".jsonl", ".ndjson")
_OTHER_NAMES = {"rating": WEIGHT, "user_id": USER, "item_id": ITEM}


def detect(path: Path) -> bool:
    """Whether this is a file (not a folder) that may hold a table."""
    return path.is_file() and path.suffix in _ENDS


def read(path: Path) -> Tables:
    """The interactions; ``rating``, ``user_id`` and ``item_id`` are understood as weight, user and item.

    Raises:
        DataError: no column says who or what.
    """
    layout = Layout(_SEPARATORS.get(path.suffix, ","))
    names = _names(path, layout)
    roles = {_OTHER_NAMES.get(name, name): name for name in names}
    for needed in (USER, ITEM):
        if needed not in roles:
            problem = f"no such column; the file has {', '.join(names)}. Describe its columns in a recipe (.toml)"
            raise DataError(problem, path=path, line=1, field=needed)
    known: dict[str, Any] = {name: roles[name] for name in OPTIONAL if name in roles}
    columns = InteractionColumns(roles[USER], roles[ITEM], path.name, **known)
    return read_mapping(SourceMapping(path.stem, columns, layout=layout), path.parent)


def _names(path: Path, layout: Layout) -> list[str]:
    try:
        if path.suffix == ".parquet":
            return list(pl.read_parquet_schema(path))
        if path.suffix in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path, infer_schema_length=1_000, n_rows=1_000).columns
    except pl.exceptions.PolarsError as error:
        if path.suffix != ".parquet":
            raise bad_json(path, path.read_bytes()) from error
        raise DataError(f"not what its name says ({str(error).splitlines()[0]})", path=path, line=1) from error
    return header(path, layout)[0]
