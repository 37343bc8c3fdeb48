"""Maximum-inner-product retrieval: the best items of user vectors, by an exact scan or by FAISS.

Small catalogues are scanned with BLAS. Large ones are searched in an inverted file of 4-bit product codes
(``IndexIVFPQFastScan``), whose candidates are scored again with float16 vectors (``IndexRefine``); how many lists and
candidates that takes is chosen by recall on sample queries. An index never changes once it is built, so any number of
threads may search it. Items that come later are scored by the ranker.
"""

import json
import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lanner.data.ranking import top_k
from lanner.errors import BundleError, ConfigError, MissingExtraError
from lanner.files import check_file, digest, read_checked, write_folder
from lanner.inference.eligibility import is_in

SCHEMA = 1
"""Raised whenever an older reader would misread a saved index."""
HEADER, CHECKSUM, CONTENT = "index.json", "index.sha256", {"exact": "vectors.npy", "ivf-pq": "index.faiss"}
EXACT_ITEMS = 20_000
"""A smaller catalogue is always scanned exactly; the times are in docs/log.md."""
_LEAST_TRAINABLE = 1000
"""With fewer items there is no inverted file, whatever is asked for."""
_ITEMS_IN_LIST = 128
_BEST = 20
"""The best that ``RetrievalConfig.recall_target`` is of: 10, and as many again that a user may have seen."""
_SAMPLE = 256
_SCORES_AT_ONCE = 1 << 24
_RESERVOIR = 11
"""FAISS's number of that way to scan lists."""
_ROUNDING = 1e-5
"""Share of a score by which two ways of summing the same products may differ."""
_LARGEST_HALF = 65_504.0
_REFINE_COST, _GATHER_COST, _SCAN_COST = 80, 50, 5
"""In product codes scanned (4 ns each at 66 dimensions): to refine a candidate, to gather and score an item, to score
an item in a scan of all."""
_MOST_EXCLUDED = 512
"""All queries of a batch fetch as many candidates more as one of them excludes; beyond this, each is searched alone."""
_FEW_HIDDEN, _SPARE = 0.01, 32
"""Share of rows that a mask may hide and still be applied to the candidates alone, and candidates fetched for that."""
_log = logging.getLogger(__name__)

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows int64 ``[B, k]`` padded with −1 and scores float32 ``[B, k]`` padded with −inf, best first."""
Mask = NDArray[np.bool_]
Excluded = Sequence[NDArray[np.integer]]
"""Rows for each query, or nothing at all."""


@dataclass(frozen=True)
class RetrievalConfig:
    """How items are retrieved."""

    kind: Literal["auto", "exact", "ivf-pq"] = "auto"
    """The structure; "auto" scans small catalogues exactly."""
    recall_target: float = 0.99
    """Share of the best items that must be found."""
    retrieved_recall: float = 0.95
    """Share of all retrieved candidates that must be found."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *CONTENT):
            raise ConfigError(f"retrieval.kind is '{self.kind}', it must be one of auto, {', '.join(CONTENT)}")
        for name in ("recall_target", "retrieved_recall"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"retrieval.{name} is {getattr(self, name)}, it must be above 0 and at most 1")


class Effort(NamedTuple):
    """lists probed and candidates refined, in a search for ``retrieved`` rows."""

    retrieved: int
    probed: int
    refined: int


class VectorIndex:
    """Vectors ``[I, D]``, and which have the largest inner products with a query. An item's row is its position."""

    def __init__(
        self,
        vectors_IW: NDArray[np.floating],
        dimensions: int,
        faiss_index: Any = None,
        effort: Effort | None = None,
        recall: float = 1.0,
    ) -> None:
        """vectors_IW: float32 or float16, of ``dimensions`` and perhaps one more, which is zero.

        faiss_index: an ``IndexRefine`` of an ``IndexIVFPQFastScan``; None: every item is scored.
        recall: share of the best found for sample queries that were not used for tuning.
        """
        self._vectors_IW, self.dimensions, self._faiss_index, self.recall = vectors_IW, dimensions, faiss_index, recall
        self.num_items = len(vectors_IW)
        self.kind = "exact" if faiss_index is None else "ivf-pq"
        self.lists = 0 if faiss_index is None else int(_faiss().downcast_index(faiss_index.base_index).nlist)
        self.effort = effort or Effort(self.num_items, self.lists, self.num_items)

    @property
    def memory_bytes(self) -> int:
        """Bytes held, those that are memory-mapped included."""
        width = self._vectors_IW.shape[1]
        # For two dimensions half a byte, and the row of each item; the centroids.
        codes = (width // 4 + 8) * self.num_items + 4 * width * self.lists if self.lists else 0
        return self._vectors_IW.nbytes + codes

    def vectors(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Vectors of rows as they are kept, float32 ``[n, D]``."""
        found: NDArray[np.float32] = self._vectors_IW[rows].astype(np.float32, copy=False)
        return found[..., : self.dimensions]

    def search(
        self, queries_BD: NDArray[np.float32], k: int, mask: Mask | None = None, excluded: Excluded | None = None
    ) -> Found:
        """The k best rows of each query, int64 ``[B, k]``, and their scores, float32 ``[B, k]``, best first.

        Filters are honoured exactly and never cost results: where fewer than k rows are eligible, all of them are
        returned, then −1 with score −inf.

        Args:
            queries_BD: float32 ``[B, D]``.
            k: at least 1.
            mask: bool ``[I]``, the rows that may be returned, for the whole batch; None: all.
            excluded: for each query, rows that may not be returned, in any order; those that are not in this index are
                ignored.
        """
        out = np.full((len(queries_BD), k), -1, np.int64), np.full((len(queries_BD), k), -np.inf, np.float32)
        held = [rows[rows < self.num_items] for rows in excluded or ()]
        if len(queries_BD) and self.num_items:
            search = self._scan if self._faiss_index is None else self._probe
            queries_BD = np.ascontiguousarray(queries_BD, np.float32)
            search(queries_BD, mask, held if any(map(len, held)) else (), out)
        return out

    def _scan(self, queries_BD: NDArray[np.float32], mask: Mask | None, excluded: Excluded, out: Found) -> None:
        """Fill ``out``, which holds padding, from all items or, where few are eligible, from those."""
        rows = None
        if mask is not None and 4 * np.count_nonzero(mask) < self.num_items:
            rows = np.flatnonzero(mask)
            if not len(rows):
                return
        vectors_ND = self.vectors(slice(None) if rows is None else rows)  # type: ignore[arg-type]
        at_once = max(1, _SCORES_AT_ONCE // len(vectors_ND))
        for start in range(0, len(queries_BD), at_once):
            block = slice(start, start + at_once)
            scores_BN = queries_BD[block] @ vectors_ND.T
            if mask is not None and rows is None:
                scores_BN[:, ~mask] = -np.inf
            for line, unwanted in enumerate(excluded[block]):
                scores_BN[line, unwanted if rows is None else is_in(rows, unwanted)] = -np.inf
            places, out[1][block] = top_k(scores_BN, out[1].shape[1])
            out[0][block] = places if rows is None else np.where(places < 0, -1, rows[places])

    def _probe(self, queries_BD: NDArray[np.float32], mask: Mask | None, excluded: Excluded, out: Found) -> None:
        """Fill ``out``, which holds padding, from the lists."""
        k, more = out[0].shape[1], max(map(len, excluded), default=0)
        if more > _MOST_EXCLUDED and len(queries_BD) > 1:
            for line in range(len(queries_BD)):
                one = slice(line, line + 1)
                self._probe(queries_BD[one], mask, excluded[one], (out[0][one], out[1][one]))
            return
        hidden = 0 if mask is None else self.num_items - int(np.count_nonzero(mask))
        if hidden <= _FEW_HIDDEN * self.num_items:
            # Most likely few of them are among the best, and a search without a selector takes two thirds of the time.
            found = self._candidates(queries_BD, k, more + (_SPARE if hidden else 0), self.num_items)
            if _fill(out, found, mask, excluded) or mask is None:
                return
        assert mask is not None
        count = self.num_items - hidden
        if not count or _GATHER_COST * count < self.cost(self._effort_for(k, more, count)):
            self._scan(queries_BD, mask, excluded, out)
            return
        selector = _faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        _fill(out, self._candidates(queries_BD, k, more, count, selector), None, excluded)

    def _effort_for(self, k: int, more: int, count: int) -> Effort:
        """For k rows and ``more`` to be dropped, among ``count`` that are eligible.

        With one row in ten eligible, the best of them lie ten times as deep and close together. Of rows to be dropped,
        some are among the best.
        """
        share, deeper = (
            count / self.num_items,
            max(1.0, k / self.effort.retrieved, (k + more) ** 0.5 / self.effort.retrieved**0.5),
        )
        probed = min(self.lists, ceil(self.effort.probed * deeper / share))
        refined = ceil(self.effort.refined * deeper * min(2.0, 1 / share)) + more
        return Effort(min(k + more, count), probed, min(refined, count))

    def _candidates(
        self, queries_BD: NDArray[np.float32], k: int, more: int, count: int, selector: Any = None
    ) -> Found:
        """Rows ``[B, min(k + more, count)]``: more lists are read until there are so many."""
        effort = self._effort_for(k, more, count)
        while True:
            rows, scores = self.ask(queries_BD, effort, selector)
            if effort.probed == self.lists or (rows[:, -1] >= 0).all():
                return rows, scores
            effort = effort._replace(probed=min(self.lists, 4 * effort.probed))

    def ask(self, queries_BD: NDArray[np.float32], effort: Effort, selector: Any = None) -> Found:
        """As FAISS answers: ``[B, effort.retrieved]``, −1 where the lists probed hold too few."""
        make = _settings if selector is None else _settings.__wrapped__
        settings = make(effort.probed, max(1.0, effort.refined / effort.retrieved), selector)
        scores, rows = self._faiss_index.search(_even(queries_BD), effort.retrieved, params=settings)
        return rows, scores

    def cost(self, effort: Effort) -> float:
        """Of one search, in product codes scanned."""
        return effort.probed * self.num_items / self.lists + _REFINE_COST * effort.refined

    def save(self, folder: Path) -> None:
        """Write a folder that ``load`` maps into memory; an older index there is replaced at the very end.

        Raises:
            StorageError: the disk refused, or something other than an index is there; nothing was changed.
        """
        if self._faiss_index is None:
            file = BytesIO()
            np.save(file, self._vectors_IW, allow_pickle=False)
            content = file.getvalue()
        else:
            content = _faiss().serialize_index(self._faiss_index).tobytes()
        facts = {"dimensions": self.dimensions, "effort": self.effort, "recall": self.recall}
        header = json.dumps({"schema": SCHEMA, "kind": self.kind, **facts, "sha256": digest(content)}).encode()
        files = {CONTENT[self.kind]: content, HEADER: header, CHECKSUM: digest(header).encode()}
        write_folder(folder, files, replaceable=HEADER)

    @classmethod
    def load(cls, folder: Path) -> "VectorIndex":
        """Map a saved index into memory. Every byte is checked before it is used, and nothing is unpickled.

        Raises:
            BundleError: there is no index, or it is damaged or of another schema.
            MissingExtraError: it needs faiss, which is not installed.
        """
        try:
            checksum = (folder / CHECKSUM).read_text(encoding="ascii")
        except (OSError, ValueError):
            raise BundleError(f"{folder}: no index there, or a damaged one; build it again") from None
        header: dict[str, Any] = json.loads(read_checked(folder / HEADER, checksum))
        if header["schema"] != SCHEMA:
            raise BundleError(f"{folder}: index schema {header['schema']}, this version reads {SCHEMA}; build it again")
        path = folder / CONTENT[header["kind"]]
        check_file(path, header["sha256"], "index")
        facts = header["dimensions"], Effort(*header["effort"]), header["recall"]
        if header["kind"] == "exact":
            return cls(np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray), facts[0])
        return _with_faiss(_faiss().read_index(str(path), _faiss().IO_FLAG_MMAP_IFC), *facts)


def build_index(
    vectors_ID: NDArray[np.float32],
    config: RetrievalConfig | None = None,
    sample_queries: NDArray[np.float32] | None = None,
    retrieved: int = 10,
) -> VectorIndex:
    """The index of a catalogue, tuned to the recall targets.

    Where they are not reached, or a scan is cheaper, "auto" scans exactly; so it does without faiss.

    Args:
        vectors_ID: float32 ``[I, D]``, the bias as the last dimension.
        config: None: the defaults.
        sample_queries: float32 ``[n, D]`` as users will ask; None: items stand in, with 1 as the last dimension.
        retrieved: candidates that searches will ask for.

    Raises:
        ValueError: a vector is not finite.
        MissingExtraError: "ivf-pq" was asked for and faiss is not installed.
    """
    config = config or RetrievalConfig()
    if not np.isfinite(vectors_ID).all():
        raise ValueError("item vectors hold NaN or infinity")
    vectors_ID = np.ascontiguousarray(vectors_ID, np.float32)
    items = len(vectors_ID)
    exact = VectorIndex(vectors_ID, vectors_ID.shape[1])
    if config.kind == "exact" or items < (EXACT_ITEMS if config.kind == "auto" else _LEAST_TRAINABLE):
        return exact
    try:
        index = _trained(vectors_ID, Effort(min(max(retrieved, _BEST), items), 1, 1))
    except MissingExtraError as error:
        if config.kind != "auto":
            raise
        _log.warning("all %d items are scanned for each request: %s", items, error)
        return exact
    reached = _tune(index, exact, config, sample_queries)
    _log.info("index of %d items: %s of %d lists, recall %.4f", items, index.effort, index.lists, index.recall)
    return index if config.kind != "auto" or (reached and index.cost(index.effort) < _SCAN_COST * items) else exact


def _trained(vectors_ID: NDArray[np.float32], effort: Effort) -> VectorIndex:
    """Lists and codes learnt from a sample, and every item added.

    Inner products are searched as they are, not as distances with one more dimension: with 100,000 clustered items of
    log-normal norms that dimension dwarfed the others, and as many lists held 96 % of the 10 best instead of 99.
    """
    faiss, vectors_IW = _faiss(), _even(np.clip(vectors_ID, -_LARGEST_HALF, _LARGEST_HALF))
    (items, width), metric = vectors_IW.shape, faiss.METRIC_INNER_PRODUCT
    lists = 1 << int(min(items / _ITEMS_IN_LIST, 8 * items**0.5)).bit_length() - 1
    # Two dimensions share a code. With four, 98.2 % of the best were found where these found 99.2 %.
    ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlat(width, metric), width, lists, width // 2, 4, metric)
    ivf.cp.niter, ivf.cp.max_points_per_centroid, ivf.cp.min_points_per_centroid = 10, 64, 1
    index = faiss.IndexRefine(ivf, faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, metric))
    index.train(vectors_IW)
    index.add(vectors_IW)
    return _with_faiss(index, vectors_ID.shape[1], effort)


def _with_faiss(index: Any, dimensions: int, effort: Effort, recall: float = 0.0) -> VectorIndex:
    """The vectors are a view of the codes where they lie, which the index keeps alive."""
    codes = _faiss().downcast_index(index.refine_index).codes
    # One query after another with a reservoir: never slower than what FAISS chooses, and a fifth faster for one alone.
    _faiss().downcast_index(index.base_index).implem = _RESERVOIR
    half: NDArray[np.float16] = _faiss().rev_swig_ptr(codes.data(), codes.size()).view(np.float16)
    return VectorIndex(half.reshape(index.ntotal, -1), dimensions, index, effort, recall)


def _tune(
    index: VectorIndex, exact: VectorIndex, config: RetrievalConfig, queries_BD: NDArray[np.float32] | None
) -> bool:
    """Set the cheapest effort that reaches both targets on half of the sample, more until the other half confirms it.

    Returns whether the targets are reached.
    """
    random, items, retrieved = np.random.default_rng(0), exact.num_items, index.effort.retrieved
    if queries_BD is None or not len(queries_BD):
        queries_BD = exact.vectors(random.choice(items, min(_SAMPLE, items), replace=False))
        queries_BD[:, -1] = 1
    queries_BD = queries_BD[random.permutation(len(queries_BD))[:_SAMPLE]].astype(np.float32)
    wanted = np.array([_BEST, retrieved])
    bars_B2 = exact.search(queries_BD, retrieved)[1][:, wanted - 1]
    bars_B2 -= _ROUNDING * np.abs(bars_B2)  # of items with equal scores any will do

    def recalls(part: slice, effort: Effort) -> NDArray[np.float64]:
        rows = index.ask(queries_BD[part], effort)[0]
        scores = np.einsum("bkd,bd->bk", exact.vectors(rows), queries_BD[part])
        found = (np.where(rows < 0, -np.inf, scores)[:, :, None] >= bars_B2[part, None]).sum(axis=1)
        return np.asarray(np.minimum(found, wanted).mean(axis=0) / wanted)

    targets, half = np.array([config.recall_target, config.retrieved_recall]), len(queries_BD) // 2
    probes = sorted({min(index.lists, ceil(2 ** (step / 2))) for step in range(2 * index.lists.bit_length())})
    choices = []
    for step in range(1, 9):
        refined = min(items, ceil(max(32, retrieved) * 2 ** (step / 2)))
        efforts = [Effort(retrieved, probed, refined) for probed in probes]
        place = bisect_left(efforts, True, key=lambda one: bool((recalls(slice(half, None), one) >= targets).all()))
        choices += efforts[place : place + 1]
    best, is_reached = min(choices, key=index.cost, default=efforts[-1]), False
    for probed in probes[probes.index(best.probed) :]:
        if not is_reached:
            index.effort = best._replace(probed=probed)
            held_out = recalls(slice(0, max(1, half)), index.effort)
            index.recall, is_reached = float(held_out[0]), bool((held_out >= targets).all())
    return is_reached


def _fill(out: Found, found: Found, mask: Mask | None, excluded: Excluded) -> bool:
    """Fill ``out`` with the eligible ones of the candidates; returns whether every query has k of them."""
    k, full = out[0].shape[1], True
    for line, (rows, scores) in enumerate(zip(*found, strict=True)):
        kept = np.ones(len(rows), np.bool_) if mask is None else mask[rows]
        if excluded:
            kept &= ~is_in(rows, excluded[line])
        places = np.flatnonzero(kept)[:k]
        out[0][line, : len(places)], out[1][line, : len(places)] = rows[places], scores[places]
        full &= len(places) == k
    return full


def _even(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """With a dimension of zeros where their number is odd, which adds nothing to a product."""
    if vectors_ND.shape[1] % 2 == 0:
        return vectors_ND
    padded_NE = np.zeros((len(vectors_ND), vectors_ND.shape[1] + 1), np.float32)  # np.pad takes 30 µs
    padded_NE[:, :-1] = vectors_ND
    return padded_NE


@lru_cache(256)
def _settings(probed: int, factor: float, selector: Any) -> Any:
    """FAISS's parameters of a search; to make them takes 13 µs."""
    lists = _faiss().IVFSearchParameters(nprobe=probed, sel=selector)
    return _faiss().IndexRefineSearchParameters(k_factor=factor, base_index_params=lists)


def _faiss() -> Any:
    """The package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "serving", "retrieval by ivf-pq") from None
    return faiss
