"""Metadata of items (or users): a text each, and named attributes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lanner.data.ragged import Ragged

FIELD_SEPARATOR = "\n"
"""Between the fields of a text (title, plot, …). Every text of a catalogue has the same fields, empty ones too."""


@dataclass(frozen=True)
class Attribute:
    """One named attribute with several values an entity may hold: genre, category, brand, sector …"""

    names: tuple[str, ...]
    """Distinct values; a value's position is its code."""
    codes: Ragged
    """Codes of each entity, one list per row."""
    edges: tuple[float, ...] = ()
    """For an attribute whose values are ranges of a number or a date (in seconds since 1970, UTC): where each range
    begins, ascending. The first range has no lower bound, the last no upper one. Empty for other attributes."""

    @cached_property
    def _code_of_name(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.names)}

    def code(self, value: str) -> int | None:
        """The code of a value, or of the range of a number or ISO 8601 date; None if it is unknown."""
        if value in self._code_of_name or not self.edges:
            return self._code_of_name.get(value)
        number = _number(value)
        return None if number is None else max(int(np.searchsorted(self.edges, number, "right")) - 1, 0)


@dataclass(frozen=True)
class Catalogue:
    """Texts and attributes of ``len(texts)`` items or users, in row order."""

    texts: tuple[str, ...]
    """Input of the language encoder, field by field (``FIELD_SEPARATOR``); the empty string if there is none."""
    titles: tuple[str, ...]
    """Display name; the external id if there is none."""
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def attributes_of(self, row: int) -> dict[str, list[str]]:
        """The values that one item or user holds, by attribute."""
        return {name: [one.names[code] for code in one.codes[row].tolist()] for name, one in self.attributes.items()}

    @classmethod
    def blank(cls, titles: tuple[str, ...]) -> "Catalogue":
        """A catalogue with nothing but names."""
        return cls(texts=("",) * len(titles), titles=titles)

    # All values of all attributes in one numbering: those of the first attribute, then those of the second …

    @property
    def kinds(self) -> NDArray[np.int32]:
        """The attribute (its position) of each value, int32 ``[A]``."""
        sizes = [len(one.names) for one in self.attributes.values()]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    @cached_property
    def values(self) -> Ragged:
        """The values of each entity."""
        rows, values, first = [np.empty(0, np.int64)], [np.empty(0, np.int32)], 0
        for one in self.attributes.values():
            rows.append(one.codes.row_of_value)
            values.append(one.codes.values + np.int32(first))
            first += len(one.names)
        return Ragged.from_pairs(np.concatenate(rows), np.concatenate(values), len(self.texts))

    def find(self, given: Mapping[str, Iterable[str]]) -> tuple[NDArray[np.int64], list[str]]:
        """The values ``given`` by attribute, and the unknown ones, as ``attribute: value``."""
        found, unknown, first = list[int](), list[str](), 0
        for name, one in self.attributes.items():
            for value in given.get(name, ()):
                code = one.code(value)
                if code is None:
                    unknown.append(f"{name}: {value}")
                else:
                    found.append(first + code)
            first += len(one.names)
        unknown += [f"{name}: {value}" for name in given if name not in self.attributes for value in given[name]]
        return np.unique(np.array(found, np.int64)), unknown


def _number(text: str) -> float | None:
    """A number, or a date in seconds since 1970; None for anything else."""
    try:
        number = float(text)
    except ValueError:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            return None
        number = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return number if np.isfinite(number) else None
