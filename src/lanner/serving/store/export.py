"""Export stored events to a file for the next training run."""

import os
import shutil
from pathlib import Path

import polars as pl

from lanner.errors import RequestError, StorageError
from lanner.serving.store.relational import Store
from lanner.types import BEHAVIOUR, ITEM, TIMESTAMP, USER, WEIGHT

SEQUENCE_KEY = "lanner.store_sequence"
"""File metadata key: sequence number up to which the store's events are in the file; recorded in the bundle."""
_SCHEMA = {USER: pl.String, ITEM: pl.String, BEHAVIOUR: pl.String, WEIGHT: pl.Float64, TIMESTAMP: pl.Float64}


def export_events(store: Store, path: Path) -> int:
    """Write all events to a Parquet file readable by ``lanner.data.sources.load``; returns their number.

    Columns: user, item, behaviour, weight (null if not given), timestamp (seconds), in order of arrival. The file is
    readable by its owner only and written atomically. Memory use is that of one batch.

    Raises:
        RequestError: the name does not end in ``.parquet``, by which the file is read again.
        StorageError: the disk cannot be written. As ``Store.events``.
    """
    if path.suffix != ".parquet":
        raise RequestError(f"{path.name}: unknown format; the name must end with .parquet")
    draft = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir(mode=0o700)
        count, sequence = _write_parts(store, draft)
        whole = draft / "whole"
        pl.scan_parquet(sorted(draft.glob("*.part"))).sink_parquet(whole, metadata={SEQUENCE_KEY: str(sequence)})
        whole.chmod(0o600)
        with whole.open("rb+") as file:
            os.fsync(file.fileno())
        whole.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return count


def _write_parts(store: Store, folder: Path) -> tuple[int, int]:
    """Write one file per batch, and an empty one, so that an empty store also has columns.

    Returns the number of events and the sequence number that they cover.
    """
    pl.DataFrame(schema=_SCHEMA).write_parquet(folder / "0000000000.part")
    count, sequence = 0, store.sequence()
    for number, rows in enumerate(store.events(), 1):
        values = [(row.user_id, row.item_id, row.behaviour, row.weight, row.timestamp) for row in rows]
        pl.DataFrame(values, schema=_SCHEMA, orient="row").write_parquet(folder / f"{number:010d}.part")
        count, sequence = count + len(rows), max(sequence, rows[-1].sequence)
    return count, sequence
