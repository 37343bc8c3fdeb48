"""What a reader returns: raw frames with Lanner's column names, not yet validated."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

LINE = "line"
"""Column with the row number in the file, from 1: lines of a text file, rows of a Parquet file."""

Keep = Literal["interacting", "listed"]
"""Which ids make up the dataset: those of the events, or also those of the catalogue."""


@dataclass(frozen=True)
class Table:
    """One file's rows. Row ``r`` of the frame is line ``first_line + r`` of the file.

    unit: name of such a line; for a frame, row.
    """

    frame: pl.DataFrame
    path: Path
    first_line: int = 1
    unit: Literal["line", "row"] = "line"
    unread: Mapping[str, str] = field(default_factory=dict)
    """Unread columns of the file, each with the standard name that may be meant; empty: none."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The file's own name of each renamed column."""

    def select(self, columns: dict[str, str]) -> "Table":
        """The columns ``{Lanner's name: name in the file}``."""
        frame = self.frame.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
        return replace(self, frame=frame, names=columns)

    def read_too(self, names: Collection[str]) -> "Table":
        """With columns that another part of the dataset reads from the same file."""
        return replace(self, unread={name: meant for name, meant in self.unread.items() if name not in names})

    def column(self, name: str) -> str:
        """The file's own name of a column, for errors."""
        return self.names.get(name, name)

    def place(self, line: int) -> dict[str, Any]:
        """Where a line is, as ``DataError`` takes it."""
        return {"path": self.path, "line": line} if self.unit == "line" else {"path": f"{self.path}, row {line}"}


@dataclass(frozen=True)
class Entities:
    """Items or users as listed. Columns: id, title?, text?; every column of lists is an attribute."""

    table: Table
    keep: Keep = "interacting"
    latest_last: bool = False
    """Whether a later row of the same id replaces an earlier one instead of being rejected."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Columns whose numbers or dates become an attribute, and the date format of each."""
    warnings: tuple[str, ...] = ()
    """Findings of the reader that a caller should know, a line each."""


@dataclass(frozen=True)
class Tables:
    """All the frames of one dataset.

    interactions: columns user, item and any of timestamp, weight, behaviour, order, partition. ties: columns user,
    friend. links: columns item, related. time_format: format of every timestamp, as in ``columns.read_times``.
    """

    interactions: tuple[Table, ...]
    items: Entities | None = None
    users: Entities | None = None
    ties: Table | None = None
    links: Table | None = None
    minimum_weight: float | None = None
    time_format: str = ""
