"""The items of a catalogue dealt into parts, each with an engine of its own, and one answer of all of them.

A request takes two rounds. ``gathered``: what each part's own items add to the user, whose sum over the parts is the
user. ``best_of_part``: each part's best items for that user, of which ``merged`` takes the best. Nothing here knows of
machines.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.ladder import Rung
from lanner.errors import StoreUnavailableError
from lanner.models.request_form import ItemRows, RequestForm
from lanner.models.request_items import ItemReader
from lanner.serving.answering import Found, Question
from lanner.serving.backends.contract import Backend
from lanner.serving.engine import Engine
from lanner.serving.item_index import ItemIndex
from lanner.serving.item_tables import ItemTables
from lanner.serving.messages import RecommendAnswer


def part_of(item_id: str, parts: int) -> int:
    """The part that an item is dealt to: by its id alone, so that everybody knows it without a catalogue."""
    return zlib.crc32(item_id.encode()) % parts


@dataclass(frozen=True)
class Part:
    """One of ``of`` parts, ``number`` from 0 on."""

    number: int
    of: int

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the items that are dealt to this part, ascending int64 ``[P]``; there may be none."""
        return np.flatnonzero(np.fromiter((part_of(one, self.of) == self.number for one in item_ids), bool))


class Gathered(msgspec.Struct, frozen=True):
    """What one part, or all, knows of a user. sum_D: of the sources of what was met, of which there are ``count``.

    version: of the bundle that it was read from.
    """

    version: str
    sum_D: NDArray[np.float32]
    count: int


class Best(msgspec.Struct, frozen=True):
    """The best items of one part. rows: of the whole catalogue, one each of the answer's items."""

    rows: list[int]
    answer: RecommendAnswer


class PartTables(ItemTables):
    """The tables of some items, by the rows of the whole catalogue: of the others zeros are gathered."""

    def __init__(self, form: RequestForm, rows_P: NDArray[np.int64], num_rows: int) -> None:
        """form: of the items at ``rows_P`` alone, ascending. num_rows: of the whole catalogue."""
        super().__init__(form)
        self._place_I = np.full(num_rows, -1, np.int32)
        self._place_I[rows_P] = np.arange(len(rows_P), dtype=np.int32)

    @property
    def num_items(self) -> int:
        """Rows that can be asked for, those of other parts included."""
        return len(self._place_I)

    @property
    def memory_bytes(self) -> int:
        return super().memory_bytes + self._place_I.nbytes

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row is of this part."""
        return np.asarray(self._place_I[rows] >= 0)

    def append(self, rows: ItemRows) -> None:
        """Items come to no part yet."""
        raise NotImplementedError

    def sources(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        places, held = self._place_I[rows].astype(np.int64), self.holds(rows)
        own = super().sources(places[held])
        found = np.zeros((len(rows), own.shape[1]), np.float32)
        found[held] = own
        return found

    def corrections(
        self, rows_BC: NDArray[np.int64], hidden_BH: NDArray[np.float32], out_H: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        # Only items of this part are retrieved here; −1 stays no item.
        places_BC = np.full(rows_BC.shape, -1, np.int64)
        np.copyto(places_BC, self._place_I[rows_BC], where=rows_BC >= 0)
        return super().corrections(places_BC, hidden_BH, out_H)


class PartEngine(Engine):
    """An engine of one part, asked by the rows of the whole catalogue; what is found is of its own items."""

    tables: PartTables

    def __init__(
        self,
        rung: Rung,
        rows_P: NDArray[np.int64],
        num_rows: int,
        index: ItemIndex,
        backend: Backend | None = None,
        candidates: int = 500,
        item_reader: ItemReader | None = None,
    ) -> None:
        """rung: its form is of the items at ``rows_P`` alone. index: of those, by rows of the whole catalogue.

        The rest as ``Engine``.
        """
        super().__init__(rung, backend, candidates=candidates, index=index, item_reader=item_reader)
        self.tables = PartTables(rung.form, rows_P, num_rows)

    def gathered(self, history: NDArray[np.int64], version: str) -> Gathered:
        """What this part's items of a history add to the user. history: rows of the whole catalogue.

        Raises:
            ValueError: a row lies outside the catalogue.
        """
        met = self.known(history)
        own = met[self.tables.holds(met)]
        return Gathered(version, self.tables.sources(own).sum(axis=0), len(own))

    def best_of_part(self, question: Question, user: Gathered) -> Found:
        """The best of this part's items for a user of whom all parts' sums are known.

        With a head each part ranks ``candidates`` of its own: so many times as many altogether as one engine would.
        """
        mean_D = user.sum_D / np.float32(max(1, user.count))
        profile = question.profile if self.form.profile_FD is not None else None
        read = self.encode(profile, question.text if self.reads_texts else None, user.count)
        met, deny = self.known(question.rows), question.deny
        if question.exclude_seen and len(met):
            deny = met if deny is None else np.union1d(deny, met)
        return Found(self.best(self.fuse(mean_D, read), question.k, question.allow, deny))


def together(parts: Sequence[Gathered]) -> Gathered:
    """The user as all parts know them.

    Raises:
        StoreUnavailableError: the parts are of several versions of the bundle, which pass one another by no sum.
    """
    _check_alike([part.version for part in parts])
    sum_D = np.stack([part.sum_D for part in parts]).sum(axis=0)
    return Gathered(parts[0].version, sum_D, sum(part.count for part in parts))


def merged(parts: Sequence[Best], k: int) -> RecommendAnswer:
    """The k best of what the parts found, as one answer, made as long as its slowest part took.

    Of equal scores the lower row comes first, as in an engine of all items.

    Raises:
        StoreUnavailableError: as ``together``.
    """
    _check_alike([part.answer.served.model for part in parts])
    found = [(-item.score, row, item) for part in parts for row, item in zip(part.rows, part.answer.items, strict=True)]
    best = sorted(found, key=lambda one: one[:2])[:k]
    items = [msgspec.structs.replace(item, rank=rank) for rank, (_, _, item) in enumerate(best, 1)]
    slowest = max((part.answer.served for part in parts), key=lambda served: served.milliseconds["total"])
    return RecommendAnswer(items=items, served=slowest)


def _check_alike(versions: Sequence[str]) -> None:
    if len(set(versions)) > 1:
        held = " and ".join(sorted(set(versions)))
        raise StoreUnavailableError(f"shards hold different bundles, {held}; start the server anew with one of them")
