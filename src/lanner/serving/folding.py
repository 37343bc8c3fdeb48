"""Indexes of which much has changed are built anew, beside the requests."""

import logging
from collections.abc import Iterable, Sequence
from threading import Thread

from lanner.serving.cores import on_one_core
from lanner.serving.engine import Engine, indexes_of
from lanner.serving.retrieval import Index

_log = logging.getLogger(__name__)


class Folding:
    """One thread at a time; nobody waits for it, not even who closes: an index of a million items takes minutes."""

    def __init__(self, name: str) -> None:
        """name: of whom, for the thread."""
        self._name = name
        self._thread: Thread | None = None
        self._can_fold = True

    def fold(self, engines: Iterable[Engine]) -> None:
        """Begin where there is need and nothing under way; called by whoever changes the engines."""
        due = [one for one in indexes_of(engines) if isinstance(one, Index) and one.needs_rebuild]
        if due and self._can_fold and (self._thread is None or not self._thread.is_alive()):
            self._thread = Thread(target=self._rebuild, args=(due,), name=f"rebuild-{self._name}", daemon=True)
            self._thread.start()

    def _rebuild(self, indexes: Sequence[Index]) -> None:
        """On one core, for requests need the others; where it fails once, the indexes serve on as they are."""
        with on_one_core():
            for index in indexes:
                try:
                    index.rebuild()
                except Exception:
                    self._can_fold = False
                    _log.exception("an index cannot be built anew; searching what changes will cost ever more")
