"""The one path from query to ranking: history → user vector → retrieve → eligible → head → top k → reasons.

The library, the command line, evaluation, compression and the server rank with it; one request is a batch of one.
``ScoringModel.score`` is the reference implementation that tests compare it with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.ranking import top_k
from lanner.inference.eligibility import Availability, RowMask, eligible, is_in
from lanner.inference.explain import NAMED_PARTS, Explanation, PartKind, ScorePart
from lanner.inference.heads import CANDIDATES, RERANK_ALL
from lanner.inference.scoring_model import ItemRows, ScoringModel
from lanner.inference.sparse import add_weighted_rows, recency_weights
from lanner.inference.tables import GrowingTable, multiply, take

if TYPE_CHECKING:
    from lanner.inference.retrieval import VectorIndex

_NO_ROWS = np.empty(0, np.int64)
_Scored = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows of items and their scores."""
_DIVERSIFIED = 200
"""Candidates among which a diverse list is chosen."""


class TextReader(Protocol):
    """From texts to features; see ``encoders/contract.py``."""

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, float32 ``[T, F]``."""
        ...


@dataclass(frozen=True)
class Query:
    """One request in rows. Rows are int64; repeats are allowed.

    history: items that represent the user, with weights (float32, aligned; None: 1 each). seen: items never
    recommended, however long the list. friends: rows of known users. profile, text: used if the model supports them;
    profile_features, text_features: ``[F]``, if already encoded. allow, deny: rows allowed and denied by filters.
    diversity: 0 … 1, see ``Ranker``. explain: whether to return reasons. attributes: values of the user's attributes,
    numbered as in ``Catalogue.values``.
    """

    history: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    weights: NDArray[np.float32] | None = None
    seen: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    friends: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    profile: str | None = None
    text: str | None = None
    k: int = 10
    allow: RowMask | None = None
    deny: NDArray[np.int64] | None = None
    diversity: float = 0.0
    explain: bool = False
    profile_features: NDArray[np.float32] | None = None
    text_features: NDArray[np.float32] | None = None
    attributes: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)


_MAX_HIDDEN = 1024
"""Maximum number of hidden items sent to an accelerator with each request, as rows to exclude."""


@dataclass(frozen=True)
class Ranking:
    """items: int64 ``[k]``, best first, fewer if fewer are eligible. scores: float32 ``[k]``.

    fallback: whether these are popular items, because the model knows nothing about the user. explanations: one per
    item, if requested. accelerated: whether the accelerator produced the list.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    fallback: bool = False
    explanations: tuple[Explanation, ...] = ()
    accelerated: bool = False


@dataclass(frozen=True)
class Asked:
    """Input of an accelerator: distinct rows and their shares of the sum, float32; rows to exclude."""

    rows: NDArray[np.int64]
    shares: NDArray[np.float32]
    seen: NDArray[np.int64]
    k: int


class Accelerator(Protocol):
    """Scores a trained catalogue for histories in place of the ranker; see ``accelerators/backend.py``."""

    def covers(self, length: int, k: int) -> bool:
        """Whether it supports this history length and k."""
        ...

    def rank(self, asked: Sequence[Asked]) -> Sequence["_Scored | None"]:
        """Items and scores (float32) for each request, best first; None: it failed."""
        ...


@dataclass(frozen=True)
class _User:
    """One user as the stages see it: distinct rows with their shares of the sum, and the other terms of the vector.

    weights: of the rows, for ``item_to_item``. values: of the user's attributes, if the model uses them, with their
    shares.
    """

    rows: NDArray[np.int64]
    shares: NDArray[np.float32]
    weights: NDArray[np.float32]
    values: NDArray[np.int64]
    value_shares: NDArray[np.float32]
    vector_D: NDArray[np.float32]
    extras: tuple[tuple[PartKind, NDArray[np.float32]], ...]
    signal: bool


class Ranker:
    """A scoring model and the items added since training; see ``add``.

    One writer adds items; any number of threads may rank meanwhile.
    """

    def __init__(
        self,
        model: ScoringModel,
        *,
        index: "VectorIndex | None" = None,
        candidates: int = CANDIDATES,
        available: Availability | None = None,
        reader: TextReader | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """index: over the targets, with the bias as an extra dimension; None: every item is scored.

        candidates: number retrieved for the head to rank. available: rows that may be recommended; None: all.
        reader: encodes profiles and query texts that come without features. accelerator: of the same model; used for
        the queries that it covers.
        """
        self.model, self.index, self.reader, self.accelerator = model, index, reader, accelerator
        self.available = Availability(model.num_items) if available is None else available
        self._candidates = candidates
        self._source = GrowingTable(model.source_ID)
        self._target, self._bias = GrowingTable(model.target_ID), GrowingTable(model.bias_I[:, None])
        self._half = None if model.head is None else GrowingTable(model.head.item_IH)
        self._lenders: GrowingTable | None = None
        self._lender_shares: GrowingTable | None = None
        self._popularity = np.asarray(model.popularity_I, np.float32)
        self._by_popularity = np.argsort(-self._popularity, kind="stable")

    @property
    def num_items(self) -> int:
        """Rows assigned so far; items that are no longer available keep theirs."""
        return len(self._bias)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tables and the index, memory-mapped ones included."""
        tables = (self._source, self._target, self._bias, *((self._half,) if self._half else ()))
        index_bytes = 0 if self.index is None else self.index.memory_bytes
        return int(sum(table.nbytes for table in tables) + index_bytes)

    @property
    def reads_text(self) -> bool:
        """Whether the model uses query texts."""
        return self.model.text_FD is not None

    @property
    def reads_attributes(self) -> bool:
        """Whether the model uses attributes of the user."""
        return self.model.kind_A is not None

    @property
    def reads_profile(self) -> bool:
        """Whether the model uses profiles."""
        return self.model.profile_FD is not None

    def add(self, rows: ItemRows, replaced: Sequence[int | None] = ()) -> NDArray[np.int64]:
        """Assign the next rows to items; ``rows`` are those of the full model. They can be ranked when this returns.

        replaced: previous rows of the items, whose popularity they keep; None, or an empty list: new items.
        """
        reduced = self.model.reduction(rows)
        first = self.num_items
        for row, before in enumerate(replaced or [None] * len(rows.bias_N), first):
            popularity = np.float32(0) if before is None else self._popularity[before]
            # After items of equal popularity: ties stay in row order.
            order = self._by_popularity
            place = np.searchsorted(-self._popularity[order], -popularity, "right") if popularity else row
            # The order last: a reader that loads it first finds the popularity of every row in it.
            self._popularity = np.append(self._popularity, popularity)
            self._by_popularity = np.insert(order, place, row)
        if self._half is not None:
            assert reduced.half_NH is not None, "a model with a head needs the head's row of every item"
            self._half.append(reduced.half_NH)
        if self.model.item_to_item is not None:
            self._append_lenders(reduced)
        self._source.append(reduced.source_ND)
        self._target.append(reduced.target_ND)
        self._bias.append(reduced.bias_N[:, None])  # last: its length is the number of items
        return np.arange(first, self.num_items)

    def _append_lenders(self, rows: ItemRows) -> None:
        """Item-to-item weights of items added later: shares of those of trained items."""
        lenders_NK, shares_NK = rows.lenders_NK, rows.shares_NK
        if lenders_NK is None or shares_NK is None:
            width = 1 if self._lenders is None else self._lenders.later.shape[1]
            lenders_NK = np.zeros((len(rows.bias_N), width), np.int32)
            shares_NK = np.zeros(lenders_NK.shape, np.float32)
        if self._lenders is None or self._lender_shares is None:
            width = lenders_NK.shape[1]
            self._lender_shares = GrowingTable(np.empty((0, width), np.float32))
            self._lenders = GrowingTable(np.empty((0, width), np.int32))
        self._lenders.append(lenders_NK)
        self._lender_shares.append(shares_NK)

    # --- ranking -----------------------------------------------------------------------------------------------------

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """The top items for each query.

        Raises:
            ValueError: a k below 1, or an unknown row.
        """
        users = [self._user(query) for query in queries]
        personal = [place for place, user in enumerate(users) if user.signal]
        found: dict[int, Ranking] = {}
        if personal:
            ranked = self._personal([queries[place] for place in personal], [users[place] for place in personal])
            found = dict(zip(personal, ranked, strict=True))
        return [found.get(place) or self._popular(query) for place, query in enumerate(queries)]

    def similar(self, row: int, k: int, allow: RowMask | None = None, deny: NDArray[np.int64] | None = None) -> Ranking:
        """The top k items for a history of this item alone, which is itself excluded."""
        rows = np.array([row], np.int64)
        return self.rank([Query(rows, seen=rows, k=k, allow=allow, deny=deny)])[0]

    def explain(self, query: Query, items: NDArray[np.int64]) -> list[Explanation]:
        """The components of the scores of ``items``, whatever their rank."""
        return self._explained(query, self._user(query), items)

    # --- stages ------------------------------------------------------------------------------------------------------

    def _user(self, query: Query) -> _User:
        if query.k < 1:
            raise ValueError(f"k must be at least 1, received {query.k}")
        model = self.model
        rows, weights = self._known(query)
        extras: list[tuple[PartKind, NDArray[np.float32]]] = []
        total = float(weights.sum())
        share = 1 / total if model.normalises and total > 0 else 1.0
        shares = weights * np.float32(share)
        vector_D: NDArray[np.float32]
        if not model.dimensions or not len(rows):
            vector_D = np.zeros(model.dimensions, np.float32)
        elif model.fold_in is not None:
            vector_D = model.fold_in.solve(self._source.take(rows), weights)
        else:
            vector_D = np.asarray(shares @ self._source.take(rows), np.float32)
        if model.text_FD is not None:
            text = self._features(query.text, query.text_features)
            if text is not None:
                extras.append(("query", multiply(text[None], model.text_FD)[0]))
        if model.profile_FD is not None:
            profile = self._features(query.profile, query.profile_features)
            if profile is not None:
                extras.append(("profile", multiply(profile[None], model.profile_FD)[0]))
        if model.friends_UD is not None and len(query.friends):
            extras.append(("friend", take(model.friends_UD, np.unique(query.friends)).mean(axis=0)))
        values, value_shares = self._values(query)
        if model.attribute_AD is not None and len(values):
            extras.append(("attributes", value_shares @ take(model.attribute_AD, values)))
        for _, extra_D in extras:
            vector_D = vector_D + extra_D
        weights = shares if model.item_to_item is not None and model.divides_weights else weights
        user = _User(rows, shares, weights, values, value_shares, vector_D, tuple(extras), True)
        return user if vector_D.any() or self._has_weights(user) else replace(user, signal=False)

    def _values(self, query: Query) -> _Scored:
        """Distinct values of the user's attributes, and their shares, which sum to 1 per attribute."""
        kind_A = self.model.kind_A
        if kind_A is None or not len(query.attributes):
            return _NO_ROWS, np.empty(0, np.float32)
        values = np.unique(query.attributes)
        kinds = kind_A[values]
        return values, (1 / np.bincount(kinds)[kinds]).astype(np.float32)

    def _known(self, query: Query) -> _Scored:
        """Distinct rows of a history, ascending, and their weights; a repeated item has its largest weight."""
        rows, weights = np.asarray(query.history, np.int64), query.weights
        if self.model.recency:
            aging = recency_weights(np.array([len(rows)]), self.model.recency)
            weights = aging if weights is None else weights * aging
        if weights is None:
            rows = np.sort(rows)
            weights = np.ones(len(rows), np.float32)
        else:
            order = np.argsort(rows, kind="stable")
            rows, weights = rows[order], weights[order]
        if not len(rows):
            return rows, weights
        if not 0 <= rows[0] <= rows[-1] < self.num_items:
            raise ValueError(f"item rows {rows[0]} … {rows[-1]} do not fit {self.num_items} items")
        if not (rows[1:] > rows[:-1]).all():
            starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
            rows, weights = rows[starts], np.maximum.reduceat(weights, starts)
        if query.weights is None:
            return rows, weights
        positive = weights > 0
        return rows[positive], weights[positive]

    def _features(self, text: str | None, read: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """Features of a text ``[F]``; None if there is no text, or nothing in it is known."""
        if read is None and text and self.reader is not None:
            read = self.reader.features([text])[0]
        return read if read is not None and read.any() else None

    def _personal(self, queries: Sequence[Query], users: Sequence[_User]) -> list[Ranking]:
        found, accelerated = self._best(queries, users)
        rankings = []
        stages = zip(queries, users, self._hidden(users), found, accelerated, strict=True)
        for query, user, hidden_H, candidates, is_accelerated in stages:
            k = max(query.k, _DIVERSIFIED if query.diversity else 0)
            items, values = self._head(user, hidden_H, candidates, k)
            if query.diversity:
                items, values = self._diversify(items, values, query.k, query.diversity)
            explained = tuple(self._explained(query, user, items)) if query.explain else ()
            rankings.append(Ranking(items, values, explanations=explained, accelerated=is_accelerated))
        return rankings

    def _best(self, queries: Sequence[Query], users: Sequence[_User]) -> tuple[list[_Scored], list[bool]]:
        """Candidates of each user, by the accelerator if it covers the query and succeeds; and whether it did."""
        found: dict[int, _Scored] = {}
        if self.accelerator is not None:
            pairs = enumerate(zip(queries, users, strict=True))
            covered = [place for place, (query, user) in pairs if self._is_covered(query, user)]
            hidden = np.flatnonzero(~self.available.mask(self.model.num_items))
            left_out = [np.union1d(queries[p].seen, hidden) for p in covered]
            requests = [
                Asked(users[p].rows, users[p].shares, rows, queries[p].k)
                for p, rows in zip(covered, left_out, strict=True)
            ]
            lists = self.accelerator.rank(requests) if requests else ()
            found = {place: one for place, one in zip(covered, lists, strict=True) if one is not None}
        accelerated = [place in found for place in range(len(queries))]
        left = [place for place, is_accelerated in enumerate(accelerated) if not is_accelerated]
        if left:
            by_floats = self._scan if self.index is None else self._search
            scored = by_floats([queries[place] for place in left], [users[place] for place in left])
            found |= dict(zip(left, scored, strict=True))
        return [found[place] for place in range(len(queries))], accelerated

    def _is_covered(self, query: Query, user: _User) -> bool:
        """Whether the accelerator supports the query: a history over the trained catalogue and nothing else."""
        assert self.accelerator is not None
        plain = query.allow is None and query.deny is None and not query.diversity
        alone = bool(len(user.rows)) and not user.extras and not len(user.values)
        unchanged = self.num_items == self.model.num_items and self.available.num_hidden <= _MAX_HIDDEN
        return plain and alone and unchanged and self.accelerator.covers(len(user.rows), query.k)

    def _wanted(self, query: Query) -> int:
        wanted = max(query.k, _DIVERSIFIED) if query.diversity else query.k
        if self.model.head is None and (self.index is None or self.model.item_to_item is None):
            return wanted
        if self.index is None and self.num_items <= RERANK_ALL:
            return self.num_items
        return max(wanted, self._candidates)

    def _scan(self, queries: Sequence[Query], users: Sequence[_User]) -> list[_Scored]:
        """Score every item; returns the best eligible ones of each user."""
        base, num_items = self.model.num_items, self.num_items
        users_BD = np.stack([user.vector_D for user in users])
        scores_BI = np.empty((len(users), num_items), np.float32)
        np.matmul(users_BD, self._targets_DI, out=scores_BI[:, :base])
        scores_BI[:, :base] += self.model.bias_I
        if num_items > base:
            later = np.arange(base, num_items)
            scores_BI[:, base:] = users_BD @ self._target.take(later).T + self._bias.take(later)[:, 0]
        for query, user, scores_I in zip(queries, users, scores_BI, strict=True):
            if self.model.item_to_item is not None:
                scores_I += self._sparse_scores(user, num_items)
            mask = eligible(self.available, query.allow, query.deny, _NO_ROWS, num_items)
            if mask is not None:
                scores_I[~mask] = -np.inf
            scores_I[query.seen] = -np.inf
        wanted = [min(self._wanted(query), num_items) for query in queries]
        rows_BC, best_BC = top_k(scores_BI, max(wanted))
        left_B = (rows_BC >= 0).sum(axis=1)
        return [
            (rows_BC[line, : min(number, left)].astype(np.int64), best_BC[line, : min(number, left)])
            for line, (number, left) in enumerate(zip(wanted, left_B.tolist(), strict=True))
        ]

    def _sparse_scores(self, user: _User, num_items: int) -> NDArray[np.float32]:
        """Contribution of the item-to-item weights, which the model must have, to the score of every item, ``[I]``."""
        weights, base = self.model.item_to_item, self.model.num_items
        assert weights is not None
        scores_I = np.zeros(num_items, np.float32)
        rows, shares = self._with_values(user, *self._trained(user.rows, user.weights))
        add_weighted_rows(rows, shares, weights.indptr, weights.items, weights.values, scores_I[:base])
        if num_items > base:
            lenders_NK, shares_NK = self._lenders_of(np.arange(base, num_items))
            scores_I[base:] = (scores_I[lenders_NK] * shares_NK).sum(axis=1)
        return scores_I

    def _with_values(
        self, user: _User, rows: NDArray[np.int64], shares: NDArray[np.float32], *, alone: bool = True
    ) -> _Scored:
        """Trained items and the other rows of item-to-item weights: attribute values (if ``alone``) and pairs."""
        weights, kind_A, num_items = self.model.item_to_item, self.model.kind_A, self.model.num_items
        if weights is None or kind_A is None or not len(user.values) or weights.num_rows == num_items:
            return rows, shares
        found, found_shares = [rows], [shares]
        if alone:
            found.append(num_items + user.values)
            found_shares.append(user.value_shares)
        first = num_items + len(kind_A)
        if weights.num_rows > first:
            found.append((first + user.values[:, None] * num_items + rows).ravel())
            found_shares.append((user.value_shares[:, None] * shares).ravel())
        return np.concatenate(found), np.concatenate(found_shares)

    def _has_weights(self, user: _User) -> bool:
        """Whether the user has any item-to-item weights."""
        weights = self.model.item_to_item
        if weights is None or not len(user.rows) + len(user.values):
            return False
        ones = np.ones(len(user.rows), np.float32)
        rows, shares = self._with_values(user, *self._trained(user.rows, ones))
        return bool((weights.indptr[rows + 1] > weights.indptr[rows])[shares != 0].any())

    def _trained(self, rows: NDArray[np.int64], shares: NDArray[np.float32]) -> _Scored:
        """The trained items that represent the given items, with shares: themselves, or the lenders of later ones."""
        later = rows >= self.model.num_items
        if not later.any():
            return rows, shares
        lenders_NK, shares_NK = self._lenders_of(rows[later])
        lender_shares = (shares_NK * shares[later, None]).ravel()
        return np.concatenate([rows[~later], lenders_NK.ravel()]), np.concatenate([shares[~later], lender_shares])

    def _lenders_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Lenders and shares ``[N, K]`` of later items."""
        assert self._lenders is not None
        assert self._lender_shares is not None
        places = rows - self.model.num_items
        return self._lenders.take(places).astype(np.int64), self._lender_shares.take(places)

    def _search(self, queries: Sequence[Query], users: Sequence[_User]) -> list[_Scored]:
        """Candidates from the index and, by exact scoring, from later items and sparse rows."""
        assert self.index is not None
        base = self.model.num_items
        query_BD1 = np.ones((len(users), self.model.dimensions + 1), np.float32)
        for line, user in zip(query_BD1, users, strict=True):
            line[:-1] = user.vector_D
        found: dict[int, NDArray[np.int64]] = {}
        alike = [place for place, query in enumerate(queries) if query.allow is None]
        if alike:
            wanted = max(self._wanted(queries[place]) for place in alike)
            mask = self.available.mask(base) if self.available.num_hidden else None
            excluded: list[NDArray[np.int64]] | None = [_excluded_rows(queries[place]) for place in alike]
            if all(self._has_surplus(queries[place]) for place in alike):
                excluded = None
            found = dict(zip(alike, self.index.search(query_BD1[alike], wanted, mask, excluded)[0], strict=True))
        for place, query in enumerate(queries):
            if place not in found:
                mask = eligible(self.available, query.allow, query.deny, query.seen, base)
                found[place] = self.index.search(query_BD1[place : place + 1], self._wanted(query), mask)[0][0]
        pairs = enumerate(zip(queries, users, strict=True))
        return [self._merge_candidates(query, user, found[place]) for place, (query, user) in pairs]

    def _has_surplus(self, query: Query) -> bool:
        """Whether enough candidates remain after dropping excluded ones; searching for more would take longer."""
        return self.model.head is not None and self._wanted(query) - len(_excluded_rows(query)) >= 2 * query.k

    def _merge_candidates(self, query: Query, user: _User, rows: NDArray[np.int64]) -> _Scored:
        """Candidates of the index, the strongest of the sparse rows and items added later; best first.

        Re-scored with the model's own tables: an index may store less precise ones.
        """
        wanted, base, num_items = self._wanted(query), self.model.num_items, self.num_items
        has_sparse = self.model.item_to_item is not None
        rows = rows[rows >= 0] if rows[-1] < 0 else rows
        if query.allow is None and self._has_surplus(query) and len(excluded := _excluded_rows(query)):
            rows = rows[~is_in(rows, excluded)]
        if num_items > base:
            rows = np.concatenate([rows, self._added_rows(query, base, num_items)])
        if has_sparse:
            mask = eligible(self.available, query.allow, query.deny, query.seen, num_items)
            sparse_I = self._sparse_scores(user, num_items)
            bounded_I = sparse_I if mask is None else np.where(mask, sparse_I, 0)
            strongest = np.argpartition(-bounded_I, min(wanted, num_items - 1))[:wanted]
            rows = np.union1d(rows, strongest[bounded_I[strongest] > 0])
        scores = self._target.take(rows) @ user.vector_D + self._bias.take(rows)[:, 0]
        if has_sparse:
            scores += sparse_I[rows]
        order = np.lexsort((rows, -scores))[:wanted]
        return rows[order], scores[order]

    def _added_rows(self, query: Query, base: int, num_items: int) -> NDArray[np.int64]:
        """Eligible rows among those added later; a mask of all rows would take longer than scoring these."""
        rows = np.arange(base, num_items)
        kept = self.available.holds(rows)
        if query.allow is not None:
            kept &= query.allow.holds(rows)
        rows, excluded = rows[kept], _excluded_rows(query)
        return rows[~is_in(rows, excluded)]

    def _hidden(self, users: Sequence[_User]) -> Sequence[NDArray[np.float32] | None]:
        """The user side of the head for each user; None each without a head."""
        if self.model.head is None:
            return [None] * len(users)
        users_BD = np.stack([user.vector_D for user in users])
        return list(self.model.head.hidden(users_BD, self.model.view_sizes))

    def _head(self, user: _User, hidden_H: NDArray[np.float32] | None, found: _Scored, k: int) -> _Scored:
        """The top k candidates, re-ranked by the head if there is one."""
        rows, scores = found
        if hidden_H is None or not len(rows):
            return rows[:k], scores[:k]
        total = scores + self._corrections(user, hidden_H, rows)
        best = np.lexsort((rows, -total))[:k]
        return rows[best], total[best]

    def _corrections(self, user: _User, hidden_H: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The head's contribution to the scores of some items."""
        head = self.model.head
        assert head is not None
        assert self._half is not None
        view_scores = self.model.view_scores(user.vector_D, self._target.take(rows)) if head.kind == "gated" else None
        return head.correction(hidden_H, self._half.take(rows), view_scores)

    def _diversify(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, diversity: float) -> _Scored:
        """Maximal marginal relevance: k items chosen one by one (Carbonell & Goldstein, SIGIR 1998).

        By (1 − diversity) · score, scaled to 0 … 1, − diversity · the largest cosine to the target of a chosen item.
        """
        if len(rows) <= 1 or not self.model.dimensions:
            return rows[:k], scores[:k]
        targets_CD = self._target.take(rows)
        unit_CD = targets_CD / np.maximum(np.linalg.norm(targets_CD, axis=1, keepdims=True), 1e-9)
        spread = float(np.ptp(scores)) or 1.0
        worth_C = (1 - diversity) * (scores - scores.min()) / spread
        nearest_C, chosen = np.zeros(len(unit_CD), np.float32), list[int]()
        for _ in range(min(k, len(unit_CD))):
            worth = worth_C - diversity * nearest_C
            worth[chosen] = -np.inf
            chosen.append(int(worth.argmax()))
            nearest_C = np.maximum(nearest_C, unit_CD @ unit_CD[chosen[-1]])
        return rows[chosen], scores[chosen]

    def _popular(self, query: Query) -> Ranking:
        """Popular items, for a user the model knows nothing about, and for all users of a non-personal model."""
        order = self._by_popularity  # before the popularity, see ``add``
        popularity = self._popularity
        mask = eligible(self.available, query.allow, query.deny, query.seen, len(popularity))
        found: list[int] = []
        step = max(64, 2 * query.k)
        for first in range(0, len(order), step):
            rows = order[first : first + step]
            found += (rows if mask is None else rows[mask[rows]]).tolist()
            if len(found) >= query.k:
                break
        items = np.array(found[: query.k], np.int64)
        scores = popularity[items]
        explained = tuple(self._explain_popularity(items)) if query.explain else ()
        return Ranking(items, scores, self.model.is_personal, explained)

    def _explain_popularity(self, items: NDArray[np.int64]) -> list[Explanation]:
        scores = self._popularity[items].tolist()
        return [
            Explanation(item, score, (ScorePart("popularity", -1, score),))
            for item, score in zip(items.tolist(), scores, strict=True)
        ]

    # --- reasons -----------------------------------------------------------------------------------------------------

    def _explained(self, query: Query, user: _User, items: NDArray[np.int64]) -> list[Explanation]:
        if not user.signal:
            return self._explain_popularity(items)
        targets_ND, biases = self._target.take(items), self._bias.take(items)[:, 0]
        history_NL, text_N = self._history_contributions(user, targets_ND)
        attribute_N = self._add_sparse_parts(user, items, history_NL)
        for kind, extra_D in user.extras:
            attribute_N += targets_ND @ extra_D if kind == "attributes" else 0
        (hidden_H,) = self._hidden([user])
        heads = np.zeros(len(items), np.float32) if hidden_H is None else self._corrections(user, hidden_H, items)
        explained = []
        for place, item in enumerate(items.tolist()):
            parts = _grouped("history", user.rows, history_NL[place], keep=item)
            parts += [ScorePart("text", -1, float(text_N[place]))] if text_N[place] else []
            for kind, extra_D in user.extras:
                if kind == "friend":
                    parts += self._friends(query, targets_ND[place])
                elif kind != "attributes":
                    parts.append(ScorePart(kind, -1, float(extra_D @ targets_ND[place])))
            parts += [ScorePart("attributes", -1, float(attribute_N[place]))] if attribute_N[place] else []
            parts += [ScorePart("popularity", -1, float(biases[place]))] if biases[place] else []
            parts += [ScorePart("head", -1, float(heads[place]))] if heads[place] else []
            parts.sort(key=lambda part: -part.value)
            explained.append(Explanation(item, sum(part.value for part in parts), tuple(parts)))
        return explained

    def _history_contributions(
        self, user: _User, targets_ND: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Contribution of each history item ``[N, L]``, and of the history through descriptions ``[N]``."""
        model = self.model
        nothing = np.zeros(len(targets_ND), np.float32)
        if not model.dimensions or not len(user.rows):
            return np.zeros((len(targets_ND), len(user.rows)), np.float32), nothing
        source_LD = self._source.take(user.rows)
        if model.fold_in is not None:
            weighted_LD = source_LD * user.shares[:, None]
            system_DD = model.fold_in.system(source_LD, user.shares)
            vectors_LD = np.asarray(model.fold_in.alpha * np.linalg.solve(system_DD, weighted_LD.T).T, np.float32)
        else:
            vectors_LD = source_LD * user.shares[:, None]
        views = len(model.view_names)
        if "language" not in model.view_names or views == 1 or len(model.view_sizes) != views:
            return np.asarray(targets_ND @ vectors_LD.T, np.float32), nothing
        place = model.view_names.index("language")
        first = sum(model.view_sizes[:place])
        language = slice(first, first + model.view_sizes[place])
        text_N = targets_ND[:, language] @ vectors_LD[:, language].sum(axis=0)
        vectors_LD = vectors_LD.copy()
        vectors_LD[:, language] = 0
        return np.asarray(targets_ND @ vectors_LD.T, np.float32), np.asarray(text_N, np.float32)

    def _add_sparse_parts(
        self, user: _User, items: NDArray[np.int64], history_NL: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Add each history item's item-to-item contribution to ``history_NL``; returns that of attributes ``[N]``."""
        weights, base = self.model.item_to_item, self.model.num_items
        if weights is None:
            return np.zeros(len(items), np.float32)
        lenders_NK, shares_NK = items[:, None], np.ones((len(items), 1), np.float32)
        if (later := items >= base).any():
            width = self._lenders_of(items[later])[0].shape[1]
            lenders_NK, shares_NK = np.repeat(lenders_NK, width, axis=1), np.eye(1, width, dtype=np.float32)
            shares_NK = np.repeat(shares_NK, len(items), axis=0)
            lenders_NK[later], shares_NK[later] = self._lenders_of(items[later])
        scores_I = np.zeros(base, np.float32)

        def added(rows: NDArray[np.int64], shares: NDArray[np.float32], *, alone: bool) -> NDArray[np.float32]:
            rows, shares = self._with_values(user, rows, shares, alone=alone)
            add_weighted_rows(rows, shares, weights.indptr, weights.items, weights.values, scores_I)
            found_N = np.asarray((scores_I[lenders_NK] * shares_NK).sum(axis=1), np.float32)
            for row in rows.tolist():
                scores_I[weights.row(row)[0]] = 0
            return found_N

        for place in range(len(user.rows)):
            one = slice(place, place + 1)
            history_NL[:, place] += added(*self._trained(user.rows[one], user.weights[one]), alone=False)
        return added(_NO_ROWS, np.empty(0, np.float32), alone=True)

    def _friends(self, query: Query, target_D: NDArray[np.float32]) -> list[ScorePart]:
        assert self.model.friends_UD is not None
        friends = np.unique(query.friends)
        values = take(self.model.friends_UD, friends) @ target_D / np.float32(len(friends))
        return _grouped("friend", friends, np.asarray(values, np.float32))

    # --- cached tables -----------------------------------------------------------------------------------------------

    @cached_property
    def _targets_DI(self) -> NDArray[np.float32]:
        return take(self.model.target_ID).T


class RankedScorer:
    """A scoring model as an ``evaluation.protocol.RankingScorer``.

    read: profile texts to features ``[B, F]``; None: profiles are ignored.
    """

    def __init__(self, model: ScoringModel, read: Callable[[Sequence[str]], NDArray[np.float32]] | None = None) -> None:
        self._read, self._ranker = read, Ranker(model)

    @property
    def num_items(self) -> int:
        """Items that can be ranked."""
        return self._ranker.num_items

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for each user, float32 ``[B, I]``."""
        return self._ranker.model.score(users, self._profiles(users))

    def rank(
        self, users: UserBatch, k: int, excluded: Ragged, candidates: NDArray[np.int32] | Ragged | None
    ) -> NDArray[np.int32]:
        """The top k items of each user, int32 ``[B, k]`` padded with −1."""
        among = RowMask.of(candidates, self.num_items) if isinstance(candidates, np.ndarray) else None
        profile_BF = self._profiles(users)
        queries = []
        for row, query in enumerate(queries_of(users, k)):
            own = RowMask.of(candidates[row], self.num_items) if isinstance(candidates, Ragged) else among
            read = None if profile_BF is None else profile_BF[row]
            queries.append(replace(query, seen=excluded[row].astype(np.int64), allow=own, profile_features=read))
        return padded(self._ranker.rank(queries), k)[0]

    def _profiles(self, users: UserBatch) -> NDArray[np.float32] | None:
        if users.profiles is None or self._read is None or not self._ranker.reads_profile:
            return None
        return self._read(users.profiles)


def padded(rankings: Sequence[Ranking], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rankings as arrays: items int32 ``[B, k]`` padded with −1, scores float32 ``[B, k]`` padded with −inf."""
    items = np.full((len(rankings), k), -1, np.int32)
    scores = np.full((len(rankings), k), -np.inf, np.float32)
    for row, found in enumerate(rankings):
        items[row, : len(found.items)], scores[row, : len(found.items)] = found.items, found.scores
    return items, scores


def queries_of(users: UserBatch, k: int = 10, *, exclude_seen: bool = True, explain: bool = False) -> list[Query]:
    """A batch of users as queries."""
    found = []
    seen = users.history if users.seen is None else users.seen
    for user in range(len(users)):
        entries = slice(users.history.indptr[user], users.history.indptr[user + 1])
        found.append(
            Query(
                users.history[user].astype(np.int64),
                None if users.weights is None else users.weights[entries],
                seen[user].astype(np.int64) if exclude_seen else _NO_ROWS,
                _NO_ROWS if users.friends is None else users.friends[user].astype(np.int64),
                None if users.profiles is None else users.profiles[user],
                k=k,
                explain=explain,
                attributes=_NO_ROWS if users.attributes is None else users.attributes[user].astype(np.int64),
            )
        )
    return found


def _excluded_rows(query: Query) -> NDArray[np.int64]:
    return query.seen if query.deny is None else np.concatenate([query.seen, query.deny])


def _grouped(
    kind: PartKind, rows: NDArray[np.int64], values: NDArray[np.float32], keep: int | None = None
) -> list[ScorePart]:
    """One part for each of the largest values, and one for the rest; ``keep`` always has its own part."""
    order = np.argsort(-np.abs(values), kind="stable")
    named = order[:NAMED_PARTS].tolist()
    named += [place for place in order[NAMED_PARTS:].tolist() if rows[place] == keep]
    parts = [ScorePart(kind, int(rows[place]), float(values[place])) for place in named]
    rest = np.setdiff1d(order, named)
    return [*parts, ScorePart(kind, -1, float(values[rest].sum()), len(rest))] if len(rest) else parts
