"""Rows of arrays that come one after another and stay where they are."""

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lanner.models.request_form import Int8Rows

Number = TypeVar("Number", bound=np.generic)
_ROOM_BYTES = 2**22 - 2**12
"""Asked for at once for rows to come; the system gives memory to the pages that are written. NumPy asks it for pages of
2 MiB for whatever has 4 MiB or more."""


class GrowingRows(Generic[Number]):
    """A row never changes and never moves, so readers need no lock; one writer at a time appends."""

    def __init__(self, kept_as: type[Number], *shape: int) -> None:
        """shape: of a row."""
        self._room: NDArray[Number] = np.empty((0, *shape), kept_as)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def rows(self) -> NDArray[Number]:
        """Those there are, ``[n, …]``."""
        length = self._length  # before the array, which the writer may put a longer one in place of
        return self._room[:length]

    def append(self, rows: NDArray[Any]) -> None:
        """Twice the room is made where it runs out; who reads the old array goes on reading the same rows."""
        needed = self._length + len(rows)
        if needed > len(self._room):
            row_bytes = self._room.itemsize * int(np.prod(self._room.shape[1:]))
            at_first = _ROOM_BYTES // max(1, row_bytes)
            wider = np.empty((max(at_first, 2 * needed), *self._room.shape[1:]), self._room.dtype)
            wider[: self._length] = self.rows
            self._room = wider
        self._room[self._length : needed] = rows
        self._length = needed


class GrowingCodes:
    """The same of rows that are kept in INT8."""

    def __init__(self, width: int) -> None:
        self._codes, self._scale = GrowingRows(np.int8, width), GrowingRows(np.float32)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def rows(self) -> Int8Rows:
        """Those there are."""
        codes = self._codes.rows
        return Int8Rows(codes, self._scale.rows[: len(codes)])

    def append(self, rows_NW: NDArray[np.float32]) -> None:
        """Round rows, and keep them after all there are."""
        rounded = Int8Rows.of(rows_NW)
        self._scale.append(rounded.scale)
        self._codes.append(rounded.codes)  # last, for they are what is counted
