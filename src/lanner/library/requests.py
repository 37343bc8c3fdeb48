"""From ids, histories and texts to queries of the ranker."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lanner.data.catalogue import Attribute
from lanner.data.frames import values_of
from lanner.data.interactions import Dataset
from lanner.errors import RequestError
from lanner.inference.eligibility import RowMask
from lanner.inference.ranker import Query, queries_of


@dataclass(frozen=True)
class Questions:
    """Whom to recommend to. Exactly one of users and histories is given, or neither where there are texts.

    users: ids, known or not. histories: item ids of anonymous users. texts: one for each of them.
    """

    dataset: Dataset
    users: list[Any] | None
    histories: list[list[Any]] | None
    texts: list[str | None] | None

    @classmethod
    def of(cls, dataset: Dataset, users: Any, histories: Any, texts: Any) -> "Questions":
        """Raises ``RequestError`` for what is not a question."""
        if users is None and histories is None and texts is None:
            raise RequestError("one of users, histories or texts is required")
        if users is not None and histories is not None:
            raise RequestError("users and histories exclude each other: the history of a user is known")
        asked = None if users is None else values_of(users)
        read = None if texts is None else values_of(texts)
        lists = None if histories is None else [_history(one) for one in histories]
        number = len(asked if asked is not None else lists if lists is not None else read or ())
        if read is not None and len(read) != number:
            raise RequestError(f"received {len(read)} texts for {number} users; give one text for each")
        return cls(dataset, asked, lists, read)

    def __len__(self) -> int:
        return len(next(one for one in (self.users, self.histories, self.texts) if one is not None))

    @property
    def names(self) -> list[Any]:
        """What the column ``user_id`` holds: ids, or the places 0 … n − 1 of anonymous users."""
        if self.users is None:
            return list(range(len(self)))
        if self.dataset.users.kind == "int" and all(str(one).lstrip("-").isdigit() for one in self.users):
            return [int(one) for one in self.users]
        return [str(one) for one in self.users]

    @property
    def unknown(self) -> list[str]:
        """Ids that are not known, each once; they have no effect."""
        users = [str(one) for one in self.users or () if one not in self.dataset.users]
        items = [str(one) for history in self.histories or () for one in history if one not in self.dataset.items]
        return list(dict.fromkeys([*users, *items]))

    def blocks(self, size: int, like: Query, *, exclude_seen: bool) -> Iterator[list[Query]]:
        """The queries, so many at a time; k, filters and explain are those of ``like``."""
        for first in range(0, len(self), size):
            places = range(first, min(first + size, len(self)))
            queries = [self._of_history(place) for place in places] if self.users is None else self._of_users(places)
            yield [
                replace(
                    query,
                    seen=query.seen if exclude_seen else like.seen,
                    text=None if self.texts is None else self.texts[place],
                    k=like.k,
                    allow=like.allow,
                    explain=like.explain,
                )
                for place, query in zip(places, queries, strict=True)
            ]

    def _of_history(self, place: int) -> Query:
        items, history = self.dataset.items, self.histories[place] if self.histories else []
        rows = np.array([items.row(one) for one in history if one in items], np.int64)
        return Query(rows, seen=rows)

    def _of_users(self, places: range) -> list[Query]:
        users = self.dataset.users
        asked = [(self.users or [])[place] for place in places]
        known = [users.row(one) for one in asked if one in users]
        found = iter(queries_of(self.dataset.user_batch(np.array(known, np.int64))))
        return [next(found) if one in users else Query() for one in asked]


def allowed(attributes: Mapping[str, Attribute], filters: Mapping[str, Any] | None, num_items: int) -> RowMask | None:
    """Items that have, of each attribute named, at least one of the values; None where nothing is asked for.

    Raises:
        RequestError: no such attribute.
    """
    if not filters:
        return None
    mask = np.ones(num_items, np.bool_)
    for name, wanted in filters.items():
        if name not in attributes:
            near = difflib.get_close_matches(name, attributes, 1)
            advice = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(attributes) or "none"
            raise RequestError(f"unknown attribute '{name}'; {advice}known attributes: {known}")
        attribute = attributes[name]
        values = {str(value) for value in ([wanted] if isinstance(wanted, str) else wanted)}
        codes = [code for code, value in enumerate(attribute.names) if value in values]
        having = np.zeros(num_items, np.bool_)
        having[attribute.codes.row_of_value[np.isin(attribute.codes.values, codes)]] = True
        mask &= having
    return RowMask(mask)


def _history(one: Any) -> list[Any]:
    if isinstance(one, str | int | np.integer):
        raise RequestError(f"histories must be lists of item ids, one for each user, received {one!r} as a history")
    return values_of(one)
