"""Item ingestion: items written to the store are added to the catalog and the rankers.

Encoding an item's text takes as long as tens of requests. It runs in a low-priority thread that pauses after each item,
longer the busier the event loop is.
"""

import contextlib
import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, perf_counter, sleep

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.columns import plain_text
from lanner.errors import OverloadedError, RequestError
from lanner.inference.cold_start import ItemReader
from lanner.inference.ranker import Ranker
from lanner.inference.scoring_model import ScoringModel
from lanner.serving.catalog import Catalog
from lanner.serving.messages import Item
from lanner.serving.store.contract import ItemChange

_BATCH_SIZE = 16
"""Texts encoded per batch."""
_NICENESS = 5
_LOW_LOAD, _HIGH_LOAD, _MAX_PAUSE = 0.4, 0.8, 12.0
"""Loop utilisation from which ingestion slows down, and from which it runs at its minimum rate; and the longest pause,
as a multiple of the work."""
_RETRY_S = 60.0
_SHARED_S = 30.0
"""How long text features are kept for other workers, in seconds."""
_log = logging.getLogger(__name__)
ReadTexts = Callable[[Sequence[str]], NDArray[np.float32]]
"""From item texts to features, float32 ``[T, F]``."""


class ItemIngestion:
    """Item changes of one version. ``apply`` runs in one thread at a time; ``check`` may run concurrently."""

    def __init__(
        self,
        catalog: Catalog,
        rankers: Sequence[Ranker],
        *,
        model: ScoringModel,
        reader: ItemReader | None = None,
        read: ReadTexts | None = None,
        most_new_items: int = 100_000,
        shared: Path | None = None,
        busy: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """rankers: of all variants. model: the full one, whose rows ``reader`` computes from features of ``read``.

        reader, read: None if the model does not use texts; known items then keep their rows when their text changes.
        shared: folder where workers share text features; None: this is the only worker.
        busy: utilisation of the event loop, 0 to 1.
        """
        self._shared = _SharedFeatures(shared) if shared is not None else None
        self._catalog, self._rankers, self._model = catalog, rankers, model
        self._reader, self._read = (None if read is None else reader), read
        self._most_rows, self._busy = catalog.num_rows + most_new_items, busy
        self._written: dict[str, bytes] = {}
        """A digest of each item put, to skip changes that this worker has already applied."""
        self.applied = 0
        """The store sequence number up to which changes are applied."""
        self.failed = 0
        """Number of changes that could not be applied."""

    def check(self, item_id: str, item: Item) -> None:
        """Check that an item can be ingested, before it is stored and merged with what is known of it.

        Raises:
            RequestError: the item is new and has no text, or the model does not use texts.
            OverloadedError: too many items were changed.
        """
        self._check(item_id, item_id in self._catalog or _has_text(_clean(item)))

    def _check(self, item_id: str, has_text: bool) -> None:
        if self._reader is None and self._catalog.base_row(item_id) is None:
            raise RequestError(f"item '{item_id}' is new and this model does not use texts; retrain with this item")
        if self._catalog.base_row(item_id) is None and not has_text:
            raise RequestError(f"item '{item_id}' is new and has neither text nor title to rank it by")
        if self._reader is not None and self._catalog.num_rows >= self._most_rows:
            raise OverloadedError("too many items were added or changed; retrain and serve a newer bundle", _RETRY_S)

    def apply(self, changes: Iterable[ItemChange]) -> None:
        """Apply the latest states of items, in order of sequence number.

        Failures are logged and counted in ``failed`` and do not stop the others: a server must start whatever its store
        contains.
        """
        changes = list(changes)
        for change in changes:
            if change.item is None:
                self._catalog.delete(change.id)
                self._written.pop(change.id, None)
        plain = [(one.id, self._completed(one.id, one.item)) for one in changes if one.item is not None]
        put = [one for one in plain if self._is_changed(*one)]
        for first in range(0, len(put), _BATCH_SIZE):
            started = perf_counter()
            self._put(put[first : first + _BATCH_SIZE])
            worked, busy = perf_counter() - started, self._busy()
            sleep(worked * min(max(0.0, busy - _LOW_LOAD) / max(_HIGH_LOAD - busy, 1e-9), _MAX_PAUSE))
        self.applied = max([self.applied, *(change.sequence for change in changes)])

    def _is_changed(self, item_id: str, item: Item) -> bool:
        return item_id not in self._catalog or self._written.get(item_id) != _digest(item)

    def _put(self, items: Sequence[tuple[str, Item]]) -> None:
        """Apply a batch, or item by item if it fails."""
        try:
            features: Sequence[NDArray[np.float32] | None] = [None] * len(items)
            if self._reader is not None and self._read is not None:
                features = self._features([item for _, item in items])
            for (item_id, item), features_F in zip(items, features, strict=True):
                self._check(item_id, _has_text(item))
                self._catalog.put(item_id, item, self._new_row(item_id, features_F), features_F)
                self._written[item_id] = _digest(item)
        except Exception as error:
            if len(items) > 1:
                for one in items:
                    if self._is_changed(*one):
                        self._put([one])
            else:
                self.failed += 1
                _log.warning("ingestion of item '%s' failed: %s", items[0][0], error)

    def read_ahead(self, item_id: str, item: Item) -> None:
        """Encode an item's text for all workers before they are notified; errors are left to ``apply``."""
        if self._shared is not None and self._read is not None:
            with contextlib.suppress(Exception):
                self._features([self._completed(item_id, item)])

    def _completed(self, item_id: str, item: Item) -> Item:
        return self._catalog.completed(item_id, _clean(item))

    def _features(self, items: Sequence[Item]) -> list[NDArray[np.float32]]:
        """Features of each item's text, ``[F]``."""
        assert self._read is not None
        texts = [item.text or item.title for item in items]
        known = {} if self._shared is None else self._shared.load(texts)
        new = [text for text in texts if text not in known]
        if new:
            read = dict(zip(new, self._read(new), strict=True))
            known |= read
            if self._shared is not None:
                self._shared.save(read)
        return [known[text] for text in texts]

    def _new_row(self, item_id: str, features_F: NDArray[np.float32] | None) -> int | None:
        """The new row, equal in every ranker; None: the item keeps its row."""
        if self._reader is None or features_F is None:
            return None
        rows = self._reader.read(self._model, features_F[None], [self._catalog.base_row(item_id)])
        before = [self._catalog.latest_row(item_id)]
        given = {int(ranker.add(rows, before)[0]) for ranker in self._rankers} | {self._catalog.num_rows}
        if len(given) > 1:
            raise RuntimeError(f"variants assigned different rows: {sorted(given)}")
        return given.pop()


class _SharedFeatures:
    """Text features in short-lived files, for the other workers to apply the item."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._saved = folder, deque[tuple[float, Path]]()

    def load(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Features of texts that a worker encoded recently."""
        found = {}
        for text in texts:
            with contextlib.suppress(OSError, ValueError):
                found[text] = np.load(self._path(text), allow_pickle=False)
        return found

    def save(self, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Store features for the other workers and remove old files."""
        now = monotonic()
        for text, features_F in features.items():
            path, draft = self._path(text), self._folder / f"{os.getpid()}-{threading.get_native_id()}.npy"
            np.save(draft, features_F, allow_pickle=False)
            draft.replace(path)
            self._saved.append((now, path))
        while self._saved and self._saved[0][0] < now - _SHARED_S:
            self._saved.popleft()[1].unlink(missing_ok=True)

    def _path(self, text: str) -> Path:
        return self._folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}.npy"


def background_thread() -> ThreadPoolExecutor:
    """A single low-priority thread for ``ItemIngestion.apply``."""
    return ThreadPoolExecutor(1, "item-ingestion", initializer=_lower_priority)


def _lower_priority() -> None:
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _clean(item: Item) -> Item:
    """The item with title and text cleaned as by the dataset readers, so that encoder inputs match training."""
    title, text = plain_text(pl.Series([item.title, item.text])).to_list()
    return msgspec.structs.replace(item, title=title, text=text)


def _has_text(item: Item) -> bool:
    return bool((item.text or item.title).strip())


def _digest(item: Item) -> bytes:
    return hashlib.sha256(msgspec.json.encode(item)).digest()
