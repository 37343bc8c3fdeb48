"""Numbers and dates as attributes: each range is a value like any other."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute
from lanner.data.columns import SECOND, nanoseconds, read_times
from lanner.data.ragged import Ragged

MOST_RANGES = 150
"""Ranges hold about as many entities each; a number with fewer distinct values has a range for each of them."""


def ranged(column: pl.Series, date_format: str) -> tuple[Attribute, str | None]:
    """Ranges of the numbers or dates of a column, and the first cell that is neither; None if there is none.

    date_format: how dates are written, such as ``%d/%m/%Y``; empty: the column holds numbers, or dates as such.
    """
    is_date = bool(date_format) or column.dtype.is_temporal()
    numbers = nanoseconds(read_times(column, date_format)) / SECOND if is_date else _numbers(column)
    number_N = numbers.to_numpy()
    held = np.flatnonzero(np.isfinite(number_N))
    edges = _edges(number_N[held])
    codes = np.searchsorted(edges, number_N[held], "right") - 1
    names = [_name(number_N[held][codes == code], is_date=is_date) for code in range(len(edges))]
    unread = column.filter(pl.Series(~np.isfinite(number_N)) & (column.cast(pl.String).str.strip_chars() != ""))
    attribute = Attribute(tuple(names), Ragged.from_pairs(held, codes, len(column)), tuple(edges.tolist()))
    return attribute, str(unread[0]) if len(unread) else None


def _numbers(column: pl.Series) -> pl.Series:
    """Float64, NaN where a cell is not a number."""
    texts = column.str.strip_chars() if column.dtype == pl.String else column
    return texts.cast(pl.Float64, strict=False).fill_null(np.nan)


def _edges(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each range begins: one of ``numbers``, so that no range is empty."""
    distinct = np.unique(numbers)
    if len(distinct) <= MOST_RANGES:
        return distinct
    shares = np.arange(MOST_RANGES) / MOST_RANGES
    return np.unique(np.quantile(numbers, shares, method="inverted_cdf"))


def _name(numbers: NDArray[np.float64], *, is_date: bool) -> str:
    first, last = (_date(one) if is_date else f"{one:.12g}" for one in (numbers.min(), numbers.max()))
    return first if first == last else f"{first} … {last}"


def _date(seconds: float) -> str:
    """ISO 8601, to the day if there is no finer part."""
    time = datetime.fromtimestamp(float(seconds), UTC).replace(tzinfo=None)
    return time.date().isoformat() if seconds % 86_400 == 0 else time.isoformat()
