"""What a rung knows of its items beside the index: rows to gather and rows to rank, read straight from their codes.

Items that come while serving get rows beyond the rung's own, kept as its own are: a rung in INT8 rounds them, too. A
row never changes and never moves, so readers need no lock; one writer at a time adds.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, Table
from lanner.prefetch import AHEAD, fetch_row
from lanner.serving.growing import GrowingCodes, GrowingRows


class ItemTables:
    """Sources and, where the form has a head, the head's item half, by row."""

    def __init__(self, form: RequestForm) -> None:
        self._source = growing_table(form.source_ID)
        self._half = None if form.head is None else growing_table(form.head.item_IH)

    @property
    def num_items(self) -> int:
        """Rows that can be asked for."""
        return len(self._source)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tables, those mapped from a file included."""
        return self._source.memory_bytes + (0 if self._half is None else self._half.memory_bytes)

    def append(self, rows: ItemRows) -> None:
        """Give items the next rows."""
        if self._half is not None:
            assert rows.half_NH is not None, "a rung with a head needs the head's half of every item"
            self._half.append(rows.half_NH)
        # Last, for it is what ``num_items`` counts.
        self._source.append(rows.source_ND)

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
    """A float32 table and the rows that came after it."""

    def __init__(self, base_IW: NDArray[np.float32]) -> None:
        self._base_IW, self._later = base_IW, GrowingRows(np.float32, base_IW.shape[1])

    def __len__(self) -> int:
        return len(self._base_IW) + len(self._later)

    @property
    def memory_bytes(self) -> int:
        return self._base_IW.nbytes + self._later.rows.nbytes

    def append(self, rows_NW: NDArray[np.float32]) -> None:
        """Rows after all there are."""
        self._later.append(rows_NW)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, W]``."""
        return np.asarray(_take_floats(self._base_IW, self._later.room, rows))

    def correct(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As ``ItemTables.corrections``."""
        return np.asarray(_correct_floats(self._base_IW, self._later.room, rows_BC, hidden_BH, out_H))


class CodeTable:
    """A table in INT8 and the rows that came after it, rounded as it is."""

    def __init__(self, base: Int8Rows) -> None:
        self._base, self._later = base, GrowingCodes(base.codes.shape[1])

    def __len__(self) -> int:
        return len(self._base.codes) + len(self._later)

    @property
    def memory_bytes(self) -> int:
        return sum(part.codes.nbytes + part.scale.nbytes for part in (self._base, self._later.rows))

    def append(self, rows_NW: NDArray[np.float32]) -> None:
        """Rows after all there are."""
        self._later.append(rows_NW)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, W]``."""
        base, later = self._base, self._later.room
        return np.asarray(_take_codes(base.codes, base.scale, later.codes, later.scale, rows))

    def correct(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As ``ItemTables.corrections``."""
        base, later = self._base, self._later.room
        return np.asarray(_correct_codes(base.codes, base.scale, later.codes, later.scale, rows_BC, hidden_BH, out_H))


def growing_table(base: Table) -> FloatTable | CodeTable:
    """A table to which rows are appended, kept as its own are."""
    return CodeTable(base) if isinstance(base, Int8Rows) else FloatTable(base)


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
