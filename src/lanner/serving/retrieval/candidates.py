"""Structures that name likely items without scoring all of them; both are faiss' and never change once built.

Inner products are searched as they are (METRIC_INNER_PRODUCT), not as distances with Bachrach's extra dimension: with
100,000 clustered items of 64 dimensions whose norms are log-normal (σ 0.4), the extra dimension dwarfs the others and
the graph at efSearch 128 found 57 % of the 10 best against 99.3 %; 64 of 1024 cells held 96 % against 99 %.
"""

from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lanner.errors import MissingExtraError
from lanner.serving.retrieval.plan import LINKS, num_cells, sub_quantisers
from lanner.serving.retrieval.vectors import FloatVectors, Vectors, check_half

_BUILD_EFFORT = 160
"""Candidates weighed when an item is linked into the graph."""
_NORM_KEPT = 0.5
"""Vectors are linked as if their norm were this power of it. By the whole norm everyone links to the long ones, nobody
to the short, and lists break off. On items as above (1,000 clusters; 14 links, 160 candidates weighed) efSearch 500
found of the 10 and the 100 best by the whole norm 99.75 and 72 %, by its square root 99.95 and 83 %, by none 99.45 and
88 %; building took 26, 6 and 8 s."""
_ROUNDS = 10
_ITEMS_PER_CELL = 64
"""Rounds, and sampled items a cell, from which k-means learns the centres."""
_RESCORED_PER_CELL = 4
"""Candidates of ``ivf-pq`` that are re-scored for each cell probed: probing more is of no use if they are cut off. Of
100,000 items 181 cells held the 10 best to 99.2 % whether 4 or 8 were; to sort out 8 took a quarter longer."""


class Candidates(Protocol):
    """Finds likely items; the caller scores them."""

    index: Any
    """The faiss index, which can be stored."""
    efforts: tuple[int, ...]
    """Worthwhile settings of ``effort``, cheapest first."""
    memory_bytes: int
    """Bytes in addition to the item vectors."""

    def find(
        self, queries_BD: NDArray[np.float32], count: int, effort: int, passing: NDArray[np.uint8] | None, share: float
    ) -> NDArray[np.int64]:
        """Positions int64 ``[B, at least count]``, in any order.

        Padding with −1 says that the search ran dry, so that better items may lie where it did not look.

        Args:
            queries_BD: float32 ``[B, D]``.
            count: how many the caller wants, at most the number that pass.
            effort: efSearch or cells probed where everything passes.
            passing: a bit for each position, the lowest of a byte first; only those set are returned. None: all.
            share: of the positions that pass, above 0; with one in ten the best lie ten times as deep.
        """

    def cost(self, count: int, effort: int, share: float) -> float:
        """What ``find`` and scoring its answer take for one query, in inner products of an exact scan."""


class Graph:
    """HNSW (Malkov & Yashunin 2018) over float16 vectors, which it shares with whoever re-scores."""

    efforts = tuple(int(16 * 2 ** (step / 2)) for step in range(17))

    def __init__(self, index: Any) -> None:
        """``index``: an ``IndexHNSWSQ`` of float16 codes."""
        faiss = import_faiss("reading an index")
        self.index = index
        graph = index.hnsw
        self.memory_bytes = 4 * graph.neighbors.size() + 8 * graph.offsets.size() + 4 * graph.levels.size()
        half_ID = _half_codes(faiss, index)
        half_ID.flags.writeable = False
        self.vectors: Vectors = FloatVectors(half_ID)

    @classmethod
    def build(cls, item_ID: NDArray[np.float32]) -> "Graph":
        """Link every item.

        Raises:
            ValueError: a number is beyond the range of float16.
        """
        faiss = import_faiss("retrieval by hnsw")
        check_half(item_ID)
        index = faiss.IndexHNSWSQ(item_ID.shape[1], faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_EFFORT
        norm_I = np.linalg.norm(item_ID, axis=1, keepdims=True)
        index.train(item_ID)
        index.add(np.divide(item_ID, norm_I ** (1 - _NORM_KEPT), out=np.zeros_like(item_ID), where=norm_I > 0))
        _half_codes(faiss, index)[:] = item_ID
        return cls(index)

    def find(
        self, queries_BD: NDArray[np.float32], count: int, effort: int, passing: NDArray[np.uint8] | None, share: float
    ) -> NDArray[np.int64]:
        faiss = import_faiss("retrieval by hnsw")
        settings = faiss.SearchParametersHNSW(efSearch=self._depth(count, effort, share), sel=_selector(faiss, passing))
        found: NDArray[np.int64] = self.index.search(queries_BD, count, params=settings)[1]
        return found

    def cost(self, count: int, effort: int, share: float) -> float:
        # Each item visited has its neighbours scored, about half of which are new; they lie scattered in memory.
        return 2.0 * LINKS * self._depth(count, effort, share)

    def _depth(self, count: int, effort: int, share: float) -> int:
        return min(int(self.index.ntotal), ceil(max(effort, count) / share))


class Cells:
    """Inverted file of 4-bit product codes (Jégou et al. 2011; fast scan, André et al. 2015).

    The codes only choose what is re-scored. A code of 4 bits for 2 dimensions of the residual: with 16 instead of 32
    codes for 64 dimensions 98.2 % were found where these found 99.2 %. An odd dimension is paired with one of zeros.
    """

    def __init__(self, index: Any) -> None:
        """``index``: an ``IndexIVFPQFastScan``."""
        self.index = index
        self.efforts = tuple(sorted({min(index.nlist, round(2 ** (step / 2))) for step in range(24)}))
        per_item = (index.M2 + 1) // 2 + 8
        self.memory_bytes = per_item * index.ntotal + 4 * index.d * index.nlist

    @classmethod
    def build(cls, item_ID: NDArray[np.float32]) -> "Cells":
        """Learn centres and codes from a sample, then file every item."""
        faiss = import_faiss("retrieval by ivf-pq")
        item_ID = _widened(item_ID, 2 * sub_quantisers(item_ID.shape[1]))
        dimensions = item_ID.shape[1]
        cells = num_cells(len(item_ID))
        metric = faiss.METRIC_INNER_PRODUCT
        centres = faiss.IndexFlat(dimensions, metric)
        index = faiss.IndexIVFPQFastScan(centres, dimensions, cells, sub_quantisers(dimensions), 4, metric)
        # The index takes the centres over, or they would be freed with this function's name for them.
        centres.this.disown()
        index.own_fields = True
        index.by_residual = True
        index.cp.niter = _ROUNDS
        index.cp.max_points_per_centroid = _ITEMS_PER_CELL
        index.cp.min_points_per_centroid = 1
        index.train(item_ID)
        index.add(item_ID)
        return cls(index)

    def find(
        self, queries_BD: NDArray[np.float32], count: int, effort: int, passing: NDArray[np.uint8] | None, share: float
    ) -> NDArray[np.int64]:
        faiss = import_faiss("retrieval by ivf-pq")
        probed = self._probed(count, effort, share)
        settings = faiss.IVFSearchParameters(nprobe=probed, sel=_selector(faiss, passing))
        queries_BD = _widened(queries_BD, self.index.d)
        found: NDArray[np.int64] = self.index.search(queries_BD, self._rescored(count, effort, share), params=settings)[
            1
        ]
        return found

    def cost(self, count: int, effort: int, share: float) -> float:
        # A product code is scanned about twenty times as fast as a vector; every centre is compared.
        scanned = self._probed(count, effort, share) * self.index.ntotal / self.index.nlist
        return float(self.index.nlist + scanned / 20 + self._rescored(count, effort, share))

    def _probed(self, count: int, effort: int, share: float) -> int:
        # Cells that together hold twice what is to be re-scored, or nearly every search would run dry.
        least = 2 * self._rescored(count, effort, share) * int(self.index.nlist) / int(self.index.ntotal)
        return min(int(self.index.nlist), ceil(max(effort, least) / share))

    def _rescored(self, count: int, effort: int, share: float) -> int:
        # Where few pass, the best of them lie close together, and codes tell them apart less well.
        per_cell = _RESCORED_PER_CELL * min(2.0, 1 / share)
        return min(int(self.index.ntotal), max(2 * count, int(per_cell * effort)))


def import_faiss(asked: str) -> Any:
    """The package faiss.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "serving", asked) from None
    return faiss


def _widened(vectors_ND: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """With zeros as further dimensions, which add nothing to an inner product."""
    missing = dimensions - vectors_ND.shape[1]
    return np.hstack([vectors_ND, np.zeros((len(vectors_ND), missing), np.float32)]) if missing else vectors_ND


def _half_codes(faiss: Any, index: Any) -> NDArray[np.float16]:
    """The vectors ``[I, D]`` inside an ``IndexHNSWSQ``: a view of its memory, valid for as long as it lives."""
    codes = faiss.downcast_index(index.storage).codes
    half: NDArray[np.float16] = faiss.rev_swig_ptr(codes.data(), codes.size()).view(np.float16)
    return half.reshape(index.ntotal, index.d)


def _selector(faiss: Any, passing: NDArray[np.uint8] | None) -> Any:
    # The selector reads the caller's bits, which the caller keeps for as long as it searches.
    return None if passing is None else faiss.IDSelectorBitmap(passing.size, faiss.swig_ptr(passing))
