"""Cells to values: ids, times, weights and names, a whole column at a time.

A cell that cannot be read becomes null; who calls decides what a null means.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.grouping import number_integers
from lanner.types import ExternalId

_TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S%.fZ",
)
_SAMPLE = 100_000
"""Cells enough to tell the unit of a column of times."""
_LONGEST_SECONDS = 1e11
"""Numbers above this are no seconds (year 5138) but milli-, micro- or nanoseconds, 1,000 times finer each."""


def read_ids(column: pl.Series) -> pl.Series:
    """Ids as Int64 where the column is of integers that fit, otherwise as String; missing ids are null.

    Floats that are whole (a Parquet file written by a library without nullable integers) are read as integers.
    """
    if column.dtype.is_float():
        whole = column.drop_nulls()
        if bool((whole.is_finite() & (whole.floor() == whole) & (whole.abs() < 2.0**53)).all()):
            return column.cast(pl.Int64)
        column = pl.select(pl.when(column.is_finite()).then(column)).to_series()
    if column.dtype.is_integer():
        if column.dtype in (pl.Int32, pl.Int64):
            return column
        narrow = column.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == column.null_count() else column.cast(pl.String)
    texts = column if column.dtype == pl.String else column.cast(pl.String)
    return texts if not (texts == "").any() else texts.replace("", None)


def number_ids(ids: pl.Series) -> tuple[list[ExternalId], NDArray[np.int32]]:
    """Distinct ids in rising order (numbers by value, texts by code point) and each id's position, int32 ``[E]``."""
    if ids.dtype != pl.String:
        distinct, rows = number_integers(ids.to_numpy())
        return list(map(str, distinct.tolist())), rows
    names = ids.unique().sort()
    return names.to_list(), positions(ids, names).to_numpy().astype(np.int32)


def positions(ids: pl.Series, names: pl.Series) -> pl.Series:
    """Position of each id in ``names``, null where it is not there."""
    return ids.cast(pl.String).cast(pl.Enum(names), strict=False).to_physical()


def read_weights(column: pl.Series) -> pl.Series:
    """Float32, null where a cell is no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    return column.cast(pl.Float32, strict=False)


def read_times(column: pl.Series) -> pl.Series:
    """Int64 (or Int32) seconds since 1970, null where a cell is no time: s, ms, µs or ns, or ISO dates (UTC)."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("s")
    if column.dtype.is_numeric():
        return _seconds(column)
    texts = column.cast(pl.String).str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() <= texts.null_count():
        return _seconds(numbers)
    parsed = [texts.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("s") for form in _TIME_FORMATS]
    return pl.select(pl.coalesce([*parsed, _seconds(numbers)])).to_series()


def _seconds(numbers: pl.Series) -> pl.Series:
    if numbers.dtype.is_float():
        numbers = pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
    typical = numbers.gather_every(max(1, len(numbers) // _SAMPLE)).abs().median()
    scale = 1
    while typical is not None and float(str(typical)) / scale > _LONGEST_SECONDS:
        scale *= 1_000
    if scale == 1 and numbers.dtype == pl.Int32:
        return numbers  # as narrow as it was read: ten million of them are sorted by soon
    return (numbers if scale == 1 else numbers // scale).cast(pl.Int64, strict=False)


def encode(column: pl.Series) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct texts in rising order, and each text's position, int64 ``[n]``; the column holds no null."""
    names = column.unique().sort()
    return tuple(names.to_list()), positions(column, names).to_numpy().astype(np.int64)
