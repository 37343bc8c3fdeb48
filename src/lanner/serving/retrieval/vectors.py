"""Item vectors as they are kept, and their inner products with queries."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol, Self

import numba
import numpy as np
from numpy.typing import NDArray

from lanner.prefetch import AHEAD, fetch_row
from lanner.serving.retrieval.plan import Precision

_BLOCK = 4096
"""Items that are turned into float32 at a time, so that they are still in the cache when they are multiplied."""
_ITEMS_WORTH_A_THREAD = 1 << 14
_LARGEST_HALF = 65504.0
_WIDE = 16.0
"""Times the median dimension's mean square: a dimension beyond it is kept as it is."""
_DIMENSIONS_A_WIDE_ONE = 32
"""One in so many may be: each costs four bytes more."""


class Vectors(Protocol):
    """Vectors of items by position."""

    @property
    def shape(self) -> tuple[int, int]:
        """Items, dimensions."""

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What has to be stored, by name."""

    def decode(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 ``[n, D]`` of ``positions`` ``[n]``."""

    def score(self, queries_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products float32 ``[B, I]`` with every item."""

    def score_own(self, queries_BD: NDArray[np.float32], positions_BN: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products float32 ``[B, N]`` of each query with items of its own; −inf for −1."""


_FEW_QUERIES = 4
"""Up to so many a request's thread scans alone: BLAS would wake the other cores, which serve requests of their own,
and wait for them; with one core busy elsewhere 9,000 × 65 took it 8 ms."""


class FloatVectors:
    """Vectors kept as float32, exactly, or as float16: each number is off by at most 2⁻¹¹ of itself."""

    def __init__(self, item_ID: NDArray[np.float32] | NDArray[np.float16]) -> None:
        self._item_ID = item_ID
        self.shape: tuple[int, int] = item_ID.shape[0], item_ID.shape[1]

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"vectors": self._item_ID}

    def decode(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._item_ID.dtype == np.float32:
            return np.asarray(self._item_ID[positions], np.float32)
        single: NDArray[np.float32] = _single_from_half(self._item_ID.view(np.uint16), positions)
        return single

    def score(self, queries_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._item_ID.dtype != np.float32:
            return score_listed(self, queries_BD, np.arange(len(self._item_ID)))
        scores = np.empty((len(queries_BD), len(self._item_ID)), np.float32)
        _score_block(self._item_ID, queries_BD, scores)
        return scores

    def score_own(self, queries_BD: NDArray[np.float32], positions_BN: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.empty(positions_BN.shape, np.float32)
        if self._item_ID.dtype == np.float32:
            _score_own_floats(self._item_ID, queries_BD, positions_BN, scores)
        else:
            _score_own_halves(self._item_ID.view(np.uint16), queries_BD, positions_BN, scores)
        return scores


class Int8Vectors:
    """Vectors kept as whole numbers −127 … 127 times a scale of their own, but for wide dimensions, kept as float32.

    Each number is off by at most half its vector's scale, that is by 1/254 of the vector's largest number. At 300,000
    items of 64 dimensions inner products of the best were off by 0.15 % (RMS), and 99.4 % of the true 10 best found.
    A dimension much wider than the others, as a bias beside factors may be, would make every scale as coarse as itself.
    """

    def __init__(
        self,
        code_ID: NDArray[np.int8],
        scale_I: NDArray[np.float32],
        wide_W: NDArray[np.int64],
        wide_IW: NDArray[np.float32],
    ) -> None:
        """wide_W: the wide dimensions, whose codes are 0; wide_IW: their numbers."""
        self._code_ID, self._scale_I, self._wide_W, self._wide_IW = code_ID, scale_I, wide_W, wide_IW
        self.shape: tuple[int, int] = code_ID.shape[0], code_ID.shape[1]

    @classmethod
    def of(cls, item_ID: NDArray[np.float32]) -> Self:
        """The nearest codes."""
        wide_W = _wide(item_ID)
        wide_IW = np.ascontiguousarray(item_ID[:, wide_W])
        narrow_ID = np.array(item_ID, np.float32)
        narrow_ID[:, wide_W] = 0
        scale_I = (np.abs(narrow_ID).max(axis=1, initial=0) / 127).astype(np.float32)
        narrow_ID /= np.where(scale_I > 0, scale_I, 1)[:, None]
        return cls(np.rint(narrow_ID, out=narrow_ID).astype(np.int8), scale_I, wide_W, wide_IW)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"codes": self._code_ID, "scales": self._scale_I, "wide": self._wide_W, "wide_numbers": self._wide_IW}

    def decode(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        decoded = self._code_ID[positions].astype(np.float32) * self._scale_I[positions, None]
        decoded[:, self._wide_W] = self._wide_IW[positions]
        return decoded

    def score(self, queries_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        # 300,000 × 64 on one core, ms for 1, 8 and 64 queries: this 5, 17, 197; blocks through float32 and BLAS 7, 32,
        # 126; faiss' IndexScalarQuantizer 2, 28, 279, which would keep its own copy and rank worse (one scale for all).
        queries_BD = np.ascontiguousarray(queries_BD, np.float32)
        scores = np.empty((len(queries_BD), len(self._code_ID)), np.float32)
        threads = numba.get_num_threads() if len(queries_BD) > _FEW_QUERIES else 1
        workers = max(1, min(threads, len(self._code_ID) // _ITEMS_WORTH_A_THREAD))
        if workers == 1:
            self._score(queries_BD, 0, len(self._code_ID), scores)
            return scores
        bounds = np.linspace(0, len(self._code_ID), workers + 1).astype(np.int64)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda part: self._score(queries_BD, part[0], part[1], scores), pairwise(bounds)))
        return scores

    def score_own(self, queries_BD: NDArray[np.float32], positions_BN: NDArray[np.int64]) -> NDArray[np.float32]:
        scores, wide_BW = np.empty(positions_BN.shape, np.float32), queries_BD[:, self._wide_W]
        _score_own_codes(self._code_ID, self._scale_I, self._wide_IW, queries_BD, wide_BW, positions_BN, scores)
        return scores

    def _score(self, queries_BD: NDArray[np.float32], start: int, stop: int, scores: NDArray[np.float32]) -> None:
        _score_codes(self._code_ID, self._scale_I, self._wide_W, self._wide_IW, queries_BD, start, stop, scores)


def _wide(item_ID: NDArray[np.float32]) -> NDArray[np.int64]:
    """Dimensions whose mean square is above ``_WIDE`` times the median dimension's; the widest, where they are many."""
    squares_D = np.einsum("id,id->d", item_ID, item_ID, dtype=np.float64)
    widest_D = np.argsort(-squares_D, kind="stable")[: max(1, len(squares_D) // _DIMENSIONS_A_WIDE_ONE)]
    return np.sort(widest_D[squares_D[widest_D] > _WIDE * np.median(squares_D)])


def score_listed(
    vectors: Vectors, queries_BD: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Inner products float32 ``[B, n]`` with the items at ``positions`` ``[n]``."""
    scores = np.empty((len(queries_BD), len(positions)), np.float32)
    for start in range(0, len(positions), _BLOCK):
        block = slice(start, start + _BLOCK)
        _score_block(vectors.decode(positions[block]), queries_BD, scores[:, block])
    return scores


def _score_block(item_ID: NDArray[np.floating], queries_BD: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    """Fill ``scores`` ``[B, I]``."""
    if len(queries_BD) > _FEW_QUERIES:
        np.matmul(queries_BD, item_ID.T, out=scores)
    else:
        _score_floats(item_ID, queries_BD, scores)


def encode(item_ID: NDArray[np.float32], precision: Precision) -> Vectors:
    """Keep vectors in a precision.

    Raises:
        ValueError: a number is beyond the range of float16.
    """
    if precision == "float32":
        return FloatVectors(np.array(item_ID, np.float32, order="C"))
    if precision == "float16":
        check_half(item_ID)
        return FloatVectors(np.asarray(item_ID, np.float16, order="C"))
    return Int8Vectors.of(item_ID)


def check_half(item_ID: NDArray[np.float32]) -> None:
    """Raise ``ValueError`` where a number is beyond the range of float16."""
    largest = np.abs(item_ID).max(initial=0)
    if largest > _LARGEST_HALF:
        raise ValueError(f"vectors hold {largest:g}, this index keeps numbers up to {_LARGEST_HALF:g}; scale them down")


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _single_from_half(half_ID: NDArray[np.uint16], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors float32 ``[n, D]`` of float16 bits ``[I, D]``; −1 takes the last.

    The fields of a float16, moved to where float32 has them, make a number 2¹¹² times too small. NumPy takes the
    numbers one by one: at 11,000 vectors out of a million this took 0.4 ms, picking alone 0.7 ms there.
    """
    bits = np.empty((len(positions), half_ID.shape[1]), np.uint32)
    single = bits.view(np.float32)
    for row in range(len(positions)):
        position = positions[row]
        for dimension in range(half_ID.shape[1]):
            half = np.uint32(half_ID[position, dimension])
            sign = (half & np.uint32(0x8000)) << np.uint32(16)
            bits[row, dimension] = np.uint32(sign | ((half & np.uint32(0x7FFF)) << np.uint32(13)))
        for dimension in range(half_ID.shape[1]):
            single[row, dimension] *= np.float32(2.0**112)
    return single


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath=True)  # type: ignore[untyped-decorator]
def _score_floats(item_ID: NDArray[np.floating], queries_BD: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    """Fill ``scores`` ``[B, I]``; a vector is read once for the whole batch."""
    for item in range(item_ID.shape[0]):
        for row in range(queries_BD.shape[0]):
            total = np.float32(0)
            for dimension in range(item_ID.shape[1]):
                total += item_ID[item, dimension] * queries_BD[row, dimension]
            scores[row, item] = total


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath=True)  # type: ignore[untyped-decorator]
def _score_codes(
    code_ID: NDArray[np.int8],
    scale_I: NDArray[np.float32],
    wide_W: NDArray[np.int64],
    wide_IW: NDArray[np.float32],
    queries_BD: NDArray[np.float32],
    start: int,
    stop: int,
    scores: NDArray[np.float32],
) -> None:
    """Fill ``scores[:, start:stop]``; a vector is read once for the whole batch."""
    for item in range(start, stop):
        code = code_ID[item]
        if item + AHEAD < stop:
            fetch_row(code_ID, item + AHEAD)
        for row in range(queries_BD.shape[0]):
            total = np.float32(0)
            for dimension in range(code_ID.shape[1]):
                total += np.float32(code[dimension]) * queries_BD[row, dimension]
            total *= scale_I[item]
            for place in range(len(wide_W)):
                total += wide_IW[item, place] * queries_BD[row, wide_W[place]]
            scores[row, item] = total


# To pick out the vectors first and multiply then would write and read each once more.


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "reassoc"})  # type: ignore[untyped-decorator]
def _score_own_floats(
    item_ID: NDArray[np.float32],
    queries_BD: NDArray[np.float32],
    positions_BN: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    for row in range(positions_BN.shape[0]):
        for place in range(positions_BN.shape[1]):
            if place + AHEAD < positions_BN.shape[1]:
                fetch_row(item_ID, positions_BN[row, place + AHEAD])
            position = positions_BN[row, place]
            if position < 0:
                scores[row, place] = -np.inf
                continue
            total = np.float32(0)
            for dimension in range(item_ID.shape[1]):
                total += item_ID[position, dimension] * queries_BD[row, dimension]
            scores[row, place] = total


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "reassoc"})  # type: ignore[untyped-decorator]
def _score_own_halves(
    half_ID: NDArray[np.uint16],
    queries_BD: NDArray[np.float32],
    positions_BN: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """See ``_single_from_half``."""
    bits = np.empty(half_ID.shape[1], np.uint32)
    single = bits.view(np.float32)
    for row in range(positions_BN.shape[0]):
        for place in range(positions_BN.shape[1]):
            if place + AHEAD < positions_BN.shape[1]:
                fetch_row(half_ID, positions_BN[row, place + AHEAD])
            position = positions_BN[row, place]
            if position < 0:
                scores[row, place] = -np.inf
                continue
            for dimension in range(half_ID.shape[1]):
                half = np.uint32(half_ID[position, dimension])
                sign = (half & np.uint32(0x8000)) << np.uint32(16)
                bits[dimension] = np.uint32(sign | ((half & np.uint32(0x7FFF)) << np.uint32(13)))
            total = np.float32(0)
            for dimension in range(half_ID.shape[1]):
                total += single[dimension] * np.float32(2.0**112) * queries_BD[row, dimension]
            scores[row, place] = total


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "reassoc"})  # type: ignore[untyped-decorator]
def _score_own_codes(
    code_ID: NDArray[np.int8],
    scale_I: NDArray[np.float32],
    wide_IW: NDArray[np.float32],
    queries_BD: NDArray[np.float32],
    wide_BW: NDArray[np.float32],
    positions_BN: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    for row in range(positions_BN.shape[0]):
        for place in range(positions_BN.shape[1]):
            if place + AHEAD < positions_BN.shape[1]:
                fetch_row(code_ID, positions_BN[row, place + AHEAD])
            position = positions_BN[row, place]
            if position < 0:
                scores[row, place] = -np.inf
                continue
            total = np.float32(0)
            for dimension in range(code_ID.shape[1]):
                total += np.float32(code_ID[position, dimension]) * queries_BD[row, dimension]
            total *= scale_I[position]
            for wide in range(wide_IW.shape[1]):
                total += wide_IW[position, wide] * wide_BW[row, wide]
            scores[row, place] = total
