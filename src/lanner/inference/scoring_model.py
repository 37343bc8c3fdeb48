"""The scoring model, common to all recommenders: a sum of parts that are linear in a weighted history.

::

    w̃_i      = w_i e^(−recency · age_i) / (their sum  where the history is a mean, 1 where it is a sum)
    u        = Σ_i w̃_i source_i + Σ_f friend_f / |friends| + Σ_a s_a attribute_a + profile W_profile + text W_text
    score(j) = u · target_j + Σ_i w̃_i item_to_item_ij + bias_j + head(u, j)

(or u by ``FoldIn``). Profiles and query texts enter by linear maps of their features. a: values of the user's
attributes; s_a: 1 / how many of them are values of the same attribute. Needs neither torch, nor the graph, nor the
training set. Every model exports to it, every compressed variant has this form, and ``ranker.py`` ranks with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.heads import Head
from lanner.inference.sparse import (
    aged,
    attribute_matrix,
    batch_matrix,
    shares_of,
    sum_of_sparse_rows,
    with_attributes,
)
from lanner.inference.tables import Int8Rows, Table, multiply, named_arrays, take

if TYPE_CHECKING:
    import scipy.sparse as sp

TIE_BREAK = 1e-6
"""Relative to the largest weight: the popularity tie-break of models without biases, so that items unknown to the model
are ordered by popularity rather than by row."""
_PAIR_FLOATS = 1 << 22
"""Maximum number of hidden values of user-item pairs in memory."""


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in CSR form: row i holds the contribution of history item i to each target.

    After the rows of the I items there may be rows of the A values of users' attributes (added once each), and then of
    pairs: row I + A + a·I + i is what item i contributes in addition for users with the value a.

    indptr: int64 ``[R + 1]``. items: int32 ``[E]``. values: float32 ``[E]``. lost: share of absolute weight removed by
    pruning, 0 … 1. sums: whether raw history weights are used even if the model normalises them.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float32]
    lost: float = 0.0
    sums: bool = False

    @classmethod
    def of(cls, matrix: "sp.csr_matrix", lost: float = 0.0, *, sums: bool = False) -> Self:
        """From a SciPy matrix."""
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data, lost, sums)

    @property
    def num_rows(self) -> int:
        return len(self.indptr) - 1

    def row(self, item: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Targets and values of an item; empty for items added later."""
        if item >= len(self.indptr) - 1:
            return self.items[:0], self.values[:0]
        entries = slice(self.indptr[item], self.indptr[item + 1])
        return self.items[entries], self.values[entries]

    def matrix(self, num_items: int | None = None) -> "sp.csr_matrix":
        """As a SciPy matrix ``[R, num_items]``; None: R, if all rows are items."""
        import scipy.sparse as sp

        return sp.csr_matrix((self.values, self.items, self.indptr), shape=(self.num_rows, num_items or self.num_rows))


@dataclass(frozen=True)
class FoldIn:
    """The user solve of iALS: x = (gram + (alpha − 1) Σ w y yᵀ)⁻¹ alpha Σ w y (Hu et al., ICDM 2008, eq. 4).

    y: rows of ``source``. gram_DD: YᵀY + λI, float32 ``[D, D]``.
    """

    gram_DD: NDArray[np.float32]
    alpha: float

    def system(self, source_LD: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The matrix of the linear system, float32 ``[D, D]``."""
        return np.asarray(self.gram_DD + (self.alpha - 1) * ((source_LD * weights[:, None]).T @ source_LD), np.float32)

    def solve(self, source_LD: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The user's vector, float32 ``[D]``."""
        right_D = self.alpha * (weights @ source_LD)
        return np.asarray(np.linalg.solve(self.system(source_LD, weights), right_D), np.float32)


@dataclass(frozen=True)
class ItemRows:
    """A model's rows of N items: source_ND, target_ND ``[N, D]``, bias_N ``[N]``, half_NH: item side of the head.

    lenders_NK, shares_NK: trained items and the shares of their item-to-item weights that each takes; None: no weights.
    """

    source_ND: NDArray[np.float32]
    target_ND: NDArray[np.float32]
    bias_N: NDArray[np.float32]
    half_NH: NDArray[np.float32] | None = None
    lenders_NK: NDArray[np.int32] | None = None
    shares_NK: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Reduction:
    """Maps rows of the full model to those of a smaller one; None: unchanged.

    source_DR, target_DR: linear maps, the latter after subtracting mean_D. neurons: head neurons that are kept.
    bias_gain: ``[1]``, 0 if the biases are not a function of the full model's.
    """

    source_DR: NDArray[np.float32] | None = None
    target_DR: NDArray[np.float32] | None = None
    mean_D: NDArray[np.float32] | None = None
    neurons: NDArray[np.int64] | None = None
    bias_gain: NDArray[np.float32] | None = None

    def __call__(self, rows: ItemRows) -> ItemRows:
        """Reduce rows of new items like the catalogue's."""
        source, target, half = rows.source_ND, rows.target_ND, rows.half_NH
        if self.source_DR is not None and self.target_DR is not None and self.mean_D is not None:
            source, target = source @ self.source_DR, np.asarray((target - self.mean_D) @ self.target_DR, np.float32)
        if self.neurons is not None and half is not None:
            half = half[:, self.neurons]
        bias = rows.bias_N if self.bias_gain is None else rows.bias_N * self.bias_gain
        return replace(rows, source_ND=source, target_ND=target, bias_N=bias, half_NH=half)


@dataclass(frozen=True)
class ScoringModel:
    """source_ID, target_ID: ``[I, D]``, concatenated views, D may be 0. bias_I, popularity_I: float32 ``[I]``.

    popularity_I: interactions of each item, used for users without a signal. view_sizes: dimensions of each view,
    summing to D. view_names: of trained models, including ``language``; else ``factors``. normalises: whether history
    weights are divided by their sum. item_to_item, fold_in, head: None if the model has none. friends_UD: contribution
    of a known user as a friend, ``[U, D]``. profile_FD, text_FD: linear maps from features of a profile or query text,
    ``[F, D]``. reduction: from the full model; the identity for the full one. recency: how fast a history entry loses
    weight with its age, the number of entries after it; 0: not at all. attribute_AD: contribution of each value of
    users' attributes, numbered as in ``Catalogue.values`` of the users, ``[A, D]``. kind_A: the attribute of each of
    these values, int32 ``[A]``; None: the model reads no attributes.
    """

    source_ID: Table
    target_ID: Table
    bias_I: NDArray[np.float32]
    popularity_I: NDArray[np.float32]
    view_sizes: tuple[int, ...] = (0,)
    view_names: tuple[str, ...] = ("factors",)
    normalises: bool = True
    item_to_item: SparseRows | None = None
    fold_in: FoldIn | None = None
    head: Head | None = None
    friends_UD: Table | None = None
    profile_FD: Table | None = None
    text_FD: Table | None = None
    reduction: Reduction = field(default_factory=Reduction)
    recency: float = 0.0
    attribute_AD: Table | None = None
    kind_A: NDArray[np.int32] | None = None

    @property
    def num_items(self) -> int:
        return len(self.bias_I)

    @property
    def dimensions(self) -> int:
        return sum(self.view_sizes)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    @property
    def is_personal(self) -> bool:
        """Whether scores depend on the user."""
        return self.dimensions > 0 or self.item_to_item is not None

    def users(
        self,
        batch: UserBatch,
        profile_BF: NDArray[np.float32] | None = None,
        text_BF: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """One vector per user, float32 ``[B, D]``, from distinct history items and texts."""
        history = batch_matrix(aged(batch, self.recency), self.num_items)
        known = np.unique(history.indices)
        history, source_KD = history[:, known], take(self.source_ID, known)
        if self.fold_in is not None:
            own = self._folded_in(history, source_KD)
        else:
            own = np.asarray(history @ source_KD)
            totals = np.asarray(history.sum(axis=1), np.float32).ravel()
            if self.normalises:
                own /= np.where(totals > 0, totals, 1)[:, None]
        if text_BF is not None and self.text_FD is not None:
            own += multiply(text_BF, self.text_FD)
        if self.friends_UD is not None and batch.friends is not None:
            friends = batch_matrix(UserBatch(batch.friends), len(self.friends_UD))
            counts = np.maximum(np.diff(friends.indptr), 1).astype(np.float32)
            own += friends @ take(self.friends_UD) / counts[:, None]
        if self.attribute_AD is not None and self.kind_A is not None and batch.attributes is not None:
            own += attribute_matrix(batch.attributes, self.kind_A) @ take(self.attribute_AD)
        if profile_BF is not None and self.profile_FD is not None:
            own += multiply(profile_BF, self.profile_FD)
        return own

    def _folded_in(self, history: "sp.csr_matrix", source_KD: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.fold_in is not None
        out = np.zeros((history.shape[0], source_KD.shape[1]), np.float32)
        for user, (first, last) in enumerate(zip(history.indptr[:-1], history.indptr[1:], strict=True)):
            if last > first:
                rows = history.indices[first:last]
                out[user] = self.fold_in.solve(source_KD[rows], history.data[first:last])
        return out

    def score(
        self,
        batch: UserBatch,
        profile_BF: NDArray[np.float32] | None = None,
        text_BF: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Scores of every item, float32 ``[B, I]``: the reference for ``Ranker.rank``.

        Users unknown to the model (no history, or only unseen items) get the items' popularity.
        """
        users_BD = self.users(batch, profile_BF, text_BF)
        scores_BI = users_BD @ self._targets_ID.T + self.bias_I
        if self.item_to_item is not None:
            scores_BI += sum_of_sparse_rows(self.shares(batch), self.item_matrix)
        if self.head is not None:
            scores_BI += self.corrections(users_BD)
        scores_BI[~self.has_signal(users_BD, batch)] = self.popularity_I
        return scores_BI

    def shares(self, batch: UserBatch) -> "sp.csr_matrix":
        """Each user's weights of the rows of ``item_to_item``, which the model must have, ``[B, R]``."""
        weighted = aged(batch, self.recency)
        matrix = shares_of if self.divides_weights else batch_matrix
        return self._with_attributes(matrix(weighted, self.num_items), batch)

    @property
    def divides_weights(self) -> bool:
        """Whether ``item_to_item``, which the model must have, is applied to history weights divided by their sum."""
        assert self.item_to_item is not None
        return self.normalises and not self.item_to_item.sums

    def _with_attributes(self, history_BI: "sp.csr_matrix", batch: UserBatch) -> "sp.csr_matrix":
        """Histories and the other columns that ``item_to_item`` has rows for."""
        assert self.item_to_item is not None
        rows = self.item_to_item.num_rows
        if rows == self.num_items or self.kind_A is None:
            return history_BI
        values = Ragged.empty(len(batch)) if batch.attributes is None else batch.attributes
        return with_attributes(history_BI, attribute_matrix(values, self.kind_A), rows)

    def has_signal(self, users_BD: NDArray[np.float32], batch: UserBatch) -> NDArray[np.bool_]:
        """Whether the model knows anything of each user, bool ``[B]``; users_BD: their vectors."""
        found_B = np.asarray(users_BD.any(axis=1))
        if self.item_to_item is not None:
            known_BR = self._with_attributes(batch_matrix(batch, self.num_items), batch)
            found_B |= known_BR @ np.diff(self.item_to_item.indptr) > 0
        return found_B

    def corrections(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Contribution of the head, which the model must have, to the score of every item, float32 ``[B, I]``."""
        head = self.head
        assert head is not None
        hidden_BH, item_IH = head.hidden(users_BD, self.view_sizes), take(head.item_IH)
        out = np.empty((len(users_BD), self.num_items), np.float32)
        if head.kind == "concat":
            step = max(1, _PAIR_FLOATS // max(1, item_IH.size))
            for first in range(0, len(out), step):
                block = hidden_BH[first : first + step, None] + item_IH[None]
                out[first : first + step] = np.maximum(block, 0, out=block) @ head.out_H
            return out
        for user, (hidden_H, user_D) in enumerate(zip(hidden_BH, users_BD, strict=True)):
            out[user] = head.correction(hidden_H, item_IH, self.view_scores(user_D, self._targets_ID))
        return out

    def view_scores(
        self, user_D: NDArray[np.float32], target_CD: NDArray[np.float32]
    ) -> Callable[[], NDArray[np.float32]]:
        """Returns a function for the inner products of a user with targets by view, float32 ``[C, V]``."""
        starts = np.cumsum((0, *self.view_sizes[:-1]))
        return lambda: np.add.reduceat(target_CD * user_D, starts, axis=1)

    @cached_property
    def _targets_ID(self) -> NDArray[np.float32]:
        """Unpacked once: scoring all items reads the table often."""
        return np.ascontiguousarray(take(self.target_ID))

    @cached_property
    def item_matrix(self) -> "sp.csr_matrix":
        """``item_to_item``, which the model must have, as a SciPy matrix."""
        assert self.item_to_item is not None
        return self.item_to_item.matrix(self.num_items)

    # --- files -------------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-compatible metadata stored beside the arrays."""
        found: dict[str, Any] = {
            "view_sizes": list(self.view_sizes),
            "view_names": list(self.view_names),
            "normalises": self.normalises,
            "recency": self.recency,
        }
        if self.item_to_item is not None:
            found |= {"lost": self.item_to_item.lost, "sums": self.item_to_item.sums}
        if self.fold_in is not None:
            found["alpha"] = self.fold_in.alpha
        if self.head is not None:
            found["head"] = {"kind": self.head.kind, "num_views": self.head.num_views}
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Stored arrays by name."""
        tables: dict[str, Table | None] = {
            "source": self.source_ID,
            "target": self.target_ID,
            "friends": self.friends_UD,
            "profile": self.profile_FD,
            "text": self.text_FD,
            "attributes": self.attribute_AD,
            "head.item": None if self.head is None else self.head.item_IH,
        }
        named: dict[str, NDArray[Any]] = {"bias": self.bias_I, "popularity": self.popularity_I}
        for name, table in tables.items():
            if table is not None:
                named |= named_arrays(name, table)
        if self.item_to_item is not None:
            sparse = self.item_to_item
            named |= {"sparse.indptr": sparse.indptr, "sparse.items": sparse.items, "sparse.values": sparse.values}
        if self.kind_A is not None:
            named["kind"] = self.kind_A
        if self.fold_in is not None:
            named["fold_in.gram"] = self.fold_in.gram_DD
        if self.head is not None:
            head = self.head
            named |= {"head.user": head.user_DH, "head.bias": head.bias_H, "head.out": head.out_H}
            if head.epsilon_V is not None:
                named["head.epsilon"] = head.epsilon_V
        return named | {f"reduction.{name}": array for name, array in vars(self.reduction).items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Self:
        """The inverse of ``arrays`` and ``facts``."""

        def table(name: str) -> Table | None:
            codes = arrays.get(f"{name}.codes")
            return arrays.get(name) if codes is None else Int8Rows(codes, arrays[f"{name}.scale"])

        source, target, item = table("source"), table("target"), table("head.item")
        assert source is not None
        assert target is not None
        head, sparse = None, None
        if item is not None:
            user, bias, out = (arrays[f"head.{name}"] for name in ("user", "bias", "out"))
            head = Head(user, bias, item, out, arrays.get("head.epsilon"), **facts["head"])
        if "sparse.indptr" in arrays:
            indptr, items, values = (arrays[f"sparse.{name}"] for name in ("indptr", "items", "values"))
            sparse = SparseRows(indptr, items, values, float(facts["lost"]), bool(facts["sums"]))
        return cls(
            source,
            target,
            arrays["bias"],
            arrays["popularity"],
            tuple(facts["view_sizes"]),
            tuple(facts["view_names"]),
            bool(facts["normalises"]),
            sparse,
            FoldIn(arrays["fold_in.gram"], float(facts["alpha"])) if "fold_in.gram" in arrays else None,
            head,
            table("friends"),
            table("profile"),
            table("text"),
            Reduction(**{f.name: arrays.get(f"reduction.{f.name}") for f in fields(Reduction)}),
            float(facts["recency"]),
            table("attributes"),
            arrays.get("kind"),
        )

    def map_tables(self, change: Callable[[Table], Table]) -> "ScoringModel":
        """The same model with each item table transformed, for example by ``Int8Rows.of``."""
        head = None if self.head is None else replace(self.head, item_IH=change(self.head.item_IH))
        return replace(self, source_ID=change(self.source_ID), target_ID=change(self.target_ID), head=head)


def popularity_model(popularity_I: NDArray[np.number], dimensions: int = 0) -> ScoringModel:
    """A non-personal model: no factors, log popularity as bias. The last variant of every bundle.

    dimensions: of the full model, so that its rows of new items fit.
    """
    popularity = popularity_I.astype(np.float32)
    nothing, no_taste = np.zeros((len(popularity), 0), np.float32), np.zeros((dimensions, 0), np.float32)
    reduction = Reduction(no_taste, no_taste, np.zeros(dimensions, np.float32), bias_gain=np.zeros(1, np.float32))
    return ScoringModel(nothing, nothing, np.log1p(popularity), popularity, reduction=reduction)


def tie_break(popularity_I: NDArray[np.number], largest: float) -> NDArray[np.float32]:
    """Biases that order equal scores by popularity. largest: the model's largest weight."""
    return (TIE_BREAK * largest * popularity_I / max(float(np.max(popularity_I, initial=0)), 1.0)).astype(np.float32)
