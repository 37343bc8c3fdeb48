"""External ids and rows: two kinds of identifier that must never be mixed."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lanner.errors import RequestError, UnknownIdError
from lanner.types import ExternalId

IdKind = Literal["str", "int"]
"""Type of the ids that the caller gave; internally they are text."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1


class IdMap:
    """Frozen one-to-one map between external ids and rows 0 … n − 1."""

    def __init__(self, external: Sequence[ExternalId], kind: IdKind = "str", *, of: str = "id") -> None:
        """kind: ``int`` only if each of ``external`` is the decimal text of an integer. of: what the ids identify."""
        self.external: tuple[ExternalId, ...] = tuple(external)
        self.kind: IdKind = kind
        self.of = of

    def __len__(self) -> int:
        return len(self.external)

    def __contains__(self, external_id: object) -> bool:
        return id_text(external_id) in self._row

    @cached_property
    def _row(self) -> dict[ExternalId, int]:
        return {name: row for row, name in enumerate(self.external)}

    def row(self, external_id: ExternalId | int) -> int:
        """Row of one id.

        Raises:
            UnknownIdError: the id is unknown.
        """
        try:
            return self._row[id_text(external_id)]
        except KeyError:
            known = f"1 {self.of} is" if len(self) == 1 else f"{len(self)} {self.of}s are"
            raise UnknownIdError(f"unknown id '{external_id}'; {known} known") from None

    def rows(self, external_ids: Iterable[ExternalId | int]) -> NDArray[np.int32]:
        """Rows of several ids, int32 ``[n]``; unknown ids raise ``UnknownIdError``."""
        return np.array([self.row(one) for one in external_ids], np.int32)

    def ids(self, rows: Iterable[int]) -> list[str] | list[int]:
        """Ids of rows, in the caller's type."""
        named = [self.external[row] for row in rows]
        return list(map(int, named)) if self.kind == "int" else named

    def given_back(self, external_ids: Iterable[object]) -> list[str | int]:
        """Ids of a request, known or not, in the form of responses: integers if the ids of this map are integers."""
        texts = map(id_text, external_ids)
        return [int(text) if self.kind == "int" and _is_integer(text) else text for text in texts]

    def column(self, ids: Sequence[str | int]) -> NDArray[np.int64] | list[str]:
        """A column of ``ids`` or of ``given_back``: int64 if all are integers that fit, else texts."""
        if self.kind == "int" and all(isinstance(one, int) and _SMALLEST <= one <= _LARGEST for one in ids):
            return np.array(ids, np.int64)
        return [str(one) for one in ids]


def id_text(external_id: object) -> str:
    """An id in its stored form: 7, 7.0 (a pandas column with missing values) and "7" are the same."""
    if isinstance(external_id, np.ndarray) and not external_id.ndim:
        external_id = external_id.item()
    if isinstance(external_id, float | np.floating) and external_id.is_integer():
        return str(int(external_id))
    return str(external_id)


def requested_ids(ids: Iterable[Any], what: str) -> list[Any]:
    """A caller's ids without white space at their ends, as in a dataset: reading strips it.

    what: the parameter that holds them.

    Raises:
        RequestError: an id that is empty.
    """
    found = [one.strip() if isinstance(one, str) else one for one in ids]
    if any(isinstance(one, str) and not one for one in found):
        raise RequestError(f"{what}: an id must not be empty")
    return found


def _is_integer(text: str) -> bool:
    """Whether it is the canonical form of a 64-bit integer."""
    return _WHOLE.fullmatch(text) is not None and _SMALLEST <= int(text) <= _LARGEST
