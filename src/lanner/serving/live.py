"""The catalogue as it is now: ids, titles and rows of items that stood in the bundle, came, changed or went since."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.errors import UnknownIdError
from lanner.serving.row_table import RowTable


class LiveItems:
    """Ids to rows and back. A changed item gets a new row; its old one stays readable, for histories may name it.

    One thread changes it at a time; others read meanwhile: an item is known by its id only once all else is in place.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._id_of = list(dataset.items.external)
        self._title_of = list(dataset.item_catalogue.titles)
        self._row_of = {one: row for row, one in enumerate(self._id_of)}
        self._table = RowTable(self._row_of)
        self._gone_from: dict[str, int] = {}
        """The last row of each item that went."""
        self._first_R = np.arange(len(self._id_of))
        """The first row that the item of a row ever had; there ``_latest_R`` holds its last one."""
        self._latest_R = self._first_R.copy()
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

    def first_row(self, item_id: str) -> int | None:
        """The row that an item had first, whether it is still there or not; None where it never was."""
        last = self._row_of.get(item_id, self._gone_from.get(item_id))
        return None if last is None else int(self._first_R[last])

    def known_rows(self, item_ids: Collection[str]) -> NDArray[np.int64]:
        """Rows of those ids that are known, in their order, int64 ``[n]``."""
        return self._table.rows(item_ids)

    def current(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where items stand now that stood at ``rows`` when a history was read; they keep their place if they went."""
        return self._latest_R[self._first_R[rows]]

    def named(self, rows: Sequence[int] | NDArray[np.int64]) -> list[tuple[str, str]]:
        """(id, title) of rows."""
        return [(self._id_of[row], self._title_of[row]) for row in rows]

    def put(self, item_id: str, title: str) -> int | None:
        """Give an item the next row; returns the row it had before, None where it was not there."""
        before, row = self._row_of.get(item_id), len(self._id_of)
        last = self._gone_from.pop(item_id, None) if before is None else before
        first = row if last is None else int(self._first_R[last])
        self._make_room(row + 1)
        self._first_R[row] = first
        self._id_of.append(item_id)
        self._title_of.append(title or item_id)
        # Each in one step, so that who reads meanwhile gets the row before or this one.
        self._latest_R[first] = row
        self._row_of[item_id] = row
        self._table.put(item_id, row, self._row_of)
        self.version += 1
        return before

    def remove(self, item_id: str) -> int | None:
        """Forget an item; returns the row it had."""
        row = self._row_of.pop(item_id, None)
        if row is not None:
            self._gone_from[item_id] = row
            self._table.remove(item_id)
        self.version += 1
        return row

    def _make_room(self, rows: int) -> None:
        """Twice the room where it runs out; who reads the arrays before reads what stood there then."""
        if rows > len(self._first_R):
            more = np.zeros(rows, np.int64)
            self._first_R, self._latest_R = np.append(self._first_R, more), np.append(self._latest_R, more)
