"""Sorting columns by one of them: the slowest step between a file and a graph."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.grouping import group

_DIGIT_BITS = 14
"""Bits of the keys sorted per pass: their counters stay in a core's cache."""


def sort_by(keys: NDArray[np.integer], columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Each of ``columns`` (``[E]``) in ascending order of ``keys`` (``[E]``), equal keys in the given order.

    None if ``keys`` are already sorted, so that nothing needs copying.
    """
    if len(keys) < 2 or bool(np.all(keys[:-1] <= keys[1:])):
        return None
    order = _order(keys)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda column: column.take(order), columns))


def _order(keys: NDArray[np.integer]) -> NDArray[np.integer]:
    """The stable order of ``keys``: a radix sort, low digits first, each by counting."""
    low, high = int(keys.min()), int(keys.max())
    if high - low >= 1 << 32 or len(keys) >= 1 << 31:
        return np.argsort(keys, kind="stable")
    rest = (keys - keys.dtype.type(low)).astype(np.uint32)
    order = np.arange(len(keys), dtype=np.int32)
    for shift in range(0, (high - low).bit_length(), _DIGIT_BITS):
        digits = (rest >> np.uint32(shift)) & np.uint32((1 << _DIGIT_BITS) - 1)
        order = group(digits[order] if shift else digits, order, 1 << _DIGIT_BITS)[1]
    return order
