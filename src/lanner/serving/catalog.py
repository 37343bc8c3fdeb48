"""The current item catalog: the bundle's items (base) plus later changes (delta).

A changed item gets a new row, since vectors are immutable; its old row is hidden and redirects to the new one. One
writer at a time changes the catalog. Readers need no lock: an item's id and availability are published last, after
everything else about it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.errors import RequestError, UnknownIdError
from lanner.inference.eligibility import Availability, RowMask, unknown_attribute
from lanner.inference.tables import GrowingTable
from lanner.inference.text_neighbours import TextNeighbours
from lanner.serving.messages import Filters, Item

_NO_ROWS = np.empty(0, np.int64)
_COMPARED_AT_ONCE = 4096
"""Texts of the delta decoded per block."""


@dataclass(frozen=True)
class Allowed:
    """Resolved filters. mask: allowed rows, None: all. deny: rows int64. unknown: ids that match no item."""

    mask: RowMask | None = None
    deny: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    unknown: list[str] = field(default_factory=list)


class Catalog:
    """Ids, titles, attributes, texts and availability of items by row."""

    def __init__(self, dataset: Dataset, texts: TextNeighbours | None = None) -> None:
        """texts: features of the items' texts; None: the model does not use texts."""
        self._ids, self._titles = list(dataset.items.external), list(dataset.item_catalogue.titles)
        self._row_of = {one: row for row, one in enumerate(self._ids)}
        self._num_base, self._base = len(self._ids), dataset.item_catalogue
        self._older: dict[str, list[int]] = {}
        """All rows of each changed or deleted item, oldest first."""
        self._current_R = np.arange(self._num_base)
        self._attributes = _Attributes(dataset.item_catalogue, self._num_base)
        self._texts = texts
        self._features = None if texts is None else GrowingTable(texts.features_IF)
        self.available = Availability(self._num_base)
        self.version = 0
        """Incremented on every change; invalidates cached responses."""

    def __len__(self) -> int:
        """Number of known items, hidden ones included."""
        return len(self._row_of)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._row_of

    @property
    def num_rows(self) -> int:
        """Number of rows assigned so far."""
        return len(self._titles)

    # --- ids and rows ------------------------------------------------------------------------------------------------

    def row(self, item_id: str) -> int:
        """The item's row. Raises ``UnknownIdError`` for an unknown or deleted item."""
        found = self._row_of.get(item_id)
        if found is None:
            raise UnknownIdError(f"unknown item '{item_id}'; {len(self)} items are known")
        return found

    def base_row(self, item_id: str) -> int | None:
        """The item's row in the bundle, even if it was changed or deleted since; None: not in the bundle."""
        rows = self._older.get(item_id)
        row = rows[0] if rows else self._row_of.get(item_id)
        return row if row is not None and row < self._num_base else None

    def latest_row(self, item_id: str) -> int | None:
        """The item's row, or its last row if it was deleted; None: never known."""
        rows = self._older.get(item_id)
        return self._row_of.get(item_id, rows[-1] if rows else None)

    def known_rows(self, item_ids: Iterable[str]) -> tuple[NDArray[np.int64], list[str]]:
        """Rows of the known ids, in their order, int64 ``[n]``, and the unknown ids."""
        item_ids = list(item_ids)
        rows, unknown = list(map(self._row_of.get, item_ids)), list[str]()
        if None in rows:
            unknown = [item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None]
            rows = [row for row in rows if row is not None]
        return np.array(rows, np.int64), unknown

    def current(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Current rows of the items that had ``rows`` before; for deleted items their last rows."""
        return np.asarray(self._current_R[rows])

    def named(self, rows: Iterable[int]) -> list[tuple[str, str]]:
        """(id, title) of rows."""
        ids, titles = self._ids, self._titles
        return [(ids[row], titles[row]) for row in rows]

    def completed(self, item_id: str, item: Item) -> Item:
        """The item, with an empty title, text or attributes taken from the bundle."""
        row = self.base_row(item_id)
        if row is None:
            return item
        base = self._base
        return item.or_else(Item(title=base.titles[row], text=base.texts[row], attributes=base.attributes_of(row)))

    def title(self, row: int) -> str:
        """The display title."""
        return self._titles[row]

    def attributes_of(self, row: int) -> Mapping[str, Collection[str]]:
        """An item's values, by attribute."""
        return self._attributes.of(row)

    # --- filters and search ------------------------------------------------------------------------------------------

    def filter_cost(self, filters: Filters | None) -> int:
        """Approximate number of ids and rows that ``allowed`` touches; 10,000 take a millisecond."""
        if filters is None:
            return 0
        values = sum(self._attributes.num_holders(name, values) for name, values in filters.attributes.items())
        return len(filters.allow or ()) + len(filters.deny) + values // 8

    def allowed(self, filters: Filters | None) -> Allowed:
        """Resolve filters into rows; also returns their unknown ids.

        Raises:
            RequestError: unknown attribute name.
        """
        if filters is None:
            return Allowed()
        mask, unknown = self._attributes.allowed(filters.attributes, self.num_rows), list[str]()
        if filters.allow is not None:
            rows, unknown = self.known_rows(filters.allow)
            listed = RowMask.of(rows, self.num_rows)
            mask = listed if mask is None else mask & listed
        deny, more = self.known_rows(filters.deny)
        return Allowed(mask, deny, unknown + more)

    def frequent_values(self, number: int) -> dict[str, list[str]]:
        """The most frequent values of each attribute in the bundle."""
        return self._attributes.frequent(number)

    def nearest(self, features_F: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of the k nearest available items by text similarity, nearest first.

        Raises:
            RequestError: the model does not use texts.
        """
        if self._texts is None or self._features is None:
            raise RequestError("this model does not use texts; search is not available")
        base, rows = self._num_base, min(len(self._features), self.num_rows)
        mask = self.available.mask(rows) if self.available.num_hidden else None
        found, cosines = self._texts.nearest(features_F, k, None if mask is None else mask[:base])
        if rows == base:
            return found, cosines
        later = np.arange(base, rows) if mask is None else base + np.flatnonzero(mask[base:])
        blocks = [later[first : first + _COMPARED_AT_ONCE] for first in range(0, len(later), _COMPARED_AT_ONCE)]
        cosines = np.concatenate([cosines, *(self._features.take(block) @ features_F for block in blocks)])
        best = np.argsort(-cosines, kind="stable")[:k]
        return np.concatenate([found, later])[best], cosines[best]

    # --- changes -----------------------------------------------------------------------------------------------------

    def put(self, item_id: str, item: Item, row: int | None, features_F: NDArray[np.float32] | None = None) -> bool:
        """Add or change an item; returns whether it existed.

        Args:
            item_id: external id.
            item: title, attributes, text and availability.
            row: the next row, ``num_rows``, as assigned by the rankers; None: a known item keeps its row.
            features_F: features of its text, required if the model uses texts and the row is new.

        Raises:
            ValueError: the row is not the next one, or an unknown item has none.
        """
        before = self._row_of.get(item_id)
        if row is None:
            row = self._older[item_id][-1] if before is None and item_id in self._older else before
            if row is None:
                raise ValueError(f"item '{item_id}' has no row yet")
            self._titles[row] = item.title or item_id
        else:
            self._append(item_id, item, row, before, features_F)
        self._attributes.put(row, item.attributes)
        if before is not None and before != row:
            self.available.hide(np.array([before]))
        self._row_of[item_id] = row
        change = self.available.show if item.available else self.available.hide
        change(np.array([row]))
        self.version += 1
        return before is not None

    def delete(self, item_id: str) -> bool:
        """Remove an item; returns whether it existed. Histories may still reference its row."""
        row = self._row_of.get(item_id)
        if row is not None:
            self.available.hide(np.array([row]))
            self._older.setdefault(item_id, [row])
            del self._row_of[item_id]
            self.version += 1
        return row is not None

    def _append(
        self, item_id: str, item: Item, row: int, before: int | None, features_F: NDArray[np.float32] | None
    ) -> None:
        if row != self.num_rows:
            raise ValueError(f"row {row} was assigned to an item, but {self.num_rows} is next")
        if self._features is not None:
            if features_F is None:
                raise ValueError(f"the text of item '{item_id}' has no features")
            self._features.append(features_F[None])
        rows = self._older.setdefault(item_id, [] if before is None else [before])
        rows.append(row)
        if row >= len(self._current_R):
            # Replaced, not modified: readers may hold the old array.
            self._current_R = np.append(self._current_R, np.zeros(max(64, row), np.int64))
        self._current_R[rows] = row
        self.available.grow(row + 1)
        self._ids.append(item_id)
        self._titles.append(item.title or item_id)  # last: it counts the rows


class _Attributes:
    """Inverted index from attribute values to rows: of the base by value, of later rows by row and by value."""

    def __init__(self, catalogue: Catalogue, num_rows: int) -> None:
        attributes, self._catalogue = catalogue.attributes, catalogue
        self._base = {name: _Holders.of(attribute) for name, attribute in attributes.items()}
        self._num_base = num_rows
        self._values: dict[int, Mapping[str, Collection[str]]] = {}
        """Values of rows in the delta."""
        self._rows: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._names = set(attributes)
        self._lock = Lock()
        """Held while rows are copied."""

    def put(self, row: int, attributes: Mapping[str, Collection[str]]) -> None:
        """Replace the attribute values of a row."""
        with self._lock:
            for name, values in self._values.get(row, {}).items():
                for value in values:
                    self._rows[name, value].discard(row)
            self._values[row] = attributes
            for name, values in attributes.items():
                self._names.add(name)
                for value in values:
                    self._rows[name, value].add(row)

    def of(self, row: int) -> Mapping[str, Collection[str]]:
        held = self._values.get(row)
        if held is not None:
            return held
        return self._catalogue.attributes_of(row) if row < self._num_base else {}

    def num_holders(self, name: str, values: Collection[str]) -> int:
        base = self._base.get(name)
        later = sum(8 * len(self._rows.get((name, value), ())) for value in values)
        return later + (0 if base is None else sum(len(base.rows(value)) for value in values))

    def allowed(self, wanted: Mapping[str, Collection[str]], num_rows: int) -> RowMask | None:
        """Rows with at least one of the values of each attribute; None: no filter."""
        if not wanted:
            return None
        with self._lock:  # a consistent snapshot
            changed = np.fromiter(self._values, np.int64)
            held = {
                name: set[int]().union(*(self._rows.get((name, value), ()) for value in wanted[name]))
                for name in wanted
            }
        found_R = np.ones(num_rows, np.bool_)
        for name, values in wanted.items():
            if name not in self._names:
                with self._lock:
                    known = sorted(self._names)
                raise unknown_attribute(name, known)
            allowed_R = np.zeros(num_rows, np.bool_)
            for value in values if name in self._base else ():
                allowed_R[self._base[name].rows(value)] = True
            for rows, allowed in ((changed, False), (np.fromiter(held[name], np.int64), True)):
                allowed_R[rows[rows < num_rows]] = allowed
            found_R &= allowed_R
        return RowMask(found_R)

    def frequent(self, number: int) -> dict[str, list[str]]:
        return {name: holders.frequent(number) for name, holders in self._base.items()}


@dataclass(frozen=True)
class _Holders:
    """Rows of the base by value, for one attribute."""

    code_of: dict[str, int]
    rows_of_code: Ragged

    @classmethod
    def of(cls, attribute: Attribute) -> "_Holders":
        codes, rows = attribute.codes.values, attribute.codes.row_of_value
        return cls(
            {name: code for code, name in enumerate(attribute.names)},
            Ragged.from_pairs(codes, rows, len(attribute.names)),
        )

    def rows(self, value: str) -> NDArray[np.int32]:
        code = self.code_of.get(value)
        return self.rows_of_code.values[:0] if code is None else self.rows_of_code[code]

    def frequent(self, number: int) -> list[str]:
        names = list(self.code_of)
        return [names[code] for code in np.argsort(-self.rows_of_code.lengths, kind="stable")[:number]]
