"""Convert ids, histories and texts to ranker queries."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Attribute
from lanner.data.frames import values_of
from lanner.data.ids import id_text, requested_ids
from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, RequestError
from lanner.inference.eligibility import RowMask, unknown_attribute
from lanner.inference.ranker import Query, queries_of
from lanner.library.results import shorten

Filters = Mapping[str, Iterable[str | float] | str | float]
"""Values, or one value, by attribute; numbers stand for their text."""


@dataclass(frozen=True)
class Questions:
    """Users to recommend for. Exactly one of users and histories is given, or neither if there are texts.

    users: ids, known or not. histories: item ids of anonymous users. texts: one per user. attributes: values by
    attribute for each user, replacing the known ones.
    """

    dataset: Dataset
    users: list[Any] | None
    histories: list[list[Any]] | None
    texts: list[str | None] | None
    attributes: list[dict[str, list[str]]] | None

    @classmethod
    def of(cls, dataset: Dataset, users: Any, histories: Any, texts: Any, attributes: Any = None) -> "Questions":
        """Raises ``RequestError`` for invalid arguments."""
        if users is None and histories is None and texts is None and attributes is None:
            raise RequestError("one of users, histories, texts or attributes is required")
        if users is not None and histories is not None:
            raise RequestError("users and histories exclude each other: the history of a user is known")
        user_ids = None if users is None else ids_of(users, "users")
        read = None if texts is None else _texts(texts)
        lists = None if histories is None else _histories(histories)
        described = None if attributes is None else _attributes(attributes)
        questions = cls(dataset, user_ids, lists, read, described)
        for given, what in ((read, "texts"), (described, "attributes")):
            if given is not None and len(given) != len(questions):
                raise RequestError(f"received {len(given)} {what} for {len(questions)} users; give one for each")
        return questions

    def __len__(self) -> int:
        given = (self.users, self.histories, self.texts, self.attributes)
        return len(next(one for one in given if one is not None))

    @property
    def names(self) -> list[Any]:
        """Values of the column ``user_id``: ids, or positions 0 … n − 1 of anonymous users."""
        if self.users is None:
            return list(range(len(self)))
        return self.dataset.users.given_back(self.users)

    def column(self, names: list[Any]) -> NDArray[np.int64] | list[str]:
        """``names`` as a column of one type."""
        return np.array(names, np.int64) if self.users is None else self.dataset.users.column(names)

    @property
    def unknown(self) -> list[str]:
        """Unknown ids and attribute values, each once; they have no effect."""
        users = [id_text(one) for one in self.users or () if one not in self.dataset.users]
        items = [id_text(one) for history in self.histories or () for one in history if one not in self.dataset.items]
        find = self.dataset.user_catalogue.find
        values = [value for given in self.attributes or () for value in find(given)[1]]
        return list(dict.fromkeys([*users, *items, *values]))

    def blocks(self, size: int, like: Query, *, exclude_seen: bool) -> Iterator[list[Query]]:
        """The queries in blocks of ``size``; k, filters and explain are those of ``like``."""
        for first in range(0, len(self), size):
            places = range(first, min(first + size, len(self)))
            queries = [self._of_history(place) for place in places] if self.users is None else self._of_users(places)
            if self.attributes is not None:
                found = [self.dataset.user_catalogue.find(self.attributes[place])[0] for place in places]
                queries = [replace(query, attributes=one) for query, one in zip(queries, found, strict=True)]
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
        user_ids = [(self.users or [])[place] for place in places]
        known = [users.row(one) for one in user_ids if one in users]
        found = iter(queries_of(self.dataset.user_batch(np.array(known, np.int64))))
        return [next(found) if one in users else Query() for one in user_ids]


def allowed(attributes: Mapping[str, Attribute], filters: Mapping[str, Any] | None, num_items: int) -> RowMask | None:
    """Items with at least one of the values of each given attribute; None without filters.

    A value that no item has is a ``UserWarning``.

    Raises:
        RequestError: no such attribute, or invalid values.
    """
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise RequestError(
            "filters must be values by attribute, such as {'genres': ['Drama']}, "
            f"received {type(filters).__name__} {filters!r}"
        )
    if not filters:
        return None
    mask = np.ones(num_items, np.bool_)
    for name, wanted in filters.items():
        if name not in attributes:
            raise unknown_attribute(str(name), attributes)
        attribute = attributes[name]
        values = {id_text(value) for value in _wanted(name, wanted)}
        if missed := sorted(values.difference(attribute.names)):
            warnings.warn(f"no item has {name}={shorten(missed)}", UserWarning, stacklevel=3)
        codes = [code for code, value in enumerate(attribute.names) if value in values]
        having = np.zeros(num_items, np.bool_)
        having[attribute.codes.row_of_value[np.isin(attribute.codes.values, codes)]] = True
        mask &= having
    return RowMask(mask)


def checked_k(k: Any) -> int:
    """Raises ``RequestError`` unless ``k`` is a valid number of items."""
    if isinstance(k, bool) or not isinstance(k, Integral):
        raise RequestError(f"k must be a whole number of at least 1, received {k!r}")
    if k < 1:
        raise RequestError(f"k must be at least 1, received {k}")
    return int(k)


def path_of(given: Any, what: str) -> Path:
    """Raises ``ConfigError`` unless ``given`` is a path. what: the function that takes it."""
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f"{what} takes a path, received {type(given).__name__}")
    return Path(given)


def ids_of(given: Any, what: str) -> list[Any]:
    """A list of ids; raises ``RequestError`` if ``given`` is none, or for an invalid id."""
    if isinstance(given, Real) or (isinstance(given, np.ndarray) and not given.ndim):
        return [given]
    try:
        ids = values_of(given)
    except TypeError:
        kind = type(given).__name__
        raise RequestError(f"{what} must be ids: a list, an array or a column, received {kind}") from None
    return requested_ids(ids, what)


def _texts(given: Any) -> list[str | None]:
    try:
        texts = values_of(given)
    except TypeError:
        texts = [given]
    # pandas marks a missing text with a value that is unequal to itself.
    texts = [None if isinstance(text, float) and text != text else text for text in texts]
    for text in texts:
        if not isinstance(text, str | None):
            raise RequestError(f"texts must be strings, received {text!r}")
    return texts


def _attributes(given: Any) -> list[dict[str, list[str]]]:
    expected = "attributes must be mappings from names to values, one for each user, such as [{'sex': 'F'}]"
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise RequestError(f"{expected}, received {given!r}")
    found = []
    for one in given:
        if not isinstance(one, Mapping):
            raise RequestError(f"{expected}, received {one!r} as one of them")
        found.append({str(name): [id_text(value) for value in _wanted(name, values)] for name, values in one.items()})
    return found


def _histories(given: Any) -> list[list[Any]]:
    expected = "histories must be lists of item ids, one for each user"
    if not isinstance(given, Iterable):
        raise RequestError(f"{expected}, received {given!r}")
    lists = []
    for one in given:
        if isinstance(one, str) or not isinstance(one, Iterable):
            raise RequestError(f"{expected}, received {one!r} as a history")
        lists.append(ids_of(one, "histories"))
    return lists


def _wanted(name: str, values: Any) -> list[Any]:
    """The values of one attribute; raises ``RequestError`` if there are none."""
    if isinstance(values, str | Real):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise RequestError(f"the attribute '{name}' must be a value or a list of values, received {values!r}")
    return values_of(values)
