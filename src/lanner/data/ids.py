"""External ids and rows: two kinds of number that must never be mixed."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lanner.errors import UnknownIdError
from lanner.types import ExternalId

IdKind = Literal["str", "int"]
"""Type of the ids that the caller gave; inside they are text."""


class IdMap:
    """Frozen one-to-one map between external ids and rows 0 … n − 1."""

    def __init__(self, external: Sequence[ExternalId], kind: IdKind = "str") -> None:
        """kind: ``int`` only where each of ``external`` is the decimal text of a whole number."""
        self.external: tuple[ExternalId, ...] = tuple(external)
        self.kind: IdKind = kind

    def __len__(self) -> int:
        return len(self.external)

    def __contains__(self, external_id: object) -> bool:
        return _text(external_id) in self._row

    @cached_property
    def _row(self) -> dict[ExternalId, int]:
        return {name: row for row, name in enumerate(self.external)}

    def row(self, external_id: ExternalId | int) -> int:
        """Row of one id.

        Raises:
            UnknownIdError: the id was never seen.
        """
        try:
            return self._row[_text(external_id)]
        except KeyError:
            raise UnknownIdError(f"unknown id '{external_id}'; {len(self)} ids are known") from None

    def rows(self, external_ids: Iterable[ExternalId | int]) -> NDArray[np.int32]:
        """Rows of several ids, int32 ``[n]``; unknown ids raise ``UnknownIdError``."""
        return np.array([self.row(one) for one in external_ids], np.int32)

    def ids(self, rows: Iterable[int]) -> list[str] | list[int]:
        """Ids of rows, of the type that the caller gave."""
        named = [self.external[row] for row in rows]
        return list(map(int, named)) if self.kind == "int" else named


def _text(external_id: object) -> str:
    """An id as it is kept: 7, 7.0 (a column of pandas with a gap) and "7" are one."""
    if isinstance(external_id, float) and external_id.is_integer():
        return str(int(external_id))
    return str(external_id)
