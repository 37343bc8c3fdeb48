"""Which items hold the attributes that a request asks for, exactly, while items come, change and go."""

import difflib
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError
from lanner.serving.retrieval.row_set import RowSet, mark

Attributes = Mapping[str, Collection[str]]
"""Values by the name of the attribute."""
_RECENT = 64
"""Answers kept: at a bit for each item and answer as much as one whole number an item."""
_CHANGES_UNNOTICED = 1024
_CHANGED_SHARE = 0.01
"""Items, and share of them, that are held apart before they are folded in, which takes 0.1 s at a million items."""


class AttributeFilter:
    """Items by the values they hold. Threads may ask while others change it; an answer is of one moment.

    Lists of holders are never changed once made; changed items are marked as out of date there and kept beside them
    until there are so many that new lists pay. Only copying those few is done under the lock that readers take.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """The attributes of a catalogue; an item's row is its place there."""
        self._num_rows = len(catalogue.texts)
        self._holders = {name: _Holders.of(attribute) for name, attribute in catalogue.attributes.items()}
        self._changed: dict[int, dict[str, frozenset[str]]] = {}
        self._changed_holders: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._outdated = np.zeros(_bytes(self._num_rows), np.uint8)
        self._recent: OrderedDict[frozenset[tuple[str, frozenset[str]]], RowSet] = OrderedDict()
        self._version = 0
        self._changing = Lock()
        self._reading = Lock()

    def allowed(self, wanted: Attributes) -> RowSet | None:
        """The items that hold at least one of the values of each name: what ``Index.search`` takes as ``allow``.

        A value that nobody holds matches nothing, and so does an empty list. None where nothing is asked: any item will
        do, those included whose attributes are not known here.

        Raises:
            ConfigError: an attribute of that name was never known; the nearest is named.
        """
        if not wanted:
            return None
        key = frozenset((name, frozenset(values)) for name, values in wanted.items())
        with self._reading:
            self._check_names(wanted)
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
            version, size = self._version, len(self._outdated)
            holders = {name: self._holders[name] for name, _ in key}
            current = ~self._outdated
            changed = {
                name: [np.fromiter(self._changed_holders.get((name, value), ()), np.int64) for value in values]
                for name, values in key
            }
        found = None
        for name, values in key:
            bits = holders[name].bits(values, size)
            bits &= current
            for rows in changed[name]:
                mark(bits, rows, 8 * size)
            found = bits if found is None else found & bits
        assert found is not None
        answer = RowSet(found)
        with self._reading:
            if version == self._version:
                self._remember(key, answer)
        return answer

    def put(self, row: int, attributes: Attributes) -> None:
        """An item, new or not, now holds these values and no others; names that are new become known.

        Raises:
            ValueError: the row is negative.
        """
        if row < 0:
            raise ValueError(f"row is {row}, it must be 0 or more")
        self._change(row, {name: frozenset(values) for name, values in attributes.items()})

    def remove(self, row: int) -> None:
        """An item holds nothing any more; one that was never there does not either."""
        if 0 <= row < self._num_rows:
            self._change(row, {})

    def _change(self, row: int, attributes: dict[str, frozenset[str]]) -> None:
        with self._changing:
            with self._reading:
                self._record(row, attributes)
            if len(self._changed) > max(_CHANGES_UNNOTICED, _CHANGED_SHARE * self._num_rows):
                self._fold()

    def _record(self, row: int, attributes: dict[str, frozenset[str]]) -> None:
        for pair in _pairs(self._changed.get(row, {})):
            self._changed_holders[pair].discard(row)
            if not self._changed_holders[pair]:
                del self._changed_holders[pair]
        self._changed.pop(row, None)
        if attributes:
            self._changed[row] = attributes
        for pair in _pairs(attributes):
            self._changed_holders[pair].add(row)
        for name in attributes.keys() - self._holders.keys():
            self._holders[name] = _Holders({}, Ragged.empty(0))
        self._num_rows = max(self._num_rows, row + 1)
        missing = _bytes(self._num_rows) - len(self._outdated)
        if missing > 0:
            # Some room beyond, so that items that come one by one do not each copy all marks.
            room = np.zeros(missing + len(self._outdated) // 8, np.uint8)
            self._outdated = np.concatenate([self._outdated, room])
        self._outdated[row >> 3] |= np.uint8(1 << (row & 7))
        self._version += 1
        self._recent.clear()

    def _fold(self) -> None:
        """New lists of holders; readers go on with the old ones and the changes until all are made."""
        outdated = RowSet(self._outdated)
        added: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for (name, value), rows in self._changed_holders.items():
            added[name].extend((value, row) for row in rows)
        folded = {name: holders.folded(outdated, added[name]) for name, holders in self._holders.items()}
        with self._reading:
            self._holders = folded
            self._changed, self._changed_holders = {}, defaultdict(set)
            self._outdated = np.zeros_like(self._outdated)

    def _remember(self, key: frozenset[tuple[str, frozenset[str]]], answer: RowSet) -> None:
        self._recent[key] = answer
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _check_names(self, names: Iterable[str]) -> None:
        known = sorted(self._holders)
        for name in names:
            if name not in self._holders:
                near = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean '{near[0]}'? " if near else ""
                raise ConfigError(f"unknown attribute '{name}'; {advice}known attributes: {', '.join(known) or 'none'}")


@dataclass(frozen=True)
class _Holders:
    """Who holds the values of one attribute."""

    code_of: dict[str, int]
    rows: Ragged
    """Rows by code."""

    @classmethod
    def of(cls, attribute: Attribute) -> "_Holders":
        codes, rows = attribute.codes.values, attribute.codes.row_of_value
        code_of = {name: code for code, name in enumerate(attribute.names)}
        return cls(code_of, Ragged.from_pairs(codes, rows, len(attribute.names)))

    def bits(self, values: Iterable[str], size: int) -> NDArray[np.uint8]:
        """uint8 ``[size]``: a bit for each row that holds one of ``values``."""
        bits = np.zeros(size, np.uint8)
        for value in values:
            if value in self.code_of:
                mark(bits, self.rows[self.code_of[value]], 8 * size)
        return bits

    def folded(self, outdated: RowSet, added: list[tuple[str, int]]) -> "_Holders":
        """Without the rows that are ``outdated``, with the (value, row) ``added``, without values that nobody holds."""
        code_of = dict(self.code_of)
        new_codes = np.array([code_of.setdefault(value, len(code_of)) for value, _ in added], np.int64)
        kept = ~outdated.holds(self.rows.values)
        codes = np.concatenate([self.rows.row_of_value[kept], new_codes])
        rows = np.concatenate([self.rows.values[kept], np.array([row for _, row in added], np.int32)])
        held = np.bincount(codes, minlength=len(code_of)) > 0
        values = [value for value, code in code_of.items() if held[code]]
        renumbered = np.cumsum(held) - 1
        return _Holders(
            {value: code for code, value in enumerate(values)},
            Ragged.from_pairs(renumbered[codes], rows, len(values)),
        )


def _pairs(attributes: dict[str, frozenset[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, values in attributes.items() for value in values]


def _bytes(num_rows: int) -> int:
    return (num_rows + 7) >> 3
