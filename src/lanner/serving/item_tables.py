"""What a rung knows of its items beside the index: rows to gather and rows to rank, read straight from their codes.

Items that come while serving get rows beyond the rung's own, kept as its own are: a rung in INT8 rounds them, too. A
row never changes and never moves, so readers need no lock; one writer at a time adds.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.errors import ConfigError
from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, Table
from lanner.prefetch import AHEAD, fetch_row
from lanner.serving.shelf import Shelf


class ItemTables:
    """Sources and, where the form has a head, the head's item half, by row."""

    def __init__(self, form: RequestForm, name: str = "", shelf: Shelf | None = None) -> None:
        """name: of the rung, no two alike on a shelf.

        shelf: where rows that come are put; None: one of its own. Rungs on one shelf share the rows that are the same.
        """
        self._shelf, reduction = shelf or Shelf(), form.reduction
        whole = reduction.source_DR is None
        self._source = growing_table(form.source_ID, "source" if whole else f"{name}.source", self._shelf)
        self._half = None
        if form.head is not None:
            whole = reduction.neurons is None
            self._half = growing_table(form.head.item_IH, "half" if whole else f"{name}.half", self._shelf)
        self._num_came = 0

    @property
    def num_items(self) -> int:
        """Rows that can be asked for."""
        return self._source.num_base + self._num_came

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tables, those mapped from a file and those that rungs share included."""
        tables = (self._source,) if self._half is None else (self._source, self._half)
        return sum((one.num_base + self._num_came) * one.row_bytes for one in tables)

    def append(self, rows: ItemRows) -> None:
        """Give items the next rows.

        Raises:
            ConfigError: the shelf is full.
        """
        came = self._num_came + len(rows.source_ND)
        if came > self._shelf.most_rows:
            raise ConfigError(f"{came} items came, there is room for {self._shelf.most_rows}; serve a newer bundle")
        if self._half is not None:
            assert rows.half_NH is not None, "a rung with a head needs the head's half of every item"
            self._half.put(self._num_came, rows.half_NH)
        self._source.put(self._num_came, rows.source_ND)
        self._num_came = came  # last, for nobody asks for a row that is not counted

    def sources(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What is gathered of a history, float32 ``[n, D]``."""
        return self._source.take(rows)

    def corrections(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """out · relu(hidden + item half) of some items for each of B users, float32 ``[B, C]``; 0 for no item, −1."""
        assert self._half is not None
        return self._half.correct(rows_BC, hidden_BH, out_H)


class FloatTable:
    """A float32 table and the rows that come after it."""

    def __init__(self, base_IW: NDArray[np.float32], name: str, shelf: Shelf) -> None:
        self._base_IW, self._later_NW = base_IW, shelf.rows(name, np.float32, base_IW.shape[1])
        self.num_base, self.row_bytes = len(base_IW), 4 * base_IW.shape[1]

    def put(self, first: int, rows_nW: NDArray[np.float32]) -> None:
        """Write rows that come, of which ``first`` have come before."""
        self._later_NW[first : first + len(rows_nW)] = rows_nW

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, W]``."""
        return np.asarray(_take_floats(self._base_IW, self._later_NW, rows))

    def correct(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As ``ItemTables.corrections``."""
        return np.asarray(_correct_floats(self._base_IW, self._later_NW, rows_BC, hidden_BH, out_H))


class CodeTable:
    """A table in INT8 and the rows that come after it, rounded as it is."""

    def __init__(self, base: Int8Rows, name: str, shelf: Shelf) -> None:
        self.num_base, width = base.codes.shape
        self._base, self.row_bytes = base, width + 4
        self._later = Int8Rows(shelf.rows(f"{name}.codes", np.int8, width), shelf.rows(f"{name}.scale", np.float32))

    def put(self, first: int, rows_nW: NDArray[np.float32]) -> None:
        """As ``FloatTable.put``."""
        rounded, place = Int8Rows.of(rows_nW), slice(first, first + len(rows_nW))
        self._later.codes[place], self._later.scale[place] = rounded.codes, rounded.scale

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, W]``."""
        base, later = self._base, self._later
        return np.asarray(_take_codes(base.codes, base.scale, later.codes, later.scale, rows))

    def correct(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As ``ItemTables.corrections``."""
        base, later = self._base, self._later
        return np.asarray(_correct_codes(base.codes, base.scale, later.codes, later.scale, rows_BC, hidden_BH, out_H))


def growing_table(base: Table, name: str, shelf: Shelf) -> FloatTable | CodeTable:
    """A table to which rows are added, kept as its own are."""
    return CodeTable(base, name, shelf) if isinstance(base, Int8Rows) else FloatTable(base, name, shelf)


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _take_codes(
    codes_IW: NDArray[np.int8],
    scale_I: NDArray[np.float32],
    later_NW: NDArray[np.int8],
    later_scale_N: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    out = np.empty((len(rows), codes_IW.shape[1]), np.float32)
    for place in range(len(rows)):
        if place + AHEAD < len(rows):
            fetch_row(codes_IW, rows[place + AHEAD])
        row = rows[place]
        if row >= len(codes_IW):
            later = row - len(codes_IW)
            out[place] = later_NW[later] * later_scale_N[later]
            continue
        for column in range(codes_IW.shape[1]):
            out[place, column] = np.float32(codes_IW[row, column]) * scale_I[row]
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _take_floats(
    base_IW: NDArray[np.float32], later_NW: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    out = np.empty((len(rows), base_IW.shape[1]), np.float32)
    for place in range(len(rows)):
        if place + AHEAD < len(rows):
            fetch_row(base_IW, rows[place + AHEAD])
        row = rows[place]
        out[place] = base_IW[row] if row < len(base_IW) else later_NW[row - len(base_IW)]
    return out


@njit(cache=True, nogil=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator]
def _correct_float(
    half_H: NDArray[np.float32], hidden_H: NDArray[np.float32], out_H: NDArray[np.float32]
) -> np.float32:
    total = np.float32(0)
    for unit in range(len(hidden_H)):
        total += max(hidden_H[unit] + half_H[unit], np.float32(0)) * out_H[unit]
    return total


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _correct_floats(
    item_IH: NDArray[np.float32],
    later_NH: NDArray[np.float32],
    rows_BC: NDArray[np.int64],
    hidden_BH: NDArray[np.float32],
    out_H: NDArray[np.float32],
) -> NDArray[np.float32]:
    out = np.empty(rows_BC.shape, np.float32)
    for user in range(rows_BC.shape[0]):
        for place in range(rows_BC.shape[1]):
            if place + AHEAD < rows_BC.shape[1]:
                fetch_row(item_IH, rows_BC[user, place + AHEAD])
            row = rows_BC[user, place]
            if row < 0:
                out[user, place] = 0
                continue
            half_H = item_IH[row] if row < len(item_IH) else later_NH[row - len(item_IH)]
            out[user, place] = _correct_float(half_H, hidden_BH[user], out_H)
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _correct_codes(
    codes_IH: NDArray[np.int8],
    scale_I: NDArray[np.float32],
    later_NH: NDArray[np.int8],
    later_scale_N: NDArray[np.float32],
    rows_BC: NDArray[np.int64],
    hidden_BH: NDArray[np.float32],
    out_H: NDArray[np.float32],
) -> NDArray[np.float32]:
    out = np.empty(rows_BC.shape, np.float32)
    for user in range(rows_BC.shape[0]):
        hidden_H = hidden_BH[user]
        for place in range(rows_BC.shape[1]):
            if place + AHEAD < rows_BC.shape[1]:
                fetch_row(codes_IH, rows_BC[user, place + AHEAD])
            row = rows_BC[user, place]
            if row < 0:
                out[user, place] = 0
                continue
            if row >= len(codes_IH):
                half_H = later_NH[row - len(codes_IH)] * later_scale_N[row - len(codes_IH)]
                out[user, place] = _correct_float(half_H, hidden_H, out_H)
                continue
            # Written out: a part of the table would be counted as held, row by row, in half as much time again.
            total, scale = np.float32(0), scale_I[row]
            for unit in range(len(hidden_H)):
                value = hidden_H[unit] + scale * np.float32(codes_IH[row, unit])
                total += max(value, np.float32(0)) * out_H[unit]
            out[user, place] = total
    return out
