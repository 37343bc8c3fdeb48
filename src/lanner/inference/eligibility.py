"""Eligibility: which items may be recommended, one mask applied before top-k on every path.

A row is eligible if it is available (not deleted, hidden, expired or out of stock), allowed by the request's filters,
and neither denied nor seen. Rows beyond the end of a mask are not eligible.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lanner.errors import RequestError, nearest


@dataclass(frozen=True, eq=False)
class RowMask:
    """Rows allowed by a filter. allowed_R: bool ``[rows]``, immutable."""

    allowed_R: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: NDArray[np.integer], num_rows: int) -> Self:
        """A mask that allows exactly ``rows`` ``[n]``, in any order.

        Raises:
            ValueError: a row is outside 0 … ``num_rows`` − 1.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise ValueError(f"rows are between {rows.min()} and {rows.max()}; they must be 0 … {num_rows - 1}")
        allowed_R = np.zeros(num_rows, np.bool_)
        allowed_R[rows] = True
        return cls(allowed_R)

    def __and__(self, other: "RowMask") -> "RowMask":
        """Intersection."""
        shorter = min(len(self.allowed_R), len(other.allowed_R))
        return RowMask(self.allowed_R[:shorter] & other.allowed_R[:shorter])

    @cached_property
    def count(self) -> int:
        """Number of allowed rows."""
        return int(np.count_nonzero(self.allowed_R))

    def rows(self) -> NDArray[np.int64]:
        """Allowed rows, ascending int64 ``[count]``."""
        return np.flatnonzero(self.allowed_R)

    def holds(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each of ``rows`` ``[n]``, non-negative, is allowed."""
        return _lookup(self.allowed_R, rows)

    def dense(self, n: int) -> NDArray[np.bool_]:
        """bool ``[n]``; may be a view, so do not write to it."""
        return _resized(self.allowed_R, n)


def unknown_attribute(name: str, known: Iterable[str]) -> RequestError:
    """The error for a filter by an attribute that no item has."""
    names = list(known)
    near = nearest(name, names)
    advice = f"did you mean '{near}'? " if near else ""
    return RequestError(f"unknown attribute '{name}'; {advice}known attributes: {', '.join(names) or 'none'}")


class Availability:
    """Availability of each row. One writer at a time; readers need no lock.

    A change replaces the array, so that readers hold a consistent snapshot: NumPy first counts and then lists set bits,
    and a concurrent change in between produced invalid rows.
    """

    def __init__(self, num_rows: int) -> None:
        """The first ``num_rows`` rows are available."""
        self._room_R = np.ones(num_rows, np.bool_)
        """Immutable; False beyond the rows assigned so far."""
        self._length = num_rows
        self.num_hidden = 0
        """Number of unavailable rows among those assigned so far."""

    def __len__(self) -> int:
        """Number of rows assigned so far."""
        return self._length

    def grow(self, n: int) -> None:
        """Extend to n rows. New rows are hidden until ``show``."""
        if n > len(self._room_R):
            self._room_R = np.pad(self._room_R, (0, max(n, 2 * len(self._room_R), 64) - len(self._room_R)))
        self.num_hidden += max(0, n - self._length)
        self._length = max(n, self._length)

    def hide(self, rows: NDArray[np.integer]) -> None:
        """Make rows ``[n]`` unavailable."""
        self._set(rows, False)

    def show(self, rows: NDArray[np.integer]) -> None:
        """Make rows ``[n]`` available."""
        self._set(rows, True)

    def mask(self, n: int) -> NDArray[np.bool_]:
        """A snapshot, bool ``[n]``; do not write to it."""
        return _resized(self._room_R, n)

    def holds(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each of ``rows`` ``[n]``, non-negative, is available."""
        return _lookup(self._room_R, rows)

    def _set(self, rows: NDArray[np.integer], available: bool) -> None:
        rows = np.unique(rows)
        if len(rows) and not 0 <= rows[0] <= rows[-1] < self._length:
            raise ValueError(f"rows are between {rows[0]} and {rows[-1]}; they must be 0 … {self._length - 1}")
        rows = rows[self._room_R[rows] != available]
        if len(rows):
            changed_R = self._room_R.copy()
            changed_R[rows] = available
            # Never too low: readers that see 0 hidden rows skip the mask.
            if available:
                self._room_R = changed_R
                self.num_hidden -= len(rows)
            else:
                self.num_hidden += len(rows)
                self._room_R = changed_R


def eligible(
    available: Availability | None,
    allow: RowMask | None,
    deny: NDArray[np.integer] | None,
    seen: NDArray[np.integer] | None,
    n: int,
) -> NDArray[np.bool_] | None:
    """Rows eligible for one request, bool ``[n]``; None: all.

    The result may be a view of a mask, so do not write to it.

    Args:
        available: None: all rows.
        allow: None: all rows.
        deny: rows excluded by the caller, in any order; rows beyond n are ignored.
        seen: rows of the user's history, likewise.
        n: number of rows.
    """
    found = None
    if available is not None and (available.num_hidden or n > len(available)):
        found = available.mask(n)
    if allow is not None:
        allowed = allow.dense(n)
        found = allowed if found is None else found & allowed
    excluded = [rows[rows < n] for rows in (deny, seen) if rows is not None and len(rows)]
    if excluded:
        found = np.ones(n, np.bool_) if found is None else found.copy()
        for rows in excluded:
            found[rows] = False
    return found


def is_in(rows: NDArray[np.integer], listed: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each of ``rows`` is in ``listed``; 4 times faster than ``np.isin``."""
    if not len(listed):
        return np.zeros(len(rows), np.bool_)
    listed = np.sort(listed)
    return np.asarray(listed[np.minimum(np.searchsorted(listed, rows), len(listed) - 1)] == rows)


def _resized(mask_R: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    return mask_R[:n] if len(mask_R) >= n else np.pad(mask_R, (0, n - len(mask_R)))


def _lookup(mask_R: NDArray[np.bool_], rows: NDArray[np.integer]) -> NDArray[np.bool_]:
    found = np.zeros(len(rows), np.bool_)
    inside = rows < len(mask_R)
    found[inside] = mask_R[rows[inside]]
    return found
