"""Rows rejected while reading: counted by reason, and kept."""

from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lanner.data.tables import LINE, Table
from lanner.errors import DataError, StorageError
from lanner.types import REASON

if TYPE_CHECKING:
    from lanner.data.interactions import Dataset

_SCHEMA = {REASON: pl.String, "file": pl.String, LINE: pl.Int64, "record": pl.String}


@dataclass(frozen=True)
class Fault:
    """One way a row can be unusable: the reason in words, the field at fault, and the test."""

    reason: str
    field: str
    test: pl.Expr
    damning: bool = True
    """Whether a file with this fault in every row cannot be of the assumed format."""
    hint: str = "is this the right file and column?"
    """Advice on how to fix it."""


@dataclass
class Rejects:
    """Collects unusable rows over all the files of one dataset."""

    frames: list[pl.DataFrame] = field(default_factory=list)

    def split(self, table: Table, faults: list[Fault]) -> pl.DataFrame:
        """The usable rows of ``table``; the others are recorded under their first fault.

        Raises:
            DataError: the table has rows but none is usable: the file is not of its declared format.
        """
        frame = table.frame
        if not faults or not frame.select(pl.any_horizontal(fault.test.any() for fault in faults)).item():
            return frame
        counted = LINE in frame.columns
        numbered = frame if counted else frame.with_row_index(LINE, table.first_line)
        reason = pl.coalesce(pl.when(fault.test).then(pl.lit(fault.reason)) for fault in faults)
        marked = numbered.with_columns(reason.alias(REASON))
        bad = marked.filter(pl.col(REASON).is_not_null())
        if bad.height == frame.height:
            self._refuse(table, faults, bad)
        self.keep(bad, table.path)
        return marked.filter(pl.col(REASON).is_null()).drop(REASON if counted else [REASON, LINE])

    def keep(self, bad: pl.DataFrame, path: Path) -> None:
        """Keep rows that carry the columns ``reason`` and ``line``."""
        record = pl.struct(pl.exclude(REASON, LINE)).struct.json_encode()
        kept = bad.select(REASON, pl.lit(path.name).alias("file"), pl.col(LINE).cast(pl.Int64), record.alias("record"))
        self.frames.append(kept)

    @staticmethod
    def _refuse(table: Table, faults: list[Fault], bad: pl.DataFrame) -> None:
        harmless = [fault.reason for fault in faults if not fault.damning]
        if bad[REASON].is_in(harmless).any():
            return
        first = bad.row(0, named=True)
        fault = next(fault for fault in faults if fault.reason == first[REASON])
        cell = first.get(f"raw {fault.field}")
        shown = "" if cell is None or cell == "" else f" '{cell}'"
        problem = f"{fault.reason}{shown}, and none of the {bad.height} rows can be used; {fault.hint}"
        raise DataError(problem, **table.place(first[LINE]), field=table.column(fault.field))

    def frame(self) -> pl.DataFrame:
        """All rows: reason, file, line, record (JSON)."""
        return pl.concat([pl.DataFrame(schema=_SCHEMA), *self.frames])

    def counts(self) -> dict[str, int]:
        """Rows by reason, most frequent first."""
        counted = self.frame()[REASON].value_counts().sort(["count", REASON], descending=[True, False])
        return dict(counted.iter_rows())


def write_rejected(dataset: "Dataset", path: Path) -> Path | None:
    """Write the rejected rows as Parquet and return the file's path; None if there are none.

    path: a file that ends in ``.parquet``, which is replaced, or a folder, in which no file is replaced: the name is
    then ``rejected.parquet`` or, if that exists, ``rejected-2.parquet`` and so on.

    Raises:
        StorageError: the write failed.
    """
    if dataset.rejected_rows is None or dataset.rejected_rows.is_empty():
        return None
    if path.suffix != ".parquet":
        names = (path / f"rejected{end}.parquet" for end in chain([""], (f"-{number}" for number in count(2))))
        path = next(name for name in names if not name.exists())
    temporary = path.with_suffix(".parquet.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.rejected_rows.write_parquet(temporary, compression="zstd")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: the rejected rows could not be written ({error}); free the disk or choose another folder"
        ) from error
    return path
