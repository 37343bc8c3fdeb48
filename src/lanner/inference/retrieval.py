"""Maximum inner product search: the best items for user vectors, by exact scan or with FAISS.

Small catalogues are scanned with BLAS. Large ones use an inverted file of 4-bit product quantisation codes
(``IndexIVFPQFastScan``) whose candidates are re-scored with float16 vectors (``IndexRefine``); the number of lists and
candidates is tuned for recall on sample queries. An index is immutable and thread-safe. Items added later are scored by
the ranker.
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
from lanner.files import FolderKind, check_file, digest, read_checked, write_folder
from lanner.inference.eligibility import is_in

SCHEMA = 1
"""Incremented on incompatible changes of the saved format."""
HEADER, CHECKSUM, CONTENT = "index.json", "index.sha256", {"exact": "vectors.npy", "ivf-pq": "index.faiss"}
_FOLDER = FolderKind("an index", HEADER, lambda content: (HEADER, CHECKSUM, CONTENT[content["kind"]]))
EXACT_ITEMS = 20_000
"""Smaller catalogues are always scanned exactly; timings are in docs/log.md."""
_MIN_TRAINABLE = 1000
"""Minimum number of items for an inverted file, whatever is configured."""
_ITEMS_IN_LIST = 128
_BEST = 20
"""List length for ``RetrievalConfig.recall_target``: 10, plus as many that a user may have seen."""
_SAMPLE = 256
_SCORES_AT_ONCE = 1 << 24
_RESERVOIR = 11
"""FAISS's ``implem`` number of that scanning method."""
_ROUNDING = 1e-5
"""Relative rounding difference between two ways of computing the same inner product."""
_LARGEST_HALF = 65_504.0
_REFINE_COST, _GATHER_COST, _SCAN_COST = 80, 50, 5
"""Costs in product codes scanned (4 ns each at 66 dimensions): refining a candidate, gathering and scoring an item,
and scoring an item in a full scan."""
_MAX_EXCLUDED = 512
"""Every query of a batch fetches extra candidates for the largest exclusion list; beyond this, one by one."""
_FEW_HIDDEN, _SPARE = 0.01, 32
"""Maximum share of rows hidden by a mask that is applied to the candidates only, and extra candidates fetched."""
_log = logging.getLogger(__name__)

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows int64 ``[B, k]`` padded with −1 and scores float32 ``[B, k]`` padded with −inf, best first."""
Mask = NDArray[np.bool_]
Excluded = Sequence[NDArray[np.integer]]
"""One array of rows per query, or None."""


@dataclass(frozen=True)
class RetrievalConfig:
    """How candidate items are retrieved."""

    kind: Literal["auto", "exact", "ivf-pq"] = "auto"
    """Index type; "auto": exact scan for small catalogues, IVF-PQ for large ones."""
    recall_target: float = 0.99
    """Target recall of the top items, above 0 and at most 1."""
    retrieved_recall: float = 0.95
    """Target recall of all retrieved candidates, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *CONTENT):
            raise ConfigError(f"retrieval.kind is '{self.kind}', it must be one of auto, {', '.join(CONTENT)}")
        for name in ("recall_target", "retrieved_recall"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"retrieval.{name} is {getattr(self, name)}, it must be above 0 and at most 1")


class Effort(NamedTuple):
    """Search parameters for ``retrieved`` rows: lists probed and candidates refined."""

    retrieved: int
    probed: int
    refined: int


class VectorIndex:
    """A maximum inner product index over vectors ``[I, D]``; an item's row is its position."""

    def __init__(
        self,
        vectors_IW: NDArray[np.floating],
        dimensions: int,
        faiss_index: Any = None,
        effort: Effort | None = None,
        recall: float = 1.0,
    ) -> None:
        """vectors_IW: float32 or float16, with ``dimensions`` columns and possibly a zero column.

        faiss_index: an ``IndexRefine`` of an ``IndexIVFPQFastScan``; None: exact scan.
        recall: recall on sample queries not used for tuning.
        """
        self._vectors_IW, self.dimensions, self._faiss_index, self.recall = vectors_IW, dimensions, faiss_index, recall
        self.num_items = len(vectors_IW)
        self.kind = "exact" if faiss_index is None else "ivf-pq"
        self.lists = 0 if faiss_index is None else int(_faiss().downcast_index(faiss_index.base_index).nlist)
        self.effort = effort or Effort(self.num_items, self.lists, self.num_items)

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory, memory-mapped ones included."""
        width = self._vectors_IW.shape[1]
        # Half a byte per two dimensions, the row of each item, and the centroids.
        codes = (width // 4 + 8) * self.num_items + 4 * width * self.lists if self.lists else 0
        return self._vectors_IW.nbytes + codes

    def vectors(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Stored vectors of rows, float32 ``[n, D]``."""
        found: NDArray[np.float32] = self._vectors_IW[rows].astype(np.float32, copy=False)
        return found[..., : self.dimensions]

    def search(
        self, queries_BD: NDArray[np.float32], k: int, mask: Mask | None = None, excluded: Excluded | None = None
    ) -> Found:
        """The top k rows of each query, int64 ``[B, k]``, and their scores, float32 ``[B, k]``, best first.

        Filters are exact and never cost results: if fewer than k rows are eligible, all of them are returned, then −1
        with score −inf.

        Args:
            queries_BD: float32 ``[B, D]``.
            k: at least 1.
            mask: bool ``[I]``, allowed rows for the whole batch; None: all.
            excluded: rows excluded per query, in any order; unknown rows are ignored.
        """
        out = np.full((len(queries_BD), k), -1, np.int64), np.full((len(queries_BD), k), -np.inf, np.float32)
        held = [rows[rows < self.num_items] for rows in excluded or ()]
        if len(queries_BD) and self.num_items:
            search = self._scan if self._faiss_index is None else self._probe
            queries_BD = np.ascontiguousarray(queries_BD, np.float32)
            search(queries_BD, mask, held if any(map(len, held)) else (), out)
        return out

    def _scan(self, queries_BD: NDArray[np.float32], mask: Mask | None, excluded: Excluded, out: Found) -> None:
        """Fill the padded ``out`` from all items, or from the eligible ones if they are few."""
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
        """Fill the padded ``out`` from the inverted lists."""
        k, more = out[0].shape[1], max(map(len, excluded), default=0)
        if more > _MAX_EXCLUDED and len(queries_BD) > 1:
            for line in range(len(queries_BD)):
                one = slice(line, line + 1)
                self._probe(queries_BD[one], mask, excluded[one], (out[0][one], out[1][one]))
            return
        hidden = 0 if mask is None else self.num_items - int(np.count_nonzero(mask))
        if hidden <= _FEW_HIDDEN * self.num_items:
            # Few of them are likely among the best, and a search without a selector is a third faster.
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
        """Search parameters for k rows, ``more`` to be dropped, and ``count`` eligible rows.

        With one row in ten eligible, the best of them are ten times as deep. Some rows to be dropped are among the
        best.
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
        """Rows ``[B, min(k + more, count)]``; probes more lists until there are enough."""
        effort = self._effort_for(k, more, count)
        while True:
            rows, scores = self.ask(queries_BD, effort, selector)
            if effort.probed == self.lists or (rows[:, -1] >= 0).all():
                return rows, scores
            effort = effort._replace(probed=min(self.lists, 4 * effort.probed))

    def ask(self, queries_BD: NDArray[np.float32], effort: Effort, selector: Any = None) -> Found:
        """FAISS's result: ``[B, effort.retrieved]``, −1 if the probed lists contain fewer."""
        make = _settings if selector is None else _settings.__wrapped__
        settings = make(effort.probed, max(1.0, effort.refined / effort.retrieved), selector)
        scores, rows = self._faiss_index.search(_pad_to_even(queries_BD), effort.retrieved, params=settings)
        return rows, scores

    def cost(self, effort: Effort) -> float:
        """Cost of one search, in product codes scanned."""
        return effort.probed * self.num_items / self.lists + _REFINE_COST * effort.refined

    def save(self, folder: Path) -> None:
        """Write a folder that ``load`` memory-maps; an existing index is replaced atomically at the end.

        Raises:
            StorageError: the disk cannot be written, or something other than an index is there; nothing was changed.
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
        write_folder(folder, files, kind=_FOLDER)

    @classmethod
    def load(cls, folder: Path) -> "VectorIndex":
        """Memory-map a saved index. Every byte is verified first, and nothing is unpickled.

        Raises:
            BundleError: no index, a damaged one, or another schema version.
            MissingExtraError: it needs faiss, which is not installed.
        """
        try:
            checksum = (folder / CHECKSUM).read_text(encoding="ascii")
        except (OSError, ValueError):
            raise BundleError(f"{folder}: no index, or a damaged one; build it again") from None
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
    """Build an index and tune it to the recall targets.

    If they are not reached, a scan is cheaper, or faiss is missing, "auto" falls back to an exact scan.

    Args:
        vectors_ID: float32 ``[I, D]``, the bias as the last dimension.
        config: None: the defaults.
        sample_queries: float32 ``[n, D]``, typical user vectors; None: item vectors with 1 as the last dimension.
        retrieved: number of candidates per search.

    Raises:
        ValueError: a vector is not finite.
        MissingExtraError: "ivf-pq" is configured and faiss is not installed.
    """
    config = config or RetrievalConfig()
    if not np.isfinite(vectors_ID).all():
        raise ValueError("item vectors contain NaN or infinity")
    vectors_ID = np.ascontiguousarray(vectors_ID, np.float32)
    items = len(vectors_ID)
    exact = VectorIndex(vectors_ID, vectors_ID.shape[1])
    if config.kind == "exact" or items < (EXACT_ITEMS if config.kind == "auto" else _MIN_TRAINABLE):
        return exact
    try:
        index = _trained(vectors_ID, Effort(min(max(retrieved, _BEST), items), 1, 1))
    except MissingExtraError as error:
        if config.kind != "auto":
            raise
        _log.warning("exact scan of all %d items per request: %s", items, error)
        return exact
    reached = _tune(index, exact, config, sample_queries)
    _log.info("index of %d items: %s of %d lists, recall %.4f", items, index.effort, index.lists, index.recall)
    return index if config.kind != "auto" or (reached and index.cost(index.effort) < _SCAN_COST * items) else exact


def _trained(vectors_ID: NDArray[np.float32], effort: Effort) -> VectorIndex:
    """Train the lists and codes on a sample and add every item.

    Inner products are searched directly, not as L2 distances with an extra dimension: for 100,000 clustered items with
    log-normal norms that dimension dominated, and the same number of lists found 96 % of the 10 best instead of 99.
    """
    faiss, vectors_IW = _faiss(), _pad_to_even(np.clip(vectors_ID, -_LARGEST_HALF, _LARGEST_HALF))
    (items, width), metric = vectors_IW.shape, faiss.METRIC_INNER_PRODUCT
    lists = 1 << int(min(items / _ITEMS_IN_LIST, 8 * items**0.5)).bit_length() - 1
    # Two dimensions per code. With four, recall of the best was 98.2 % instead of 99.2.
    ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlat(width, metric), width, lists, width // 2, 4, metric)
    ivf.cp.niter, ivf.cp.max_points_per_centroid, ivf.cp.min_points_per_centroid = 10, 64, 1
    index = faiss.IndexRefine(ivf, faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, metric))
    index.train(vectors_IW)
    index.add(vectors_IW)
    return _with_faiss(index, vectors_ID.shape[1], effort)


def _with_faiss(index: Any, dimensions: int, effort: Effort, recall: float = 0.0) -> VectorIndex:
    """The float16 vectors are a view of FAISS's codes, which the index keeps alive."""
    codes = _faiss().downcast_index(index.refine_index).codes
    # Query by query with a reservoir: never slower than FAISS's default, and a fifth faster for a single query.
    _faiss().downcast_index(index.base_index).implem = _RESERVOIR
    half: NDArray[np.float16] = _faiss().rev_swig_ptr(codes.data(), codes.size()).view(np.float16)
    return VectorIndex(half.reshape(index.ntotal, -1), dimensions, index, effort, recall)


def _tune(
    index: VectorIndex, exact: VectorIndex, config: RetrievalConfig, queries_BD: NDArray[np.float32] | None
) -> bool:
    """Choose the cheapest effort that reaches both targets on half of the sample and is confirmed on the other half.

    Returns whether the targets are reached.
    """
    random, items, retrieved = np.random.default_rng(0), exact.num_items, index.effort.retrieved
    if queries_BD is None or not len(queries_BD):
        queries_BD = exact.vectors(random.choice(items, min(_SAMPLE, items), replace=False))
        queries_BD[:, -1] = 1
    queries_BD = queries_BD[random.permutation(len(queries_BD))[:_SAMPLE]].astype(np.float32)
    wanted = np.array([_BEST, retrieved])
    bars_B2 = exact.search(queries_BD, retrieved)[1][:, wanted - 1]
    bars_B2 -= _ROUNDING * np.abs(bars_B2)  # items with equal scores are interchangeable

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
    """Fill ``out`` with the eligible candidates; returns whether every query has k of them."""
    k, full = out[0].shape[1], True
    for line, (rows, scores) in enumerate(zip(*found, strict=True)):
        kept = np.ones(len(rows), np.bool_) if mask is None else mask[rows]
        if excluded:
            kept &= ~is_in(rows, excluded[line])
        places = np.flatnonzero(kept)[:k]
        out[0][line, : len(places)], out[1][line, : len(places)] = rows[places], scores[places]
        full &= len(places) == k
    return full


def _pad_to_even(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append a zero column if the number of columns is odd; inner products do not change."""
    if vectors_ND.shape[1] % 2 == 0:
        return vectors_ND
    padded_NE = np.zeros((len(vectors_ND), vectors_ND.shape[1] + 1), np.float32)  # np.pad takes 30 µs
    padded_NE[:, :-1] = vectors_ND
    return padded_NE


@lru_cache(256)
def _settings(probed: int, factor: float, selector: Any) -> Any:
    """FAISS search parameters; creating them takes 13 µs."""
    lists = _faiss().IVFSearchParameters(nprobe=probed, sel=selector)
    return _faiss().IndexRefineSearchParameters(k_factor=factor, base_index_params=lists)


def _faiss() -> Any:
    """The faiss package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "serving", "IVF-PQ retrieval") from None
    return faiss
