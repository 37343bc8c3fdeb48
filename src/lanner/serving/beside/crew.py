"""The engine processes of one version: which of them is asked, and whether all are there."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.models.request_form import ItemRows
from lanner.serving.answering import Found, Question, Work, is_plain
from lanner.serving.beside.handle import EngineProcess
from lanner.serving.beside.messages import Open
from lanner.serving.engine import Answer, Engine
from lanner.serving.scheduling.profile import Times
from lanner.serving.shelf import Shelf


class Crew:
    """What a model's changes follow and what a dispatcher asks; see ``EngineProcess`` for which thread calls what."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        """Starts so many."""
        self._all = [EngineProcess(loop) for _ in range(number)]
        self._opened: list[Future[dict[str, Times]]] = []

    @property
    def living(self) -> int:
        """Processes that have not died."""
        return sum(not one.has_died for one in self._all)

    @property
    def has_died(self) -> bool:
        """Whether one of them has; threads of the server then do its work."""
        return self.living < len(self._all)

    def open(
        self,
        bundle: Path,
        variants: Sequence[str],
        candidates: int,
        histories: Sequence[NDArray[np.int64]],
        shelf: Shelf,
    ) -> None:
        """Let all begin to open a bundle whose indexes are there, each on a core of its own. shelf: one with a file."""
        told = [one.tobytes() for one in histories]
        message = Open(str(bundle), tuple(variants), candidates, shelf.most_rows, told)
        opening = ThreadPoolExecutor(len(self._all), "lanner-opening")
        self._opened = [opening.submit(one.opened, message, shelf) for one in self._all]
        opening.shutdown(wait=False)

    def measured(self) -> dict[str, Times]:
        """Wait until all have opened it; what one measured, for they are alike.

        Raises:
            BundleError: one could not.
        """
        found = [one.result() for one in self._opened]
        return found[0]

    def add(self, rows: ItemRows) -> None:
        """Items take the next rows everywhere."""
        for one in self._all:
            one.add(rows)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Items are found no more anywhere."""
        for one in self._all:
            one.remove(rows)

    def fold(self, place: int, folder: Path) -> None:
        """An index was built anew: let all take it from a folder."""
        for one in self._all:
            one.fold(place, folder)

    def asked(
        self, engine: Engine, variant: str, works: Sequence[Work], then: Callable[[Sequence[Any] | None], None]
    ) -> bool:
        """Have a batch worked on, if all of it is plain and a process is free.

        then: called with what came of each, on the loop; None where the process could not answer.
        """
        free = next((one for one in self._all if not one.has_died and not one.pending), None)
        plain = [work for work in works if isinstance(work, Question) and is_plain(engine, work)]
        if free is None or len(plain) < len(works):
            return False
        histories, ks, exclude_seen = zip(*[(one.rows, one.k, one.exclude_seen) for one in plain], strict=True)
        free.ask(variant, histories, ks, exclude_seen, lambda answers: then(_found(answers)))
        return True

    def close(self) -> None:
        """End all of them."""
        for one in self._all:
            one.close()


def _found(answers: list[Answer] | None) -> list[Found] | None:
    return None if answers is None else [Found(one) for one in answers]
