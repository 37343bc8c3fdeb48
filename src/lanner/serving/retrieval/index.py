"""The index a service holds: searched by many threads while others change it."""

from dataclasses import replace
from pathlib import Path
from threading import Lock

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanner.serving.retrieval.building import BEST, Sample, fastest, structure
from lanner.serving.retrieval.plan import Kind, Measured, Plan, RetrievalConfig, choose
from lanner.serving.retrieval.row_set import RowSet
from lanner.serving.retrieval.snapshot import Base, Found, Snapshot
from lanner.serving.retrieval.vectors import Int8Vectors

_CHANGED_SHARE = 0.05
_CHANGES_UNNOTICED = 1024
"""Share of the items, and number, whose changes are searched beside the structure before a rebuild pays."""


class Index:
    """Retrieves the items of largest inner product, by row.

    Every change makes a new snapshot and puts it in place of the old one, so a search sees all of a change or nothing
    of it, and never waits. The structure itself does not change: an item that is removed or given another vector is
    barred there, and fresh vectors are kept beside it as float32 and searched exactly, which costs time and memory
    with their number. ``rebuild`` folds them in; call it, from any thread, where ``needs_rebuild`` says so.
    """

    def __init__(self, snapshot: Snapshot, config: RetrievalConfig) -> None:
        self.config = config
        self._snapshot = snapshot
        self._changing = Lock()
        self._rebuilding = Lock()
        self._changed_meanwhile: list[NDArray[np.int64]] | None = None
        """Rows changed since the rebuild under way began; None: there is none."""

    @property
    def snapshot(self) -> Snapshot:
        """The index as it is now."""
        return self._snapshot

    @property
    def kind(self) -> Kind:
        """The structure in use, which "auto" chose or which the catalogue was too small for."""
        return self._snapshot.base.plan.kind

    @property
    def measured(self) -> Measured | None:
        """Recall and time when the index was built or last tuned; None: with no items, or after ``set_effort``."""
        return self._snapshot.measured

    @property
    def dimensions(self) -> int:
        """D of the vectors."""
        return self._snapshot.base.vectors.shape[1]

    @property
    def memory_bytes(self) -> int:
        """Bytes held to search and re-score; those mapped from a file included."""
        now = self._snapshot
        return now.base.memory_bytes + now.alive.nbytes + now.fresh.row_F.nbytes + now.fresh.vectors_FD.nbytes

    @property
    def needs_rebuild(self) -> bool:
        """Whether so much has changed that searching the changes separately costs more than it should."""
        now = self._snapshot
        items = now.base.vectors.shape[0]
        changed = len(now.fresh) + items - now.num_alive
        return changed > max(_CHANGES_UNNOTICED, _CHANGED_SHARE * items)

    def __len__(self) -> int:
        return self._snapshot.num_alive + len(self._snapshot.fresh)

    def search(
        self, queries: ArrayLike, k: int, allow: ArrayLike | RowSet | None = None, deny: ArrayLike | None = None
    ) -> Found:
        """The best items of each query.

        Scores are inner products with the vectors as they are kept: exact in float32, see ``FloatVectors`` and
        ``Int8Vectors`` for the error of the others; fresh vectors are kept exactly. Filters hold for the whole batch,
        are never softened, and never cost results: where fewer than ``k`` items pass, all of them are returned.

        Args:
            queries: float32 ``[B, D]``.
            k: at least 1; beyond the catalogue the rest is padding.
            allow: rows int ``[n]`` or a set, of which alone answers may come; None: all. Removed rows are passed over,
                as are those of a set that were never in the index.
            deny: rows int ``[n]`` that no answer may hold.

        Returns:
            Rows int64 ``[B, k]`` padded with −1 and scores float32 ``[B, k]`` padded with −inf, best first.

        Raises:
            ValueError: a wrong shape, a number that is not finite, k below 1, or a row that was never in the index.
        """
        now = self._snapshot
        queries_BD = _matrix(queries, now.base.vectors.shape[1], "queries")
        _check_k(k)
        allowed = allow if allow is None or isinstance(allow, RowSet) else _listed(allow, "allow", now.num_rows)
        denied = None if deny is None else _listed(deny, "deny", now.num_rows)
        return now.search(queries_BD, k, allowed, denied)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 ``[n, D]`` of items, as they are kept. ``rows`` are of items that searches found."""
        return self._snapshot.vectors(rows)

    def add(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add items; the next search finds them.

        Args:
            rows: int ``[n]``, not in the index; they may lie beyond the largest one.
            vectors: float32 ``[n, D]``.

        Raises:
            ValueError: a row is there already or named twice, or a vector is of a wrong shape or not finite.
        """
        self._put(rows, vectors, present=False)

    def update(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Give items other vectors; as ``add``, but for rows ``[n]`` that are in the index."""
        self._put(rows, vectors, present=True)

    def remove(self, rows: ArrayLike) -> None:
        """Take items ``[n]`` out; a row may be added again later.

        Raises:
            ValueError: a row is not in the index or named twice.
        """
        row_n = _distinct(rows)
        with self._changing:
            _check_presence(self._snapshot, row_n, present=True)
            self._replace(self._snapshot.without(row_n), row_n)

    def rebuild(self, folder: Path | None = None) -> None:
        """Build the structure anew from all items as they are kept; searches and changes go on meanwhile.

        folder: the structure is written there and mapped, so that other processes may ``adopt`` it and share its pages;
        the folder may go afterwards.

        For a time both structures and the vectors as float32 are held. A kind that "auto" found stays, and with it the
        effort and what was measured; ``build_index`` would choose anew. A catalogue that has grown or shrunk past the
        size from which a named kind pays changes to or from that kind.

        Raises:
            ConfigError: the catalogue has outgrown the memory limit. StorageError: the disk refused. The index stays as
                it was.
        """
        from lanner.serving.retrieval.files import mapped_index, write_index

        with self._rebuilding:
            with self._changing:
                before, changes = self._snapshot, [np.empty(0, np.int64)]
                self._changed_meanwhile = changes
            try:
                built = _rebuilt(before, self.config)
                if folder is not None:
                    write_index(folder, built, self.config)
                    built = mapped_index(folder).snapshot
            except BaseException:
                self._changed_meanwhile = None
                raise
            with self._changing:
                self._changed_meanwhile = None
                now, changed = self._snapshot, np.unique(np.concatenate(changes))
                later = np.isin(now.fresh.row_F, changed)
                came = now.fresh.row_F[later], now.fresh.vectors_FD[later]
                built = built.without(changed).with_vectors(*came)
                tuned = built if now.effort == before.effort else now
                self._snapshot = replace(built, num_rows=now.num_rows, effort=tuned.effort, measured=tuned.measured)

    def adopt(self, folder: Path) -> None:
        """Take over what another index with the same changes behind it, or fewer, has built anew into ``folder``.

        What came or went here and is not in it, or still is, comes or goes again; an item that stands in both must not
        have been updated, which is how a catalogue is served: what changes gets another row.
        """
        from lanner.serving.retrieval.files import mapped_index

        built = mapped_index(folder).snapshot
        with self._rebuilding, self._changing:
            now, standing = self._snapshot, built.rows
            later = ~built.holds(now.fresh.row_F)
            came = now.fresh.row_F[later], now.fresh.vectors_FD[later]
            built = built.without(standing[~now.holds(standing)]).with_vectors(*came)
            self._snapshot = replace(built, num_rows=now.num_rows, effort=now.effort, measured=now.measured)

    def set_effort(self, effort: int, measured: Measured | None = None) -> None:
        """Spend ``effort`` on every later search: efSearch of ``hnsw``, cells probed of ``ivf-pq``."""
        if effort < 1:
            raise ValueError(f"effort is {effort}, it must be at least 1")
        with self._changing:
            self._snapshot = replace(self._snapshot, effort=effort, measured=measured)

    def at_rows(self, rows: NDArray[np.int64], num_rows: int) -> "Index":
        """The same items and structure under other rows, as of now; the two change apart from then on.

        Args:
            rows: int64 ``[I]``, ascending: the row of the item at each place. This index is as it was built.
            num_rows: rows there are, of which it holds some.
        """
        now = self._snapshot
        return Index(replace(now, base=replace(now.base, row_P=rows), num_rows=num_rows), self.config)

    def save(self, path: Path | str) -> None:
        """Write a folder that ``load_index`` maps; an older index there is replaced at the very end.

        Raises:
            StorageError: the disk refused; what stood there before still stands.
        """
        from lanner.serving.retrieval.files import write_index

        write_index(Path(path), self._snapshot, self.config)

    def _put(self, rows: ArrayLike, vectors: ArrayLike, *, present: bool) -> None:
        row_n = _distinct(rows)
        vector_nD = _matrix(vectors, self.dimensions, "vectors").copy()
        if len(row_n) != len(vector_nD):
            raise ValueError(f"{len(row_n)} rows came with {len(vector_nD)} vectors; give one each")
        with self._changing:
            _check_presence(self._snapshot, row_n, present=present)
            self._replace(self._snapshot.with_vectors(row_n, vector_nD), row_n)

    def _replace(self, snapshot: Snapshot, changed: NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        if self._changed_meanwhile is not None:
            self._changed_meanwhile.append(changed)


def build_index(
    item_ID: ArrayLike,
    config: RetrievalConfig | None = None,
    queries: ArrayLike | None = None,
    k: int = BEST,
    retrieved: int | None = None,
) -> Index:
    """An index of items, tuned to the recall target; "auto" keeps the structure that answers the queries fastest.

    Recall is measured against an exact scan of the items as given. Where "auto" has a choice every structure is built
    in turn, the graph, which takes minutes for a million items, only where a trial says that it may pay.

    Args:
        item_ID: float32 ``[I, D]``; the row of an item is its place.
        config: what is asked for.
        queries: float32 ``[B, D]``, a few hundred of the kind that will be asked; None: items stand in.
        k: how many of the best count.
        retrieved: the ``k`` that searches will ask for, at least this ``k``, which is the default.

    Raises:
        ValueError: a wrong shape or a number that is not finite, no queries, or an argument out of range.
        ConfigError: no structure fits the memory limit.
        MissingExtraError: a structure needs faiss, which is not installed.
    """
    config = config or RetrievalConfig()
    items = _matrix(item_ID, None, "item vectors")
    return Index(fastest(items, config, _sample(queries, items.shape[1], k, retrieved)), config)


def scan_of_codes(code_ID: NDArray[np.int8], scale_I: NDArray[np.float32], wide_IW: NDArray[np.float32]) -> Index:
    """An exact scan of vectors that are in INT8 already, as they are: each is ``codes · scale``, then its ``wide``.

    Args:
        code_ID: int8 ``[I, D]``.
        scale_I: float32 ``[I]``.
        wide_IW: float32 ``[I, W]``, further dimensions, kept exactly.
    """
    codes = np.pad(code_ID, ((0, 0), (0, wide_IW.shape[1])))
    wide_W = np.arange(code_ID.shape[1], codes.shape[1])
    base = Base(Plan("exact-int8", "int8"), Int8Vectors(codes, scale_I, wide_W, wide_IW), None, None)
    return Index(Snapshot.of(base, 1, len(codes)), RetrievalConfig("exact-int8"))


def tune(index: Index, queries: ArrayLike, recall_target: float, k: int = BEST, retrieved: int | None = None) -> float:
    """Set the least search effort that reaches a recall on other queries, or another recall, than it was built with.

    Recall is measured against an exact scan of the vectors as they are kept; exact kinds have 1.

    Args:
        index: its later searches spend the effort found.
        queries: as ``build_index``.
        recall_target: share of the true ``k`` best that is to be found.
        k: as ``build_index``.
        retrieved: as ``build_index``.

    Returns:
        The recall measured. Where no effort reaches the target, the least that finds as much as the most was set.

    Raises:
        ValueError: no or malformed queries, or an argument out of range.
    """
    sample = _sample(queries, index.dimensions, k, retrieved)
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target is {recall_target}, it must be above 0 and at most 1")
    now = index.snapshot
    tuned, measured = sample.judge(now).tuned(now, recall_target)
    index.set_effort(tuned.effort, measured)
    return measured.recall


def _sample(queries: ArrayLike | None, dimensions: int, k: int, retrieved: int | None) -> Sample:
    """What structures are judged by, checked."""
    _check_k(k)
    retrieved = k if retrieved is None else retrieved
    if retrieved < k:
        raise ValueError(f"retrieved is {retrieved}, it must be at least k, which is {k}")
    if queries is None:
        return Sample(None, k, retrieved)
    queries_BD = _matrix(queries, dimensions, "queries")
    if not len(queries_BD):
        raise ValueError("there are no queries to tune with; give a sample of real ones")
    return Sample(queries_BD, k, retrieved)


def _rebuilt(before: Snapshot, config: RetrievalConfig) -> Snapshot:
    """All that ``before`` holds, in one structure of its kind."""
    rows, item_ID = before.contents()
    if config.kind == "auto":
        config = replace(config, kind=before.base.plan.kind)
    plan = choose(len(item_ID), item_ID.shape[1], config)[0]
    if plan.kind == before.base.plan.kind:
        built = replace(structure(plan, item_ID), effort=before.effort, measured=before.measured)
    else:
        built = fastest(item_ID, config, Sample())
    contiguous = not len(rows) or rows[-1] == len(rows) - 1
    base = replace(built.base, row_P=None if contiguous else rows)
    return replace(built, base=base, num_rows=before.num_rows)


def _matrix(vectors: ArrayLike, dimensions: int | None, name: str) -> NDArray[np.float32]:
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or (dimensions is not None and matrix.shape[1] != dimensions):
        wanted = "a matrix" if dimensions is None else f"[n, {dimensions}]"
        raise ValueError(f"{name} are of shape {list(matrix.shape)}, they must be {wanted}")
    wrong = _line_not_finite(matrix)
    if wrong >= 0:
        raise ValueError(f"{name} hold NaN or infinity, first in line {wrong}")
    return matrix


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _line_not_finite(matrix: NDArray[np.float32]) -> int:
    """The first that holds NaN or infinity; −1: none does."""
    for line in range(len(matrix)):
        wrong = np.int32(0)
        for column in range(matrix.shape[1]):
            # Either minus itself is NaN.
            rest = matrix[line, column] - matrix[line, column]
            wrong |= np.int32(rest != rest)
        if wrong:
            return line
    return -1


def _whole(rows: ArrayLike, name: str) -> NDArray[np.integer]:
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of whole numbers, not {array.dtype} of shape {list(array.shape)}")
    return array if array.size else array.astype(np.int64)


def _listed(rows: ArrayLike, name: str, num_rows: int) -> RowSet:
    try:
        return RowSet.of(_whole(rows, name), num_rows)
    except ValueError as error:
        raise ValueError(f"{name} hold {error}") from None


def _distinct(rows: ArrayLike) -> NDArray[np.int64]:
    row_n = _whole(rows, "rows").astype(np.int64)
    if row_n.min(initial=0) < 0:
        raise ValueError(f"rows hold row {row_n.min()}, but rows are 0 or more")
    if len(np.unique(row_n)) < len(row_n):
        raise ValueError("rows name an item twice; give each once")
    return row_n


def _check_presence(snapshot: Snapshot, rows: NDArray[np.int64], *, present: bool) -> None:
    wrong = rows[snapshot.holds(rows) != present]
    if len(wrong):
        advice = "is not in the index; add it" if present else "is in the index already; update it"
        raise ValueError(f"row {wrong[0]} {advice}")


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, it must be at least 1")
