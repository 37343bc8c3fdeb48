"""Parse cells: ids, times, orders, weights and texts, a whole column at a time.

A cell that cannot be read becomes null; the caller decides what a null means.
"""

import html

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.grouping import number_integers
from lanner.data.tables import Table
from lanner.errors import DataError
from lanner.types import ExternalId

TIME_FORMATS = (
    "seconds, milliseconds, microseconds or nanoseconds since 1970, and ISO 8601 such as 2020-01-31, "
    "2020-01-31 10:00 or 2020-01-31T10:00:00.5+02:00"
)
"""Formats that ``read_times`` reads by default."""
_ISO = (
    r"(?i)^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:[.,]\d{1,9})?)?)?"
    r" ?(?:Z|UTC|GMT|([+-]\d{2}(?::?\d{2})?))?$"
)
"""Date, hours and minutes, seconds, offset."""
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_EARLIEST, _LATEST = 1e8, 1e11
"""Numbers in this range are times in seconds (1973 … 5138); each finer unit multiplies both bounds by 1,000."""
SECOND = 1_000_000_000
"""Nanoseconds per second."""
_NUMBER = r"^-?\d+(\.\d+)?$"
_WHOLE_FLOAT = r"^(-?(?:0|[1-9]\d*))\.0+$"
_NO_NUMBER = r"(?i)^\s*(nan|n/?a|<na>|null|none)\s*$"
_MARKUP = r"(?is)<!--.*?-->|<(script|style)\b.*?</(script|style)\s*>"
_BLOCK_TAG = (
    r"(?i)</?(?:address|article|aside|blockquote|br|div|dd|dl|dt|h[1-6]|hr|li|ol|p|pre|section|t[dhr]|table|ul)\b"
    r"[^<>]*>"
)
"""Tags between words; other tags may stand inside one."""
_TAG = r"</?[A-Za-z][^<>]*>"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"


def read_ids(column: pl.Series) -> pl.Series:
    """Ids as Int64 if the column holds integers that fit, otherwise as String; missing ids are null.

    Whole floats are whole ids: a column of floats, or of texts that are all numbers, writes 1.0 as 1. Space around a
    text is stripped, and an id of nothing else is missing.
    """
    if column.dtype.is_float():
        column = pl.select(pl.when(column.is_finite()).then(column)).to_series()
        whole = (column.floor() == column) & (column.abs() < 2.0**53)
        integers = column.cast(pl.Int64, strict=False)
        if bool(whole.all()):
            return integers
        written = pl.when(whole).then(integers.cast(pl.String)).otherwise(column.cast(pl.String))
        return pl.select(written.alias(column.name)).to_series()
    if column.dtype.is_integer():
        if column.dtype in (pl.Int32, pl.Int64):
            return column
        narrow = column.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == column.null_count() else column.cast(pl.String)
    texts = column if column.dtype == pl.String else column.cast(pl.String)
    bare = texts.str.strip_chars()
    texts = bare if (bare != texts).any() else texts  # the original has the better memory layout
    texts = texts if not (texts == "").any() else texts.replace("", None)
    if texts.str.ends_with(".0").any() and texts.str.contains(_NUMBER).all():
        return texts.str.replace(_WHOLE_FLOAT, "$1")
    return texts


def number_ids(ids: pl.Series) -> tuple[list[ExternalId], NDArray[np.int32]]:
    """Distinct ids in ascending order (numbers by value, texts by code point) and each id's position, int32 ``[E]``."""
    if ids.dtype != pl.String:
        distinct, rows = number_integers(ids.to_numpy())
        return list(map(str, distinct.tolist())), rows
    names = ids.unique().sort()
    return names.to_list(), positions(ids, names).to_numpy().astype(np.int32)


def positions(ids: pl.Series, names: pl.Series) -> pl.Series:
    """Position of each id in ``names``, null if absent."""
    return ids.cast(pl.String).cast(pl.Enum(names), strict=False).to_physical()


def without_placeholders(column: pl.Series) -> pl.Series:
    """Null for placeholders of missing numbers: NaN, NA, null, None, in any case."""
    if column.dtype != pl.String or not (held := are_placeholders(column)).any():
        return column
    return column.set(held, None)


def are_placeholders(texts: pl.Series) -> pl.Series:
    """Whether each text is a placeholder of a missing value; null is none."""
    return texts.str.contains(_NO_NUMBER).fill_null(value=False)


def read_weights(column: pl.Series) -> pl.Series:
    """Float32, null where a cell is not a number."""
    if column.dtype == pl.String:
        column = without_placeholders(column).str.strip_chars()
    return column.cast(pl.Float32, strict=False)


def read_times(column: pl.Series, form: str = "", *, table: Table | None = None) -> pl.Series:
    """Times since 1970 (UTC): Int32 whole seconds, or Int64 nanoseconds; null where a cell is not a time.

    Numbers are seconds, milliseconds, microseconds or nanoseconds, distinguished by magnitude, one unit per column.
    Texts are such numbers or ISO 8601 without an offset (UTC) or with one. form: the format of every cell instead,
    such as ``%d/%m/%Y %H:%M``. Nanoseconds cover 1677 to 2262. table: the table of the column, for errors.

    Raises:
        DataError: the numbers are of different units.
    """
    if column.dtype.is_temporal():
        return _narrowed(column.cast(pl.Datetime("ns"), strict=False).to_physical())
    if form and not column.dtype.is_float():
        return _narrowed(_parsed(column.cast(pl.String).str.strip_chars(), form))
    if column.dtype.is_numeric():
        return _since_1970(column, column, table)
    texts = column.cast(pl.String).str.strip_chars()
    numbers = _numbers(texts)
    times = _since_1970(numbers, texts, table)
    if numbers.null_count() == texts.null_count():
        return times
    return _narrowed(pl.select(pl.coalesce(_iso_8601(texts), nanoseconds(times))).to_series())


def nanoseconds(times: pl.Series) -> pl.Series:
    """Output of ``read_times`` as Int64 nanoseconds."""
    return times if times.dtype == pl.Int64 else times.cast(pl.Int64) * SECOND


def read_order(column: pl.Series) -> pl.Series:
    """Sort keys, exactly as written: integers, decimals, floats or times; null for any other cell."""
    if column.dtype.is_numeric():
        return pl.select(pl.when(column.is_finite()).then(column)).to_series() if column.dtype.is_float() else column
    if column.dtype.is_temporal():
        return column.to_physical()
    texts = column.cast(pl.String).str.strip_chars()
    numbers, times = _numbers(texts, places=18), _iso_8601(texts)
    return numbers if numbers.null_count() <= times.null_count() else times


def plain_text(column: pl.Series) -> pl.Series:
    """Texts without HTML tags and control characters, entities decoded."""
    if column.str.contains("<", literal=True).any():
        column = column.str.replace_all(_MARKUP, " ").str.replace_all(_BLOCK_TAG, " ").str.replace_all(_TAG, "")
    if (held := column.str.contains(r"&#?\w+;").fill_null(value=False)).any():
        decoded = pl.Series([html.unescape(text) for text in column.filter(held)], dtype=pl.String)
        column = column.scatter(held.arg_true(), decoded)
    return column.str.replace_all(_CONTROL, "") if column.str.contains(_CONTROL).any() else column


def _numbers(texts: pl.Series, places: int = 9) -> pl.Series:
    """Int64 if all cells are integers, otherwise decimals; null where a cell is not a number."""
    whole = texts.cast(pl.Int64, strict=False)
    return whole if whole.null_count() == texts.null_count() else texts.cast(pl.Decimal(38, places), strict=False)


def _since_1970(numbers: pl.Series, written: pl.Series, table: Table | None) -> pl.Series:
    scale = _scale(numbers, written, table)
    if scale == 1 and numbers.dtype.is_integer() and _fits(numbers):
        return numbers.cast(pl.Int32)
    factor = SECOND // scale
    reached = pl.when(numbers.abs() <= (2**63 - 1) // factor).then(numbers).alias(numbers.name)
    numbers = pl.select(reached).to_series()
    if not numbers.dtype.is_float():
        return (numbers * factor).cast(pl.Int64, strict=False)
    whole = numbers.floor()
    part = ((numbers - whole) * factor).round().cast(pl.Int64, strict=False)
    return whole.cast(pl.Int64, strict=False) * factor + part


def _narrowed(times: pl.Series) -> pl.Series:
    """Nanoseconds as whole seconds if exact: as narrow as possible, as ten million may have to be sorted."""
    seconds = times // SECOND
    return seconds.cast(pl.Int32) if bool((times % SECOND == 0).all()) and _fits(seconds) else times


def _fits(numbers: pl.Series) -> bool:
    low, high = numbers.min(), numbers.max()
    return numbers.dtype == pl.Int32 or low is None or bool(low >= -(2**31) and high < 2**31)  # type: ignore[operator]


def _scale(numbers: pl.Series, written: pl.Series, table: Table | None) -> int:
    """Number of the column's units per second. written: the cells of ``numbers`` as in the file, for errors.

    Raises:
        DataError: two rows are written in different units.
    """
    largest = numbers.abs().max()
    if largest is None or float(str(largest)) < _LATEST:
        return 1
    sizes = numbers.cast(pl.Float64).abs()
    scales: list[int] = [1_000**power for power in range(len(_UNITS))]
    within = [(sizes >= _EARLIEST * scale) & (sizes < _LATEST * scale) for scale in scales]
    rows = {power: int(found.arg_max() or 0) for power, found in enumerate(within) if found.any()}
    if len(rows) > 1:
        (one, row), (other, other_row) = sorted(rows.items(), key=lambda pair: pair[1])[:2]
        first, unit = (1, "line") if table is None else (table.first_line, table.unit)
        raise DataError(
            f"{written[other_row]} is a time in {_UNITS[other]}, but {unit} {first + row} has {written[row]}, "
            f"which is in {_UNITS[one]}; write the column in one unit",
            **({"line": first + other_row} if table is None else table.place(first + other_row)),
            field=numbers.name if table is None else table.column(numbers.name),
        )
    return scales[max(rows, default=0)]


def _iso_8601(texts: pl.Series) -> pl.Series:
    day, minutes, seconds, offset = texts.str.extract_groups(_ISO).struct.unnest().get_columns()
    clock = minutes.fill_null("00:00") + seconds.fill_null(":00").str.replace(",", ".", literal=True)
    digits = offset.str.replace(":", "", literal=True).str.slice(1)
    east = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2).replace("", "0").cast(pl.Int64)
    east = pl.select(pl.when(offset.str.starts_with("-")).then(-east).otherwise(east)).to_series().fill_null(0)
    return _parsed(day + "T" + clock, "%Y-%m-%dT%H:%M:%S%.f") - east * (60 * SECOND)


def _parsed(texts: pl.Series, form: str) -> pl.Series:
    """Int64 nanoseconds of texts in one format."""
    micro, nano = (texts.str.to_datetime(form, strict=False, time_unit=unit).to_physical() for unit in ("us", "ns"))
    # Values out of range for nanoseconds wrap round, which is detected here.
    return pl.select(pl.when(nano // 1_000 == micro).then(nano).alias(texts.name)).to_series()


def encode(column: pl.Series) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct texts in ascending order, and each text's position, int64 ``[n]``; the column holds no null."""
    names = column.unique().sort()
    return tuple(names.to_list()), positions(column, names).to_numpy().astype(np.int64)
