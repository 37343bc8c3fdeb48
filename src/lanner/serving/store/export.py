"""The stored events as a file for the next training run."""

import os
import shutil
from pathlib import Path

import polars as pl

from lanner.errors import StorageError
from lanner.serving.store.relational import Store
from lanner.types import BEHAVIOUR, ITEM, TIMESTAMP, USER, WEIGHT

SEQUENCE_KEY = "lanner.store_sequence"
"""In the file's metadata: the store's events up to this number are in the file. A bundle trained on it records it."""
_SCHEMA = {USER: pl.String, ITEM: pl.String, BEHAVIOUR: pl.String, WEIGHT: pl.Float64, TIMESTAMP: pl.Float64}


def export_events(store: Store, path: Path) -> int:
    """Write all events to a Parquet file that ``lanner.data.sources.load`` reads; how many there were.

    Columns: user, item, behaviour, weight (null where the event had none), timestamp (seconds); in the order of
    arrival. The file is readable by its owner alone, and appears whole or not at all; what stood there before stands
    until then. Memory is that of a batch.

    Raises:
        StorageError: the disk refused. Otherwise as ``Store.events``.
    """
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
    """A file for each batch, and an empty one, so that a store without events has columns too.

    Returns how many events there were, and the sequence number up to which all are among them.
    """
    pl.DataFrame(schema=_SCHEMA).write_parquet(folder / "0000000000.part")
    count, sequence = 0, store.sequence()
    for number, rows in enumerate(store.events(), 1):
        values = [(row.user_id, row.item_id, row.behaviour, row.weight, row.timestamp) for row in rows]
        pl.DataFrame(values, schema=_SCHEMA, orient="row").write_parquet(folder / f"{number:010d}.part")
        count, sequence = count + len(rows), max(sequence, rows[-1].sequence)
    return count, sequence
