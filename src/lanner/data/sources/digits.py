"""Fast parser for delimited files of plain numbers only, at the speed of the memory.

General readers must handle quotes, escapes and missing cells. A file of ratings has none, and this parser
returns None at the first byte that is anything but a canonical number, so that the general reader takes over. An id
is canonical when writing it again gives the same characters: ``007`` is left to the general reader, as text.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SKIP, _INTEGER, _DECIMAL = 0, 1, 2
_MAX_DIGITS = 15
"""Up to here every decimal is exact in float64, so that one division rounds like ``float(text)``."""
_NEWLINE, _RETURN, _QUOTE, _DOT, _ZERO = 10, 13, 34, 46, 48
_ONE = np.uintp(1)
"""Positions are unsigned: a signed index would be tested for being negative at each byte, four times slower."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_lines(data: NDArray[np.uint8]) -> int:
    lines = 0
    for byte in data:
        lines += byte == _NEWLINE
    return lines


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number(data: NDArray[np.uint8], at: np.uintp, end: np.uintp, decimal: bool) -> tuple[np.int64, np.uintp, np.uintp]:
    """(mantissa, digits after the point, position after the number); ``end + 1`` where it is not canonical."""
    start, point, value = at, end, np.int64(0)
    while at < end:
        digit = np.uint8(data[at] - np.uint8(48))
        if digit < 10:
            value = value * 10 + np.int64(digit)
        elif decimal and data[at] == _DOT and point == end:
            point = at
        else:
            break
        at += _ONE
    length = at - start
    places = at - point - _ONE if point < end else np.uintp(0)
    bare_point = point == start or (point < end and places == 0)
    if length == 0 or length > _MAX_DIGITS or bare_point:
        return value, places, end + _ONE
    padded = data[start] == _ZERO and length > 1 and point != start + _ONE
    return value, places, end + _ONE if padded else at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip(data: NDArray[np.uint8], at: np.uintp, end: np.uintp, separator: NDArray[np.uint8]) -> np.uintp:
    """Position after a cell that is not wanted; ``end + 1`` where it is quoted."""
    while at < end and data[at] != separator[0] and data[at] != _NEWLINE and data[at] != _RETURN:
        if data[at] == _QUOTE:
            return end + _ONE
        at += _ONE
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _next_cell(data: NDArray[np.uint8], at: np.uintp, end: np.uintp, separator: NDArray[np.uint8]) -> np.uintp:
    """Position after the separator; ``end + 1`` where there is none."""
    for byte in separator:
        if at >= end or data[at] != byte:
            return end + _ONE
        at += _ONE
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _next_line(data: NDArray[np.uint8], at: np.uintp, end: np.uintp) -> np.uintp:
    """Position after the line's end; ``end + 1`` if the line continues."""
    if at < end and data[at] == _RETURN:
        at += _ONE
    if at == end:
        return at
    return at + _ONE if at < end and data[at] == _NEWLINE else end + _ONE


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _parse(
    data: NDArray[np.uint8],
    separator: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    integers: NDArray[np.signedinteger],
    decimals: NDArray[np.float32],
    row: int,
) -> bool:
    """Fill the columns from ``row`` on; True where every byte was understood."""
    powers, widest = 10.0 ** np.arange(_MAX_DIGITS + 1), np.iinfo(integers.dtype).max
    at, end, last = np.uintp(0), np.uintp(len(data)), len(kinds) - 1
    while at < end:
        integer = decimal = 0
        for column in range(len(kinds)):
            kind = kinds[column]
            if kind == _SKIP:
                at = _skip(data, at, end, separator)
            else:
                value, places, at = _number(data, at, end, kind == _DECIMAL)
                if kind == _INTEGER:
                    if value > widest:
                        return False
                    integers[integer, row] = value
                    integer += 1
                else:
                    decimals[decimal, row] = value / powers[places]
                    decimal += 1
            at = _next_line(data, at, end) if column == last else _next_cell(data, at, end, separator)
            if at > end:
                return False
        row += 1
    return True


def _chunks(data: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """``data`` cut into about ``count`` pieces, each ending at a line's end."""
    cuts = [0]
    for part in range(1, count):
        at = max(len(data) * part // count, cuts[-1])
        # A line longer than this is not a row of numbers; the data is then not cut here.
        newline = np.flatnonzero(data[at : at + 65_536] == _NEWLINE)
        if len(newline):
            cuts.append(at + int(newline[0]) + 1)
    return [data[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(data)], strict=True) if stop > start]


def _fill(
    chunks: list[NDArray[np.uint8]], separator: str, kinds: NDArray[np.uint8], width: type[np.signedinteger]
) -> tuple[NDArray[np.signedinteger], NDArray[np.float32]] | None:
    """(integer columns, decimal columns), one per row; None if a cell is not a number or is too wide."""
    marks = np.frombuffer(separator.encode(), np.uint8)
    with ThreadPoolExecutor() as pool:
        lines = np.array(list(pool.map(_count_lines, chunks)))
        rows = int(lines.sum()) + int(chunks[-1][-1] != _NEWLINE)
        integers = np.empty((int((kinds == _INTEGER).sum()), rows), width)
        decimals = np.empty((int((kinds == _DECIMAL).sum()), rows), np.float32)
        parse = partial(_parse, separator=marks, kinds=kinds, integers=integers, decimals=decimals)
        tasks = [
            pool.submit(parse, chunk, row=row) for chunk, row in zip(chunks, np.cumsum(lines) - lines, strict=True)
        ]
        return (integers, decimals) if all(task.result() for task in tasks) else None


def read_numbers(
    path: Path, *, offset: int, separator: str, integers: Sequence[bool | None]
) -> list[NDArray[np.signedinteger] | NDArray[np.float32]] | None:
    """The requested columns of a file of plain numbers, or None if it holds anything else.

    offset: byte at which the rows begin. integers: for each column of the file True (int32, or int64 where a number
    of the file needs it), False (float32) or None (left out).
    """
    if path.stat().st_size <= offset:
        return None
    data = np.memmap(path, np.uint8, "r")[offset:]
    kinds = np.array([_SKIP if one is None else _INTEGER if one else _DECIMAL for one in integers], np.uint8)
    chunks = _chunks(data, os.cpu_count() or 1)
    # Half the width is half the memory; a wider number shows in the first rows, so the second attempt costs nothing.
    filled = _fill(chunks, separator, kinds, np.int32) or _fill(chunks, separator, kinds, np.int64)
    if filled is None:
        return None
    whole, parts = iter(filled[0]), iter(filled[1])
    return [next(whole) if one else next(parts) for one in integers if one is not None]
