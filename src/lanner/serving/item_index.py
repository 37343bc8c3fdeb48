"""The index over a rung's items: what stands in it, which searches it is tuned for, and where it lies on disk."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lanner.errors import BundleError, StorageError
from lanner.models.request_form import Int8Rows, RequestForm, take
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.retrieval import BEST, Index, RetrievalConfig, build_index, load_index, scan_of_codes

ItemIndex = Index | FixedOrder
Queries = NDArray[np.float32] | None
_QUERIES = 256
_RECALL_FURTHER_DOWN = 0.95
"""Asked of rungs with fewer dimensions: searching is most of a request, and they are there to make it short."""
_CODES_SCANNED = 4 << 20
"""So many are scanned in less time than cells are probed in: .73 ms and .95 of a request for 3,706 items of 896."""
_log = logging.getLogger(__name__)


def retrieved(form: RequestForm, candidates: int, k: int = BEST) -> int:
    """How many items the k best are searched among: with a head, ``candidates`` are retrieved for it to rank."""
    return k if form.head is None else max(k, candidates)


def item_index(
    form: RequestForm, candidates: int, config: RetrievalConfig | None = None, queries: Queries = None
) -> ItemIndex:
    """An index tuned for searches that ask for as many items as ``retrieved`` says.

    queries: float32 ``[n, D + 1]``, users as they will ask; None: users who met one item each.

    Raises:
        What ``build_index`` raises.
    """
    if _lists_the_same_for_all(form):
        return FixedOrder(indexed_vectors(form))
    index = _built(form, candidates, config, queries)
    return index if config is not None else _own_scan(index, form) or index


class KeptIndexes:
    """The indexes of a ladder: each is read from a folder, or built and written where there is none.

    Rungs whose targets differ by rounding alone share one. But a scan reads every number it has, so a rung in INT8
    scans its own codes, a fourth of the bytes, without a further loss: where floats are scanned, and where codes are
    few.
    """

    def __init__(self, folder: Path, candidates: int) -> None:
        """candidates: as ``retrieved``."""
        self._folder, self._candidates = folder, candidates
        self._found: dict[str, ItemIndex] = {}

    def of(self, form: RequestForm, queries: Callable[[], Queries]) -> ItemIndex:
        """The index that ``form`` is searched by. queries: asked only where one is built; see ``item_index``."""
        name = index_name(form, self._candidates)
        if name not in self._found:
            self._found[name] = _read_or_built(self._folder / name, form, self._candidates, queries)
        own = f"{name}-int8" if isinstance(form.target_ID, Int8Rows) else name
        if own not in self._found:
            self._found[own] = _own_scan(self._found[name], form) or self._found[name]
        return self._found[own]


def _read_or_built(folder: Path, form: RequestForm, candidates: int, queries: Callable[[], Queries]) -> ItemIndex:
    if _lists_the_same_for_all(form):
        return FixedOrder(indexed_vectors(form))
    try:
        return load_index(folder)
    except BundleError:
        index = _built(form, candidates, None, queries())
    try:
        index.save(folder)
    except StorageError as error:
        _log.warning("%s; the index is built anew whenever this bundle is opened", error)
    return index


def index_name(form: RequestForm, candidates: int) -> str:
    """Forms of the same name share an index: the same targets, but for INT8's rounding, searched for as many items."""
    reduction = form.reduction.target_DR
    made = "full" if reduction is None else hashlib.sha256(np.ascontiguousarray(reduction).tobytes()).hexdigest()[:12]
    return f"index-{made}-{retrieved(form, candidates)}"


def _lists_the_same_for_all(form: RequestForm) -> bool:
    """Whether a score depends on the item alone, as on the rung of popularity."""
    return form.head is None and form.dimensions == 1 and not take(form.target_ID).any()


def indexed_vectors(form: RequestForm) -> NDArray[np.float32]:
    """Targets with the bias as one more dimension, ``[I, D + 1]``: users have a 1 there."""
    return np.hstack([take(form.target_ID), form.bias_I[:, None]])


def _built(form: RequestForm, candidates: int, config: RetrievalConfig | None, queries: Queries) -> Index:
    queries = _users_of_one_item(form) if queries is None else queries
    if config is None and form.reduction.target_DR is not None:
        config = RetrievalConfig(recall_target=_RECALL_FURTHER_DOWN)
    return build_index(indexed_vectors(form), config, queries, retrieved=retrieved(form, candidates))


def _own_scan(index: ItemIndex, form: RequestForm) -> Index | None:
    """A scan of the form's own codes, where it has some and that is quicker than ``index``."""
    if not (isinstance(index, Index) and isinstance(form.target_ID, Int8Rows)):
        return None
    if index.kind != "exact" and form.target_ID.codes.size > _CODES_SCANNED:
        return None
    return scan_of_codes(form.target_ID.codes, form.target_ID.scale, form.bias_I[:, None])


def _users_of_one_item(form: RequestForm) -> Queries:
    """None: there are no items."""
    met = np.random.default_rng(0).choice(form.num_items, min(_QUERIES, form.num_items), replace=False)
    return np.hstack([take(form.source_ID, met), np.ones((len(met), 1), np.float32)]) if len(met) else None
