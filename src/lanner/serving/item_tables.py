"""What a rung knows of its items beside the index: rows to gather and rows to rank, read straight from their codes.

Items that come while serving get rows beyond the rung's own, kept as float32. A row never changes and never moves, so
readers need no lock; one writer at a time adds.
"""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, Table

_FIRST_ROOM = 256


class ItemTables:
    """Sources and, where the form has a head, the head's item half, by row."""

    def __init__(self, form: RequestForm) -> None:
        self._source = GrowingTable(form.source_ID)
        self._half = None if form.head is None else GrowingTable(form.head.item_IH)

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
        self, rows: NDArray[np.int64], hidden_H: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """out · relu(hidden + item half) of some items, float32 ``[C]``."""
        assert self._half is not None
        return self._half.each(
            rows,
            lambda table, own: np.asarray(
                _correct_codes(table.codes, table.scale, own, hidden_H, out_H)
                if isinstance(table, Int8Rows)
                else _correct_floats(table, own, hidden_H, out_H)
            ),
        )


class GrowingTable:
    """A table and the rows that came after it."""

    def __init__(self, base: Table) -> None:
        self._base, self._length = base, 0
        numbers = base.codes if isinstance(base, Int8Rows) else base
        self._base_rows, width = int(numbers.shape[0]), int(numbers.shape[1])
        self._later = np.empty((0, width), np.float32)

    def __len__(self) -> int:
        return self._base_rows + self._length

    @property
    def memory_bytes(self) -> int:
        base = self._base
        own = base.codes.nbytes + base.scale.nbytes if isinstance(base, Int8Rows) else base.nbytes
        return own + self._later.nbytes

    def append(self, rows_NW: NDArray[np.float32]) -> None:
        """Twice the room is made where it runs out; who reads the old array goes on reading the same rows."""
        needed = self._length + len(rows_NW)
        if needed > len(self._later):
            wider = np.empty((max(_FIRST_ROOM, 2 * needed), self._later.shape[1]), np.float32)
            wider[: self._length] = self._later[: self._length]
            self._later = wider
        self._later[self._length : needed] = rows_NW
        self._length = needed

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 ``[n, W]``."""
        return self.each(rows, _taken)

    def each(
        self, rows: NDArray[np.int64], work: Callable[[Table, NDArray[np.int64]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """``work(table, rows)`` for rows of the base and for later ones, put together in the order asked."""
        if not self._length:
            return work(self._base, rows)
        is_later = rows >= self._base_rows
        if not is_later.any():
            return work(self._base, rows)
        first, later = work(self._base, rows[~is_later]), work(self._later, rows[is_later] - self._base_rows)
        both = np.empty((len(rows), *later.shape[1:]), np.float32)
        both[~is_later], both[is_later] = first, later
        return both


def _taken(table: Table, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    if isinstance(table, Int8Rows):
        return np.asarray(_take_codes(table.codes, table.scale, rows))
    return table[rows]


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _take_codes(
    codes_IW: NDArray[np.int8], scale_I: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    out = np.empty((len(rows), codes_IW.shape[1]), np.float32)
    for place in range(len(rows)):
        row = rows[place]
        for column in range(codes_IW.shape[1]):
            out[place, column] = np.float32(codes_IW[row, column]) * scale_I[row]
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _correct_floats(
    item_IH: NDArray[np.float32], rows: NDArray[np.int64], hidden_H: NDArray[np.float32], out_H: NDArray[np.float32]
) -> NDArray[np.float32]:
    out = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        total = np.float32(0)
        for unit in range(len(hidden_H)):
            total += max(hidden_H[unit] + item_IH[rows[place], unit], np.float32(0)) * out_H[unit]
        out[place] = total
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _correct_codes(
    codes_IH: NDArray[np.int8],
    scale_I: NDArray[np.float32],
    rows: NDArray[np.int64],
    hidden_H: NDArray[np.float32],
    out_H: NDArray[np.float32],
) -> NDArray[np.float32]:
    out = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        total, scale = np.float32(0), scale_I[rows[place]]
        for unit in range(len(hidden_H)):
            value = hidden_H[unit] + scale * np.float32(codes_IH[rows[place], unit])
            total += max(value, np.float32(0)) * out_H[unit]
        out[place] = total
    return out
