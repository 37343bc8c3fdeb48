"""Lists of different lengths in two flat arrays (the CSR layout)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.grouping import group


@dataclass(frozen=True)
class Ragged:
    """``values[indptr[r] : indptr[r + 1]]`` is list ``r``.

    indptr: int64 ``[rows + 1]``, starts at 0, non-decreasing. values: int32 ``[indptr[-1]]``.
    """

    indptr: NDArray[np.int64]
    values: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.values[self.indptr[row] : self.indptr[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 ``[rows]``."""
        return np.diff(self.indptr)

    @property
    def row_of_value(self) -> NDArray[np.int64]:
        """The list that each value belongs to, int64 ``[indptr[-1]]``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @classmethod
    def from_pairs(cls, rows: NDArray[np.integer], values: NDArray[np.integer], num_rows: int) -> Self:
        """Group ``values`` by ``rows``; the order inside a list is the order given (a stable sort)."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise ValueError(f"rows {rows.min()} … {rows.max()} do not fit {num_rows} lists")
        return cls(*group(rows, values.astype(np.int32, copy=False), num_rows))

    @classmethod
    def from_lists(cls, lists: list[list[int]] | list[NDArray[np.int32]]) -> Self:
        indptr = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(one) for one in lists], out=indptr[1:])
        values = np.concatenate([np.asarray(one, np.int32) for one in lists]) if lists else np.empty(0, np.int32)
        return cls(indptr, values)

    @classmethod
    def empty(cls, num_rows: int) -> Self:
        return cls(np.zeros(num_rows + 1, np.int64), np.empty(0, np.int32))

    def take(self, rows: NDArray[np.integer]) -> Self:
        """The lists ``rows``, in that order."""
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.lengths[rows], out=indptr[1:])
        return type(self)(indptr, self.values[self.places(rows)])

    def places(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Positions in ``values`` of the entries of ``take(rows)``: for arrays aligned with ``values``."""
        lengths = self.lengths[rows]
        before = np.cumsum(lengths) - lengths
        places: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(self.indptr[rows] - before, lengths)
        return places

    def join(self, other: "Ragged") -> Self:
        """Row by row, the list of ``self`` followed by that of ``other``."""
        rows = np.concatenate([self.row_of_value, other.row_of_value])
        return self.from_pairs(rows, np.concatenate([self.values, other.values]), len(self))
