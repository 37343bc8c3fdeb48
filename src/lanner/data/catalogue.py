"""What is known of items (or users) besides their interactions: a text each, and named attributes."""

from dataclasses import dataclass, field

from lanner.data.ragged import Ragged

FIELD_SEPARATOR = "\n"
"""Between the fields of a text (title, plot, …). Every text of a catalogue has the same fields, empty ones too."""


@dataclass(frozen=True)
class Attribute:
    """One named attribute with several values an entity may hold: genre, category, brand, sector …"""

    names: tuple[str, ...]
    """Distinct values; a value's position is its code."""
    codes: Ragged
    """Codes held by each entity, one list a row."""


@dataclass(frozen=True)
class Catalogue:
    """Texts and attributes of ``len(texts)`` items or users, in row order."""

    texts: tuple[str, ...]
    """What the language encoder reads, field by field (``FIELD_SEPARATOR``); the empty string where there is none."""
    titles: tuple[str, ...]
    """What a person is shown; the external id where there is none."""
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def attributes_of(self, row: int) -> dict[str, list[str]]:
        """The values that one item or user holds, by attribute."""
        return {name: [one.names[code] for code in one.codes[row].tolist()] for name, one in self.attributes.items()}

    @classmethod
    def blank(cls, titles: tuple[str, ...]) -> "Catalogue":
        """A catalogue that knows nothing but names."""
        return cls(texts=("",) * len(titles), titles=titles)
