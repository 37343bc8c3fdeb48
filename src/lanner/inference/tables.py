"""Tables with one row per item, in float32 or as INT8 codes with one scale per row."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Int8Rows:
    """A table with row r equal to ``codes[r] · scale[r]``: codes int8 ``[I, D]``, scale float32 ``[I]``."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, table_ID: NDArray[np.float32], largest_code: int = 127) -> Self:
        """Round to nearest; each row's largest absolute value maps to largest_code; errors are at most half a code."""
        largest = np.abs(table_ID).max(axis=1, initial=0.0)
        scale = np.where(largest > 0, largest / largest_code, 1).astype(np.float32)
        return cls(np.rint(table_ID / scale[:, None]).astype(np.int8), scale)

    def __len__(self) -> int:
        return len(self.scale)


Table = NDArray[np.float32] | Int8Rows


def take(table: Table, rows: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.float32]:
    """Rows of a table as float32 ``[n, D]``."""
    if isinstance(table, Int8Rows):
        return table.codes[rows] * table.scale[rows, None]
    return table[rows]


def width(table: Table) -> int:
    """D."""
    return int(table.codes.shape[1] if isinstance(table, Int8Rows) else table.shape[1])


def nbytes(table: Table) -> int:
    """Size of the table in bytes."""
    return table.codes.nbytes + table.scale.nbytes if isinstance(table, Int8Rows) else table.nbytes


def multiply(left_BF: NDArray[np.float32], table: Table) -> NDArray[np.float32]:
    """``left_BF`` times a table of F rows, float32 ``[B, D]``."""
    if isinstance(table, Int8Rows):
        return np.asarray((left_BF * table.scale) @ table.codes.astype(np.float32))
    return np.asarray(left_BF @ table)


def named_arrays(name: str, table: Table) -> dict[str, NDArray[Any]]:
    """Arrays to be stored, by name; ``table_of`` is the inverse."""
    if isinstance(table, Int8Rows):
        return {f"{name}.codes": table.codes, f"{name}.scale": table.scale}
    return {name: table}


class GrowingTable:
    """A table and rows appended later, in the same format.

    One writer appends; readers need no lock, because published rows never change or move: when the capacity is
    exhausted, rows are copied to a larger array and readers keep theirs.
    """

    def __init__(self, base: Table) -> None:
        self.base = base
        self.num_base = len(base)
        self._later: Table = _empty_like(base, 0)
        self._num_later = 0

    def __len__(self) -> int:
        return self.num_base + self._num_later

    @property
    def nbytes(self) -> int:
        """Bytes of the base, memory-mapped or not, and of the appended rows."""
        return nbytes(self.base) + nbytes(self._later)

    @property
    def later(self) -> NDArray[np.float32]:
        """The appended rows, float32 ``[n, D]``."""
        return take(self._later, slice(0, self._num_later))

    def append(self, rows_ND: NDArray[Any]) -> None:
        """Append rows; INT8 tables quantise them."""
        first, last = self._num_later, self._num_later + len(rows_ND)
        if last > len(self._later):
            self._later = _enlarged(self._later, max(64, 2 * last))
        if isinstance(self._later, Int8Rows):
            rounded = Int8Rows.of(rows_ND)
            self._later.codes[first:last], self._later.scale[first:last] = rounded.codes, rounded.scale
        else:
            self._later[first:last] = rows_ND
        self._num_later = last  # last: publishes the rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, D]``."""
        if not self._num_later or not len(rows) or int(rows.max()) < self.num_base:
            return take(self.base, rows)
        found = take(self.base, np.minimum(rows, self.num_base - 1)) if self.num_base else self.later[:0]
        if not self.num_base:
            return take(self._later, rows)
        is_later = rows >= self.num_base
        found[is_later] = take(self._later, rows[is_later] - self.num_base)
        return found


def _empty_like(table: Table, rows: int) -> Table:
    if isinstance(table, Int8Rows):
        return Int8Rows(np.empty((rows, width(table)), np.int8), np.empty(rows, np.float32))
    return np.empty((rows, width(table)), table.dtype)


def _enlarged(table: Table, rows: int) -> Table:
    larger = _empty_like(table, rows)
    if isinstance(table, Int8Rows) and isinstance(larger, Int8Rows):
        larger.codes[: len(table)], larger.scale[: len(table)] = table.codes, table.scale
    elif not isinstance(table, Int8Rows) and not isinstance(larger, Int8Rows):
        larger[: len(table)] = table
    return larger
