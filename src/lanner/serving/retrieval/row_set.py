"""Rows as bits: what a filter leaves, in a form that is joined, counted and handed to a search in microseconds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RowSet:
    """A set of rows; rows are dense, as an ``IdMap`` gives them, so that a bit for each is little.

    bits: uint8 ``[⌈rows / 8⌉]``, the lowest bit of a byte first; whatever lies beyond is not in the set. Never changed.
    """

    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, rows: NDArray[np.integer], num_rows: int) -> Self:
        """The set of ``rows`` ``[n]``, in any order, repeated or not.

        Raises:
            ValueError: a row is negative or not below ``num_rows``.
        """
        bits = np.zeros((num_rows + 7) >> 3, np.uint8)
        wrong = mark(bits, rows, num_rows)
        if wrong >= 0:
            raise ValueError(f"row {rows[wrong]}, but rows are 0 or more and below {num_rows}")
        return cls(bits)

    @cached_property
    def count(self) -> int:
        """How many rows there are."""
        return count_bits(self.bits)

    def rows(self) -> NDArray[np.int64]:
        """The rows, ascending int64 ``[count]``."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little").view(np.bool_))

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of ``rows`` ``[n]``, none negative, are in the set."""
        held: NDArray[np.bool_] = _held(self.bits, rows)
        return held

    def first_bytes(self, number: int) -> NDArray[np.uint8]:
        """The bits of the first ``8 · number`` rows."""
        short = number - len(self.bits)
        return self.bits[:number] if short <= 0 else np.concatenate([self.bits, np.zeros(short, np.uint8)])


def count_bits(bits: NDArray[np.uint8]) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def mark(bits: NDArray[np.uint8], rows: NDArray[np.integer], num_rows: int) -> int:
    """Set the bits of ``rows``; the place of the first row outside ``0 … num_rows − 1``, where it stops, else −1."""
    for place in range(len(rows)):
        row = rows[place]
        if row < 0 or row >= num_rows:
            return place
        bits[row >> 3] |= np.uint8(1 << (row & 7))
    return -1


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _held(bits: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    held = np.zeros(len(rows), np.bool_)
    for place in range(len(rows)):
        row = rows[place]
        held[place] = (row >> 3) < len(bits) and (bits[row >> 3] >> (row & 7)) & 1 == 1
    return held
