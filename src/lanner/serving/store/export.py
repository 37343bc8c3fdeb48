"""The stored events as a file for the next training run."""

import os
import shutil
from pathlib import Path

import polars as pl

from lanner.errors import StorageError
from lanner.serving.store.contract import Store
from lanner.types import BEHAVIOUR, ITEM, TIMESTAMP, USER, WEIGHT

_SCHEMA = {USER: pl.String, ITEM: pl.String, BEHAVIOUR: pl.String, WEIGHT: pl.Float64, TIMESTAMP: pl.Float64}
_UNWEIGHTED = 1.0
"""What an event without a weight weighs beside others that have one."""


def export_events(store: Store, path: Path) -> int:
    """Write all events to a Parquet file that ``lanner.data.sources.load`` reads; how many there were.

    Columns: user, item, behaviour, weight (1 where the event had none), timestamp (seconds); in the order of arrival.
    The file appears whole or not at all; what stood there before stands until then. Memory is that of a batch.

    Raises:
        StorageError: the disk refused. Otherwise as ``Store.events``.
    """
    draft = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        count = _write_parts(store, draft)
        pl.scan_parquet(sorted(draft.glob("*.part"))).sink_parquet(draft / "whole")
        with (draft / "whole").open("rb+") as file:
            os.fsync(file.fileno())
        (draft / "whole").replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return count


def _write_parts(store: Store, folder: Path) -> int:
    """A file for each batch, and an empty one, so that a store without events has columns too."""
    pl.DataFrame(schema=_SCHEMA).write_parquet(folder / "0000000000.part")
    count = 0
    for number, rows in enumerate(store.events(), 1):
        columns = (
            [row.user_id for row in rows],
            [row.item_id for row in rows],
            [row.behaviour for row in rows],
            [_UNWEIGHTED if row.weight is None else row.weight for row in rows],
            [row.timestamp for row in rows],
        )
        frame = pl.DataFrame(dict(zip(_SCHEMA, columns, strict=True)), schema=_SCHEMA)
        frame.write_parquet(folder / f"{number:010d}.part")
        count += len(rows)
    return count
