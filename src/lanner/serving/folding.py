"""Indexes of which much has changed are built anew, beside the requests."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lanner.models.request_form import ItemRows
from lanner.serving.cores import on_one_core
from lanner.serving.engine import Engine, indexes_of
from lanner.serving.retrieval import Index

_log = logging.getLogger(__name__)


class Followers(Protocol):
    """Engines of the same variants elsewhere. Each call returns when it is done there."""

    def add(self, rows: ItemRows) -> None:
        """Items take the next rows; see ``engine.add_items``."""

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Items are found no more."""

    def fold(self, place: int, folder: Path) -> None:
        """Of ``indexes_of`` the engines, one was built anew and lies in a folder; see ``Index.adopt``."""


class Folding:
    """One thread at a time; nobody waits for it, not even who closes: an index of a million items takes minutes."""

    def __init__(self, name: str) -> None:
        """name: of whom, for the thread."""
        self._name = name
        self._thread: Thread | None = None
        self._can_fold = True

    def fold(self, engines: Iterable[Engine], followers: Followers | None = None) -> None:
        """Begin where there is need and nothing under way; called by whoever changes the engines.

        followers: have the same changes behind them, and take over what is built here.
        """
        indexes = enumerate(indexes_of(engines))
        due = [(place, one) for place, one in indexes if isinstance(one, Index) and one.needs_rebuild]
        if due and self._can_fold and (self._thread is None or not self._thread.is_alive()):
            work, name = partial(self._rebuild, due, followers), f"rebuild-{self._name}"
            self._thread = Thread(target=work, name=name, daemon=True)
            self._thread.start()

    def _rebuild(self, due: Sequence[tuple[int, Index]], followers: Followers | None) -> None:
        """On one core, for requests need the others; where it fails once, the indexes serve on as they are."""
        with on_one_core():
            for place, index in due:
                try:
                    with TemporaryDirectory(prefix="lanner-index-") as folder:
                        index.rebuild(Path(folder) / "index")
                        if followers is not None:
                            followers.fold(place, Path(folder) / "index")
                except Exception:
                    self._can_fold = False
                    _log.exception("an index cannot be built anew; searching what changes will cost ever more")
