"""Rows as bits: what a filter leaves, in a form that is joined, counted and handed to a search in microseconds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray

_NONE = np.empty(0, np.uint8)


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
        return listed_bits(self.bits, self.count)

    def holds(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of ``rows`` ``[n]``, none negative, are in the set."""
        held: NDArray[np.bool_] = _held(self.bits, rows)
        return held

    def first_bytes(self, number: int) -> NDArray[np.uint8]:
        """The bits of the first ``8 · number`` rows."""
        short = number - len(self.bits)
        return self.bits[:number] if short <= 0 else np.concatenate([self.bits, np.zeros(short, np.uint8)])


def count_bits(bits: NDArray[np.uint8]) -> int:
    """How many bits are set."""
    return int(_count(*_words(bits)))


def listed_bits(bits: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The places of the ``count`` bits that are set, ascending.

    Of a million bits 1 or 10 % set: 0.2 and 0.7 ms, where unpacking them for ``flatnonzero`` takes 0.3 and 1.4.
    """
    places = np.empty(count + 1, np.int64)
    _list(*_words(bits), bits, places)
    return places[:count]


def passing(
    alive: NDArray[np.uint8], allow: NDArray[np.uint8] | None, deny: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], int]:
    """The bits of ``alive`` that are set in ``allow`` and not in ``deny``, all of one length, and how many they are."""
    found, count = _pass(alive, alive if allow is None else allow, _NONE if deny is None else deny)
    return found, int(count)


def _words(bits: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """``bits`` eight bytes at a time, and the bytes left over."""
    whole = len(bits) & ~7
    return bits[:whole].view(np.uint64), bits[whole:]


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _count(words: NDArray[np.uint64], rest: NDArray[np.uint8]) -> int:
    """Bits of 64 at a time, summed in ever wider fields; every request counts, so calls of NumPy are spared."""
    total = np.uint64(0)
    for place in range(len(words) + len(rest)):
        word = words[place] if place < len(words) else np.uint64(rest[place - len(words)])
        twos = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
        fours = (twos & np.uint64(0x3333333333333333)) + ((twos >> np.uint64(2)) & np.uint64(0x3333333333333333))
        eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += (eights * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return int(total)


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _pass(alive: NDArray[np.uint8], allow: NDArray[np.uint8], deny: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """As ``passing``, in one call; no ``deny``: nothing is denied."""
    found = alive & allow
    for byte in range(len(deny)):
        found[byte] &= deny[byte] ^ np.uint8(0xFF)
    whole = len(found) & ~7
    return found, _count(found[:whole].view(np.uint64), found[whole:])


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def bar_unset(bits: NDArray[np.uint8], scores_BI: NDArray[np.float32]) -> None:
    """Make the scores of items whose bits are not set −inf."""
    for byte in range((scores_BI.shape[1] + 7) >> 3):
        if bits[byte] != 0xFF:
            for item in range(8 * byte, min(8 * byte + 8, scores_BI.shape[1])):
                if not (bits[byte] >> (item & 7)) & 1:
                    for line in range(len(scores_BI)):
                        scores_BI[line, item] = -np.inf


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _list(
    words: NDArray[np.uint64], rest: NDArray[np.uint8], bits: NDArray[np.uint8], places: NDArray[np.int64]
) -> None:
    """Fill ``places``, which has room for one more: each bit is written, and overwritten where it was not set."""
    found = 0
    for word in range(len(words) + 1):
        if word < len(words) and words[word] == 0:
            continue
        for byte in range(8 * word, 8 * word + (8 if word < len(words) else len(rest))):
            if bits[byte]:
                for bit in range(8):
                    places[found] = 8 * byte + bit
                    found += (bits[byte] >> bit) & 1


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
def _held(bits: NDArray[np.uint8], rows: NDArray[np.integer]) -> NDArray[np.bool_]:
    held = np.zeros(len(rows), np.bool_)
    for place in range(len(rows)):
        row = rows[place]
        held[place] = (row >> 3) < len(bits) and (bits[row >> 3] >> (row & 7)) & 1 == 1
    return held
