"""What the closed forms of the hybrid learn from: sequences of items, and which items read alike."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.data.catalogue import Catalogue
from lanner.data.feedback import are_ratings
from lanner.data.interactions import Interactions
from lanner.data.ragged import Ragged
from lanner.data.ranking import top_k
from lanner.inference.sparse import history_matrix

_ROWS_AT_ONCE = 512
_T = TypeVar("_T")


@dataclass(frozen=True)
class Material:
    """histories: items of each user, oldest first where ``has_order``.

    features_IF: of the items' texts, what they mean beside their words. near: likeness of each
    item with the items nearest to it by text, 0 … 1, float32 csr ``[I, I]``, itself left out. Both None without texts.
    ratings: item and value of each rating, liked or not; None where there are none.
    people: what is known of each user besides.
    """

    histories: Ragged
    num_items: int
    has_order: bool
    features_IF: NDArray[np.float32] | None = None
    near: sp.csr_matrix | None = None
    ratings: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    people: Catalogue = field(default_factory=lambda: Catalogue((), ()))

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """Ones where a user chose an item, float32 ``[U, I]``."""
        return history_matrix(self.histories, self.num_items)

    @cached_property
    def degree_I(self) -> NDArray[np.float32]:
        """Users of each item, at least 1."""
        return np.maximum(np.bincount(self.matrix.indices, minlength=self.num_items), 1).astype(np.float32)

    @property
    def is_met_I(self) -> NDArray[np.bool_]:
        """Items that anybody chose."""
        return np.bincount(self.histories.values, minlength=self.num_items) > 0

    def user_weights(self, exponent: float) -> NDArray[np.float32]:
        """(n / mean n)^−exponent of each user: an event of a long history says less."""
        lengths = np.maximum(np.diff(self.matrix.indptr), 1).astype(np.float32)
        return np.asarray((lengths / lengths.mean()) ** np.float32(-exponent), np.float32)

    def gram(self, exponent: float = 0.0) -> sp.csr_matrix:
        """Xᵀ W X with ``user_weights``."""

        def make() -> sp.csr_matrix:
            weighted = sp.diags(self.user_weights(exponent)) @ self.matrix
            return sp.csr_matrix(self.matrix.T @ weighted).astype(np.float32)

        return self.once("gram", exponent, make)

    def once(self, name: str, key: Hashable, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, made anew only where ``key`` is another than at the last time: it may be large."""
        if self._made.get(name, (None,))[0] != key:
            self._made[name] = (key, make())
        made: _T = self._made[name][1]
        return made

    @cached_property
    def _made(self) -> dict[str, tuple[Hashable, Any]]:
        return {}

    def with_histories(self, histories: Ragged) -> "Material":
        """The same items and texts with other events."""
        return replace(self, histories=histories)


def ratings_of(interactions: Interactions) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    """Item and value of each rated event; None where the weights are counts or say nothing."""
    if interactions.weight is None:
        return None
    is_rated = np.isfinite(interactions.weight)
    items, values = interactions.item[is_rated], interactions.weight[is_rated]
    return (items, values) if are_ratings(*np.unique(values, return_counts=True)) else None


def text_neighbours(meaning_IF: NDArray[np.float32], words_IW: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """The ``count`` nearest items of each, float32 csr ``[I, I]``, itself left out, none below 0.

    Likeness is the mean of two cosines, of what texts mean and of their words; names and brands, which the meaning
    blurs, are whole in the words. meaning_IF, words_IW: rows of unit length, or zero where there is no text.
    """
    num_items, by_word = len(meaning_IF), words_IW.T.tocsr()
    count = min(count, num_items - 1)
    if count < 1:
        return sp.csr_matrix((num_items, num_items), dtype=np.float32)
    columns, values = np.empty((num_items, count), np.int32), np.empty((num_items, count), np.float32)
    for first in range(0, num_items, _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, num_items))
        cosines = 0.5 * (meaning_IF[rows] @ meaning_IF.T + (words_IW[rows] @ by_word).toarray())
        cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        columns[rows], values[rows] = top_k(cosines, count)
    kept = (columns >= 0) & (values > 0)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return sp.csr_matrix((values[kept], columns[kept], indptr), shape=(num_items, num_items)).sorted_indices()
