"""The catalogue as it is now: ids, titles and rows of items that stood in the bundle, came, changed or went since."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.vocabulary import UnknownIdError


class LiveItems:
    """Ids to rows and back. A changed item gets a new row; its old one stays readable, for histories may name it.

    One thread changes it at a time; others read meanwhile: an item is known by its id only once all else is in place.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._id_of = list(dataset.items.external)
        self._title_of = list(dataset.item_catalogue.titles)
        self._row_of = {one: row for row, one in enumerate(self._id_of)}
        self._moved: dict[int, int] = {}
        self.version = 0
        """Rises with every change: whatever was answered before may be out of date."""

    def __len__(self) -> int:
        """Items that may be recommended."""
        return len(self._row_of)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._row_of

    @property
    def num_rows(self) -> int:
        """Rows ever given."""
        return len(self._id_of)

    def row(self, item_id: str) -> int:
        """Raises ``UnknownIdError`` where there is no such item, or none any more."""
        found = self._row_of.get(item_id)
        if found is None:
            raise UnknownIdError(f"unknown item '{item_id}'; {len(self)} items are known")
        return found

    def known_rows(self, item_ids: Iterable[str]) -> list[int]:
        """Rows of those ids that are known, in their order."""
        rows = map(self._row_of.get, item_ids)
        return [row for row in rows if row is not None]

    def current(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where items stand now that stood at ``rows`` when a history was read; they keep their place if they went."""
        if not self._moved:
            return rows
        return np.array([self._moved.get(int(row), int(row)) for row in rows], np.int64)

    def named(self, rows: Sequence[int] | NDArray[np.int64]) -> list[tuple[str, str]]:
        """(id, title) of rows."""
        return [(self._id_of[row], self._title_of[row]) for row in rows]

    def retitle(self, item_id: str, title: str) -> None:
        """Another title, and nothing else."""
        self._title_of[self.row(item_id)] = title or item_id
        self.version += 1

    def put(self, item_id: str, title: str) -> int | None:
        """Give an item the next row; returns the row it had before."""
        before = self._row_of.get(item_id)
        self._id_of.append(item_id)
        self._title_of.append(title or item_id)
        row = len(self._id_of) - 1
        if before is not None:
            self._moved = {**{old: row if new == before else new for old, new in self._moved.items()}, before: row}
        self._row_of[item_id] = row
        self.version += 1
        return before

    def remove(self, item_id: str) -> int | None:
        """Forget an item; returns the row it had."""
        self.version += 1
        return self._row_of.pop(item_id, None)
