"""One request, from a history and a text to the best items: gather → encode → retrieve → rank. It knows no HTTP.

Each stage is a method of its own, so that a profile can time what a request runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.artifact.ladder import Rung
from lanner.models.request_form import Int8Rows, RequestForm, Table, take
from lanner.serving.backends.contract import Backend
from lanner.serving.retrieval import BEST, Index, RetrievalConfig, RowSet, build_index
from lanner.vocabulary import ConfigError

_QUERIES = 256


@dataclass(frozen=True)
class Answer:
    """items: int64 ``[k]`` rows, best first, fewer where fewer may be ranked. scores: float32 ``[k]``."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


class Engine:
    """A rung of the ladder with an index over its items. ``backend`` reads texts; without it texts are refused."""

    def __init__(
        self,
        rung: Rung,
        backend: Backend | None = None,
        retrieval: RetrievalConfig | None = None,
        candidates: int = 500,
        index: Index | None = None,
    ) -> None:
        """candidates: retrieved by inner product, then ranked by the head, where the rung has one.

        index: over ``indexed_vectors``; None: one is built, tuned with users who met one item each.

        Raises:
            ConfigError: ``candidates`` is below 1.
        """
        if candidates < 1:
            raise ConfigError(f"candidates must be at least 1, received {candidates}")
        self.form, self.backend, self.candidates = rung.form, backend, candidates
        self.index = index or build_index(
            indexed_vectors(rung.form), retrieval, users_of_one_item(rung.form), retrieved=self._retrieved(BEST)
        )

    @property
    def state_bytes(self) -> int:
        """Bytes read to answer: the index and the form but for its targets, which the index holds."""
        targets = ("target", "target.codes", "target.scale")
        return self.index.memory_bytes + sum(a.nbytes for n, a in self.form.arrays().items() if n not in targets)

    def answer(
        self,
        history: Sequence[int] | NDArray[np.integer],
        k: int = 10,
        text: str | None = None,
        exclude_seen: bool = True,
        allow: NDArray[np.integer] | RowSet | None = None,
        deny: NDArray[np.integer] | None = None,
    ) -> Answer:
        """The k best items for one user; fewer where the filters leave fewer.

        Raises:
            ValueError: k is below 1, or a row lies outside the catalogue.
            ConfigError: a text, where this engine reads none.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, received {k}")
        met = self.known(history)
        user_D = self.gather(met)
        if text is not None:
            user_D = user_D + self.read(text)
        if exclude_seen and len(met):
            deny = met if deny is None else np.union1d(deny, met)
        rows, scores = self.retrieve(user_D, k, allow, deny)
        return self.rank(user_D, rows, scores, k)

    def known(self, history: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Distinct rows of a history, checked."""
        met = np.unique(np.asarray(history, np.int64))
        if len(met) and not 0 <= met[0] <= met[-1] < self.form.num_items:
            raise ValueError(f"item rows {met[0]} … {met[-1]} do not fit {self.form.num_items} items")
        return met

    def gather(self, met: NDArray[np.int64]) -> NDArray[np.float32]:
        """The mean of what was met, float32 ``[D]``; zeros for nobody."""
        return mean_of_rows(self.form.source_ID, met)

    def read(self, text: str) -> NDArray[np.float32]:
        """What a profile text adds to a user, float32 ``[D]``."""
        if self.backend is None or self.form.profile_FD is None:
            raise ConfigError("this recommender reads no profile texts; leave the text out")
        added_1D: NDArray[np.float32] = self.backend.features([text]) @ self.form.profile_FD
        return np.asarray(added_1D[0])

    def retrieve(
        self,
        user_D: NDArray[np.float32],
        k: int,
        allow: NDArray[np.integer] | RowSet | None = None,
        deny: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates by inner product, best first: rows int64 ``[C]`` and scores float32 ``[C]``."""
        query_1D = np.append(user_D, np.float32(1))[None]
        rows, scores = self.index.search(query_1D, self._retrieved(k), allow=allow, deny=deny)
        found = rows[0] >= 0
        return rows[0][found], scores[0][found]

    def _retrieved(self, k: int) -> int:
        return k if self.form.head is None else max(k, self.candidates)

    def rank(self, user_D: NDArray[np.float32], rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Answer:
        """The k best of the candidates once the head has spoken."""
        head = self.form.head
        if head is None:
            return Answer(rows[:k], scores[:k])
        hidden_H = head.hidden(user_D[None], self.form.view_sizes)[0]
        total_C = scores + corrections(head.item_IH, rows, hidden_H, head.out_H)
        best = np.argsort(-total_C, kind="stable")[:k]
        return Answer(rows[best], total_C[best])


def indexed_vectors(form: RequestForm) -> NDArray[np.float32]:
    """Targets with the bias as one more dimension, ``[I, D + 1]``: users have a 1 there."""
    return np.hstack([take(form.target_ID), form.bias_I[:, None]])


def users_of_one_item(form: RequestForm) -> NDArray[np.float32] | None:
    """Queries ``[n, D + 1]`` to tune an index with where no real histories are at hand; None: there are no items."""
    met = np.random.default_rng(0).choice(form.num_items, min(_QUERIES, form.num_items), replace=False)
    return np.hstack([take(form.source_ID, met), np.ones((len(met), 1), np.float32)]) if len(met) else None


def mean_of_rows(table: Table, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 ``[D]``; read straight from the codes where the table is INT8."""
    if isinstance(table, Int8Rows):
        return np.asarray(_mean_of_codes(table.codes, table.scale, rows))
    return np.asarray(_mean_of_floats(table, rows))


def corrections(
    table: Table, rows: NDArray[np.int64], hidden_H: NDArray[np.float32], out_H: NDArray[np.float32]
) -> NDArray[np.float32]:
    """out · relu(hidden + item half) of some items, float32 ``[C]``."""
    if isinstance(table, Int8Rows):
        return np.asarray(_correct_codes(table.codes, table.scale, rows, hidden_H, out_H))
    return np.asarray(_correct_floats(table, rows, hidden_H, out_H))


@njit(cache=True, nogil=True, fastmath=True)
def _mean_of_floats(table_ID, rows):  # type: ignore[no-untyped-def]
    total = np.zeros(table_ID.shape[1], np.float32)
    for row in rows:
        for column in range(len(total)):
            total[column] += table_ID[row, column]
    return total / np.float32(max(1, len(rows)))


@njit(cache=True, nogil=True, fastmath=True)
def _mean_of_codes(codes_ID, scale_I, rows):  # type: ignore[no-untyped-def]
    total = np.zeros(codes_ID.shape[1], np.float32)
    for row in rows:
        scale = scale_I[row]
        for column in range(len(total)):
            total[column] += scale * np.float32(codes_ID[row, column])
    return total / np.float32(max(1, len(rows)))


@njit(cache=True, nogil=True, fastmath=True)
def _correct_floats(item_IH, rows, hidden_H, out_H):  # type: ignore[no-untyped-def]
    out = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        total = np.float32(0)
        for unit in range(len(hidden_H)):
            total += max(hidden_H[unit] + item_IH[rows[place], unit], np.float32(0)) * out_H[unit]
        out[place] = total
    return out


@njit(cache=True, nogil=True, fastmath=True)
def _correct_codes(codes_IH, scale_I, rows, hidden_H, out_H):  # type: ignore[no-untyped-def]
    out = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        total, scale = np.float32(0), scale_I[rows[place]]
        for unit in range(len(hidden_H)):
            value = hidden_H[unit] + scale * np.float32(codes_IH[rows[place], unit])
            total += max(value, np.float32(0)) * out_H[unit]
        out[place] = total
    return out
