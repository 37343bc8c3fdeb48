"""Training data of the hybrid's closed forms: sequences of items, and which items have similar texts."""

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
from lanner.models.local_ridge import strongest

_ROWS_AT_ONCE = 512
_T = TypeVar("_T")


@dataclass(frozen=True)
class Material:
    """histories: items of each user, oldest first where ``has_order``.

    features_IF: of the items' texts, embeddings beside word features. near: similarity of each item
    to the items nearest to it by text, 0 … 1, float32 csr ``[I, I]``, itself excluded. Both None without texts.
    ratings: item and value of each rating, liked or not; None if there are none. people: what else is known of each
    user. targets: the items whose columns are wanted, ascending; None: all. directions_IR: approximate leading ones of
    the user–item graph, such as those of fewer events; None: not known.
    """

    histories: Ragged
    num_items: int
    has_order: bool
    features_IF: NDArray[np.float32] | None = None
    near: sp.csr_matrix | None = None
    ratings: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    people: Catalogue = field(default_factory=lambda: Catalogue((), ()))
    targets: NDArray[np.int64] | None = None
    directions_IR: NDArray[np.float32] | None = None

    @property
    def target_items(self) -> NDArray[np.int64]:
        """The items whose columns are wanted, ``[T]``."""
        return np.arange(self.num_items) if self.targets is None else self.targets

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """Ones where a user chose an item, float32 ``[U, I]``."""
        return history_matrix(self.histories, self.num_items)

    @cached_property
    def users_I(self) -> NDArray[np.float32]:
        """Users of each item."""
        return np.bincount(self.matrix.indices, minlength=self.num_items).astype(np.float32)

    @property
    def degree_I(self) -> NDArray[np.float32]:
        """Users of each item, at least 1."""
        return np.maximum(self.users_I, 1)

    @property
    def is_seen_I(self) -> NDArray[np.bool_]:
        """Items that were chosen at least once."""
        return self.users_I > 0

    def user_weights(self, exponent: float) -> NDArray[np.float32]:
        """(n / mean n)^−exponent of each user: events of long histories count less."""
        lengths = np.maximum(np.diff(self.matrix.indptr), 1).astype(np.float32)
        return np.asarray((lengths / lengths.mean()) ** np.float32(-exponent), np.float32)

    def once(self, name: str, key: Hashable, make: Callable[[], _T]) -> _T:
        """The result of ``make``, recomputed only if ``key`` differs from the last one: it may be large."""
        if self._memo.get(name, (None,))[0] != key:
            self._memo[name] = (key, make())
        made: _T = self._memo[name][1]
        return made

    @cached_property
    def _memo(self) -> dict[str, tuple[Hashable, Any]]:
        return {}

    def with_histories(self, histories: Ragged) -> "Material":
        """The same items and texts with other events."""
        return replace(self, histories=histories)


def ratings_of(interactions: Interactions) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    """Item and value of each rated event; None if the weights are counts or constant."""
    if interactions.weight is None:
        return None
    is_rated = np.isfinite(interactions.weight)
    items, values = interactions.item[is_rated], interactions.weight[is_rated]
    return (items, values) if are_ratings(*np.unique(values, return_counts=True)) else None


@dataclass(frozen=True)
class ItemTexts:
    """meaning_IF, words_IW: features of the items' texts, rows of unit length, or zero without a text.

    near: the nearest items of each by text, see ``text_neighbours``.
    """

    meaning_IF: NDArray[np.float32]
    words_IW: sp.csr_matrix
    near: sp.csr_matrix

    def extended(self, meaning_NF: NDArray[np.float32], words_NW: sp.csr_matrix, count: int) -> "ItemTexts":
        """With N more items: their neighbours are computed, and they are added to the neighbours of the others."""
        meaning_IF = np.vstack([self.meaning_IF, meaning_NF])
        words_IW = sp.vstack([self.words_IW, words_NW]).tocsr()
        return ItemTexts(meaning_IF, words_IW, text_neighbours(meaning_IF, words_IW, count, self.near))


def text_neighbours(
    meaning_IF: NDArray[np.float32], words_IW: sp.csr_matrix, count: int, known: sp.csr_matrix | None = None
) -> sp.csr_matrix:
    """The ``count`` nearest items of each, float32 csr ``[I, I]``, itself excluded, none below 0.

    Similarity is the mean of two cosines, of embeddings and of word features; names and brands, which the embeddings
    blur, are exact in the words. meaning_IF, words_IW: rows of unit length, or zero where there is no text. known:
    the earlier result for the first items.
    """
    num_items, by_word = len(meaning_IF), words_IW.T.tocsr()
    width = min(count, num_items - 1)
    if width < 1:
        return sp.csr_matrix((num_items, num_items), dtype=np.float32)
    num_known = 0 if known is None else known.shape[0]
    columns, values = (
        np.empty((num_items - num_known, width), np.int32),
        np.empty((num_items - num_known, width), np.float32),
    )
    found, least_K = [], np.empty(0, np.float32)
    if known is not None:
        known = sp.csr_matrix((known.data, known.indices, _extend_indptr(known.indptr, num_items)), (num_items,) * 2)
        # A later item becomes a neighbour of an item if it is nearer than the last of its neighbours.
        least_K = np.minimum.reduceat(np.append(known.data, 0), known.indptr[:num_known])
        least_K[np.diff(known.indptr[: num_known + 1]) < count] = 0
        found.append(known)
    for first in range(num_known, num_items, _ROWS_AT_ONCE):
        rows = np.arange(first, min(first + _ROWS_AT_ONCE, num_items))
        cosines = 0.5 * (meaning_IF[rows] @ meaning_IF.T + (words_IW[rows] @ by_word).toarray())
        cosines[np.arange(len(rows)), rows] = -np.inf
        columns[rows - num_known], values[rows - num_known] = top_k(cosines, width)
        news, olds = np.nonzero(cosines[:, :num_known] > least_K)
        joined = (cosines[news, olds], (olds, rows[news]))
        found.append(sp.csr_matrix(joined, (num_items, num_items), np.float32))
    kept = (columns >= 0) & (values > 0)
    indptr = np.concatenate([np.zeros(num_known + 1, np.int64), np.cumsum(kept.sum(axis=1))])
    found.append(sp.csr_matrix((values[kept], columns[kept], indptr), (num_items, num_items)))
    return strongest(sp.csr_matrix(sum(found[1:], found[0])), count).sorted_indices()


def _extend_indptr(indptr: NDArray[np.integer], num_rows: int) -> NDArray[np.integer]:
    """The indptr of a matrix with empty rows appended."""
    return np.concatenate([indptr, np.full(num_rows + 1 - len(indptr), indptr[-1])])
