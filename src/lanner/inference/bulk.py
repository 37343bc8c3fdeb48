"""Top-k items of many users at once: the results of ``Ranker``, at the speed of a matrix product.

Each thread takes a thousand users and goes through the catalogue one tile of items at a time. The scores of a tile stay
in the core's cache: one matrix product writes them, seen items are overwritten with −inf, and scores above a user's
current k-th best enter the list. Memory for scores depends on the tile size, not on the size of the catalogue.

If all scores of a user are needed at once (item-item models, heads on small catalogues), one tile spans the catalogue.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.ranking import BestSoFar
from lanner.inference.heads import CANDIDATES, RERANK_ALL
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.sparse import add_sparse_rows
from lanner.inference.tables import take

if TYPE_CHECKING:
    import scipy.sparse as sp

_USERS, _ITEMS = 1024, 512
"""Users and items per tile, 2 MiB of scores; at 64 dimensions 256 users and 2048 items took a fifth longer."""
_SCORES = 1 << 22
"""Scores in a tile that spans the catalogue, 16 MiB, unless one user has more."""
_SCORES_WORTH_A_THREAD = 1 << 18
_USES_ALL_CORES = Lock()
"""One bulk ranking at a time: each uses all cores and meanwhile limits BLAS, process-wide, to one thread."""


@dataclass(frozen=True)
class BulkRanking:
    """items: int32 ``[B, k]``, best first, padded with −1. scores: float32 ``[B, k]``, padded with −inf.

    fallback: bool ``[B]``, whether these are popular items, because the model knows nothing about the user.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    fallback: NDArray[np.bool_]


class BulkRanker:
    """Ranks many users at once with a scoring model. Thread-safe; concurrent calls take turns."""

    def __init__(self, model: ScoringModel) -> None:
        self.model = model
        self._whole = _Catalogue.of(model, None)

    def rank(
        self,
        users: UserBatch,
        k: int,
        excluded: Ragged | None = None,
        candidates: NDArray[np.integer] | None = None,
        profile_BF: NDArray[np.float32] | None = None,
    ) -> BulkRanking:
        """The top k items of each user. Vectors and lists of all B users are in memory: pass a few thousand at a time.

        Args:
            users: B users.
            k: at least 1.
            excluded: rows that are not ranked, such as seen items, one list per user; None: every item is ranked.
            candidates: the only rows ranked, in any order; None: all.
            profile_BF: features of the users' profiles; None: profiles are ignored.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, received {k}")
        catalogue = self._whole if candidates is None else _Catalogue.of(self.model, candidates)
        work = _Work(
            catalogue,
            users,
            self.model.users(users, profile_BF),
            k,
            Ragged.empty(len(users)) if excluded is None else excluded,
        )
        out = BulkRanking(
            np.empty((len(users), k), np.int32),
            np.empty((len(users), k), np.float32),
            ~work.signal_B & self.model.is_personal,
        )

        def rank_part(part: slice) -> None:
            out.items[part], out.scores[part] = work.best(part)

        parts, workers = work.parts()
        if workers == 1:
            for part in parts:
                rank_part(part)
            return out
        with _USES_ALL_CORES, _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(rank_part, parts))
        return out


@dataclass(frozen=True)
class _Catalogue:
    """The C items that may be ranked, as tables indexed by position 0 … C − 1.

    rows: row at each position, ascending. target_CE: targets, followed by the bias if there is one, so that one product
    gives both. place_I: position of each row, −1 if it has none; None if positions equal rows.
    """

    model: ScoringModel
    rows: NDArray[np.int32]
    target_CE: NDArray[np.float32]
    popularity_C: NDArray[np.float32]
    sparse: "sp.csr_matrix | None"
    place_I: NDArray[np.int32] | None

    @classmethod
    def of(cls, model: ScoringModel, candidates: NDArray[np.integer] | None) -> "_Catalogue":
        """candidates: rows in any order; None: all."""
        sparse, place_I = None if model.item_to_item is None else model.item_matrix, None
        if candidates is None:
            rows, target_CE = np.arange(model.num_items, dtype=np.int32), take(model.target_ID)
        else:
            rows = np.unique(candidates).astype(np.int32)
            target_CE = take(model.target_ID, rows)
            place_I = np.full(model.num_items, -1, np.int32)
            place_I[rows] = np.arange(len(rows))
            sparse = None if sparse is None else sparse[:, rows]
        if model.bias_I.any():
            target_CE = np.hstack([target_CE, model.bias_I[rows, None]])
        return cls(model, rows, np.ascontiguousarray(target_CE), model.popularity_I[rows], sparse, place_I)

    def __len__(self) -> int:
        return len(self.rows)

    def placed(self, lists: Ragged, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Users (0 for the first of ``part``) and positions of the items in their lists, sorted by position."""
        edges = lists.indptr[part.start : part.stop + 1]
        users, places = np.repeat(np.arange(len(edges) - 1), np.diff(edges)), lists.values[edges[0] : edges[-1]]
        if self.place_I is not None:
            places = self.place_I[places]
            users, places = users[places >= 0], places[places >= 0]
        order = np.argsort(places, kind="stable")
        return users[order], places[order]


class _Work:
    """One call of ``BulkRanker.rank``."""

    def __init__(
        self,
        catalogue: _Catalogue,
        users: UserBatch,
        vectors_BD: NDArray[np.float32],
        k: int,
        excluded: Ragged,
    ) -> None:
        self._catalogue, self._k, self._excluded = catalogue, k, excluded
        self._model = model = catalogue.model
        self.signal_B = model.has_signal(vectors_BD, users)
        self._vectors_BD = vectors_BD
        self._query_BE = vectors_BD
        if catalogue.target_CE.shape[1] > model.dimensions:
            self._query_BE = np.hstack([vectors_BD, np.ones((len(vectors_BD), 1), np.float32)])
        self._shares = None if catalogue.sparse is None else model.shares(users)
        self._head_ranks_all = model.head is not None and model.num_items <= RERANK_ALL
        self._is_whole = self._shares is not None or self._head_ranks_all

    def parts(self) -> tuple[list[slice], int]:
        """Slices of users ranked together, and the number of threads that share them."""
        users, items = len(self._vectors_BD), max(len(self._catalogue), 1)
        workers = max(1, min(numba.get_num_threads(), users * items // _SCORES_WORTH_A_THREAD))
        size = max(1, min(_USERS, -(-users // workers), _SCORES // items if self._is_whole else _USERS))
        return [slice(first, min(first + size, users)) for first in range(0, users, size)], workers

    def best(self, part: slice) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows and scores of the top k of a slice of users, int32 and float32 ``[n, k]``."""
        model, catalogue, users = self._model, self._catalogue, part.stop - part.start
        chooses = model.head is not None and not self._head_ranks_all
        best = BestSoFar(users, max(self._k, CANDIDATES) if chooses else self._k)
        unknown = np.flatnonzero(~self.signal_B[part])
        barred_users, barred = catalogue.placed(self._excluded, part)
        width = max(1, len(catalogue)) if self._is_whole else _ITEMS
        room = np.empty(users * min(width, len(catalogue)), np.float32)
        for first in range(0, len(catalogue), width):
            tile = slice(first, min(first + width, len(catalogue)))
            scores = room[: users * (tile.stop - first)].reshape(users, -1)
            np.matmul(self._query_BE[part], catalogue.target_CE[tile].T, out=scores)
            if self._shares is not None:
                add_sparse_rows(self._shares, catalogue.sparse, scores, part.start)
            if self._head_ranks_all:
                scores += model.corrections(self._vectors_BD[part])[:, catalogue.rows]
            scores[unknown] = catalogue.popularity_C[tile]
            inside = slice(*np.searchsorted(barred, (first, tile.stop)))
            scores[barred_users[inside], barred[inside] - first] = -np.inf
            best.offer(scores, first)
        places, scores = best.lists()
        rows = np.where(places < 0, -1, catalogue.rows[places]) if len(catalogue) else places
        return self._reranked(rows, scores, part) if chooses else (rows, scores)

    def _reranked(
        self, rows_NC: NDArray[np.int32], scores_NC: NDArray[np.float32], part: slice
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The top k candidates after the head's correction; users without a signal keep their scores."""
        model, vectors_ND = self._model, self._vectors_BD[part]
        head = model.head
        assert head is not None
        for user, hidden_H in enumerate(head.hidden(vectors_ND, model.view_sizes)):
            rows = rows_NC[user][rows_NC[user] >= 0]
            if self.signal_B[part][user]:
                by_view = model.view_scores(vectors_ND[user], take(model.target_ID, rows))
                total = scores_NC[user, : len(rows)] + head.correction(hidden_H, take(head.item_IH, rows), by_view)
                order = np.lexsort((rows, -total))
                rows_NC[user, : len(rows)], scores_NC[user, : len(rows)] = rows[order], total[order]
        return rows_NC[:, : self._k], scores_NC[:, : self._k]


@cache
def _blas() -> ThreadpoolController:
    """The loaded BLAS libraries; finding them takes milliseconds."""
    return ThreadpoolController()
