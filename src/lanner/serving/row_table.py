"""From ids to rows, fifty at a time: a history's items lie all over a catalogue's memory.

A dict reads a slot, an entry, the key and the number for each id, and a request among 100,000 items spent 39 µs waiting
for them. Here a slot is 16 bytes, and all slots of a request are asked for before the first is read. The interpreter is
not let go of for these few microseconds: to have it back took the event loop ten times as long.
"""

from collections.abc import Collection, Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.prefetch import fetch_row

_LEAST_SLOTS = 512
_GONE = -1
"""In a slot whose id went; an empty one holds 0, one in use its row + 1."""


class RowTable:
    """Rows by the hash of their ids, as Python keys it anew for each process.

    Ids themselves are not compared: that an unknown one of 64 bits meets one of a million known is as likely as 1 in
    10¹³. One thread writes at a time; others may read meanwhile, and find an id as it was before or after.
    """

    def __init__(self, row_of: Mapping[str, int]) -> None:
        """row_of: ids and their rows, which the caller goes on keeping and gives again to ``put``."""
        self._fill(row_of)
        self.rows(())  # compiled now rather than for the first request

    def rows(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Rows of those ids that are known, in their order, int64 ``[n]``."""
        found: NDArray[np.int64] = _found(self._slots, np.fromiter(map(hash, ids), np.int64, len(ids)))
        return found

    def put(self, item_id: str, row: int, row_of: Mapping[str, int]) -> None:
        """An id has another row from now on. row_of: all ids, this one included."""
        if 2 * self._used >= len(self._slots):
            self._fill(row_of)
        else:
            self._used += int(_written(self._slots, hash(item_id), row + 1))

    def remove(self, item_id: str) -> None:
        """An id is known no more."""
        self._used += int(_written(self._slots, hash(item_id), _GONE))

    def _fill(self, row_of: Mapping[str, int]) -> None:
        slots = np.zeros((1 << max(_LEAST_SLOTS, 2 * len(row_of)).bit_length(), 2), np.int64)
        hashes = np.fromiter(map(hash, row_of), np.int64, len(row_of))
        _write_all(slots, hashes, np.fromiter(row_of.values(), np.int64, len(row_of)))
        self._slots, self._used = slots, len(row_of)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _found(slots: NDArray[np.int64], hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    mask = len(slots) - 1
    for place in range(len(hashes)):
        fetch_row(slots, hashes[place] & mask)
    rows = np.empty(len(hashes), np.int64)
    number = 0
    for place in range(len(hashes)):
        slot = hashes[place] & mask
        while slots[slot, 1] != 0:
            if slots[slot, 0] == hashes[place] and slots[slot, 1] > 0:
                rows[number] = slots[slot, 1] - 1
                number += 1
                break
            slot = (slot + 1) & mask
    return rows[:number]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _written(slots: NDArray[np.int64], hashed: int, value: int) -> bool:
    """Whether a slot was taken that was empty."""
    mask = len(slots) - 1
    slot = hashed & mask
    while slots[slot, 1] != 0 and slots[slot, 0] != hashed:
        slot = (slot + 1) & mask
    was_empty = slots[slot, 1] == 0
    # The number last: a slot without one is read by nobody.
    slots[slot, 0] = hashed
    slots[slot, 1] = value
    return bool(was_empty)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _write_all(slots: NDArray[np.int64], hashes: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    for place in range(len(hashes)):
        _written(slots, hashes[place], rows[place] + 1)
