"""External ids and rows: two kinds of number that must never be mixed."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lanner.errors import UnknownIdError
from lanner.types import ExternalId


class IdMap:
    """Frozen one-to-one map between external ids and rows 0 … n − 1."""

    def __init__(self, external: Sequence[ExternalId]) -> None:
        self.external: tuple[ExternalId, ...] = tuple(external)

    def __len__(self) -> int:
        return len(self.external)

    def __contains__(self, external_id: object) -> bool:
        return str(external_id) in self._row

    @cached_property
    def _row(self) -> dict[ExternalId, int]:
        return {name: row for row, name in enumerate(self.external)}

    def row(self, external_id: ExternalId | int) -> int:
        """Row of one id.

        Raises:
            UnknownIdError: the id was never seen.
        """
        try:
            return self._row[str(external_id)]
        except KeyError:
            raise UnknownIdError(f"unknown id '{external_id}'; {len(self)} ids are known") from None

    def rows(self, external_ids: Iterable[ExternalId | int]) -> NDArray[np.int32]:
        """Rows of several ids, int32 ``[n]``; unknown ids raise ``UnknownIdError``."""
        return np.array([self.row(one) for one in external_ids], np.int32)
