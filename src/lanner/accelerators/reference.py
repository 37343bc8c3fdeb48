"""The integer contract in NumPy: the oracle that hardware, emulator and tests are compared with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import COEFFICIENT_BITS, NO_ROW, NO_SCORE, Contract, FixedPoint, Request

LARGEST_USER, LARGEST_SCORE = 2**15 - 1, 2**31 - 1


@dataclass(frozen=True)
class Answer:
    """rows, scores: int64 ``[k]``, best first; −1 and −2^31 where fewer than k items are left."""

    rows: NDArray[np.int64]
    scores: NDArray[np.int64]


def rounded(values: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """``values / 2^shift``, half rounds up."""
    return (values + (1 << shift >> 1)) >> shift


def rescaled(values: NDArray[np.int64], by: FixedPoint, largest: int) -> NDArray[np.int64]:
    """``values · multiplier / 2^shift``, rounded and clamped to ±largest."""
    return np.clip(rounded(values * by.multiplier, by.shift), -largest, largest)


def coefficients(scale: NDArray[np.uint16], request: Request) -> NDArray[np.int64]:
    """Coefficients of the history's entries, 12 bits each, int64 ``[n]``."""
    return rounded(request.weights * scale[request.rows].astype(np.int64), COEFFICIENT_BITS)


def user_vector(contract: Contract, request: Request) -> NDArray[np.int64]:
    """The user vector, int64 ``[D]``, 16 bits each."""
    rows = contract.source[request.rows].astype(np.int64)
    return rescaled(coefficients(contract.source_scale, request) @ rows, request.user, LARGEST_USER)


def sparse_sums(contract: Contract, request: Request) -> NDArray[np.int64]:
    """x: the item-to-item sum of every item, int64 ``[I]``, 32 bits each."""
    sums, rows = np.zeros(contract.num_items, np.int64), contract.sparse
    if rows is not None:
        for row, coefficient in zip(request.rows, coefficients(rows.scale, request), strict=True):
            entries = slice(rows.indptr[row], rows.indptr[row + 1])
            sums[rows.items[entries]] += coefficient * rows.codes[entries].astype(
                np.int64
            )  # items of a row are distinct
    return sums


def scores(contract: Contract, request: Request) -> NDArray[np.int64]:
    """Scores of all items, int64 ``[I]``, 32 bits each."""
    # Exact in float64: every partial sum is below 2^53.
    dots = (contract.target.astype(np.float64) @ user_vector(contract, request)).astype(np.int64)
    dense = rounded(dots * contract.target_scale.astype(np.int64), contract.score_shift)
    sparse = rescaled(sparse_sums(contract, request), request.sparse, LARGEST_SCORE)
    found: NDArray[np.int64] = np.clip(dense + sparse + contract.bias, -LARGEST_SCORE, LARGEST_SCORE)
    return found


def answer(contract: Contract, request: Request) -> Answer:
    """The k best rows that the user has not seen, by score, then by row."""
    found = scores(contract, request)
    eligible = np.delete(np.arange(contract.num_items), request.seen)
    best = eligible[np.lexsort((eligible, -found[eligible]))][: request.k]
    missing = request.k - len(best)
    return Answer(np.pad(best, (0, missing), constant_values=NO_ROW),
                  np.pad(found[best], (0, missing), constant_values=NO_SCORE))  # fmt: skip
