"""One request, from what a user met, says and asks for to the best items and the reasons. It knows no HTTP.

gather → aggregate → encode → fuse → retrieve → rank → explain: each stage is a method of its own, so that a profile can
time what a request runs. Messages were passed over the graph when the tables were made; what is left of the graph's
aggregation at request time is the mean over what was met.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.ladder import Rung
from lanner.errors import ConfigError
from lanner.models.request_form import ItemRows, through
from lanner.models.request_items import ItemReader
from lanner.serving.backends.contract import Backend
from lanner.serving.item_index import ItemIndex, item_index, retrieved
from lanner.serving.item_tables import ItemTables
from lanner.serving.retrieval import RetrievalConfig, RowSet

_MOST_DIVERSIFIED = 200
"""Candidates among which a diverse list is chosen."""


@dataclass(frozen=True)
class Answer:
    """items: int64 ``[k]`` rows, best first, fewer where fewer may be ranked. scores: float32 ``[k]``."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Asker:
    """Who asks, as the stages see them.

    vector_D: ``share`` of the mean of what was met, and told_D, what texts add. hidden_H: the head's user half.
    """

    vector_D: NDArray[np.float32]
    told_D: NDArray[np.float32]
    share: float
    hidden_H: NDArray[np.float32] | None


@dataclass(frozen=True)
class Asked:
    """The first stages of a request. met: distinct rows int64 ``[M]``; sources_MD: what was gathered of them."""

    met: NDArray[np.int64]
    sources_MD: NDArray[np.float32]
    asker: Asker


@dataclass(frozen=True)
class Parts:
    """Summands of the scores of N items: by each of the M items met, by texts, by popularity and by the head."""

    history_NM: NDArray[np.float32]
    told_N: NDArray[np.float32]
    popularity_N: NDArray[np.float32]
    head_N: NDArray[np.float32]

    @property
    def scores(self) -> NDArray[np.float32]:
        """The sums, float32 ``[N]``."""
        return np.asarray(self.history_NM.sum(axis=1) + self.told_N + self.popularity_N + self.head_N)


class Engine:
    """A rung of the ladder with an index over its items. ``backend`` reads texts; without it texts are refused."""

    def __init__(
        self,
        rung: Rung,
        backend: Backend | None = None,
        retrieval: RetrievalConfig | None = None,
        candidates: int = 500,
        index: ItemIndex | None = None,
        item_reader: ItemReader | None = None,
        tables: ItemTables | None = None,
    ) -> None:
        """candidates: retrieved by inner product, then ranked by the head, where the rung has one.

        item_reader: without it no search text is read, for it tells what a text would be as an item.
        index: over ``indexed_vectors``; None: ``item_index`` builds one.
        tables: of the rung, where engines share them.

        Raises:
            ConfigError: ``candidates`` is below 1.
        """
        if candidates < 1:
            raise ConfigError(f"candidates must be at least 1, received {candidates}")
        self.form, self.backend, self.candidates, self._item_reader = rung.form, backend, candidates, item_reader
        self.index = item_index(rung.form, candidates, retrieval) if index is None else index
        self.tables = ItemTables(rung.form) if tables is None else tables
        self._nothing_D = np.zeros(rung.form.dimensions, np.float32)

    @property
    def num_items(self) -> int:
        """Rows ever given: those removed keep theirs."""
        return self.tables.num_items

    @property
    def state_bytes(self) -> int:
        """Bytes read to answer: the index and what is beside it."""
        return self.index.memory_bytes + self.bytes_beside_index

    @property
    def bytes_beside_index(self) -> int:
        """Bytes of the tables and the form but for its targets, which the index holds."""
        tables = ("target", "source", "head.item")
        arrays = self.form.arrays().items()
        rest = sum(
            array.nbytes for name, array in arrays if name.removesuffix(".codes").removesuffix(".scale") not in tables
        )
        return self.tables.memory_bytes + rest

    @property
    def reads_texts(self) -> bool:
        """Whether search texts, and the texts of new items, are understood."""
        return self._item_reader is not None and self.backend is not None and self.backend.reads_texts

    def answer(
        self,
        history: Sequence[int] | NDArray[np.integer],
        k: int = 10,
        profile: str | None = None,
        text: str | None = None,
        exclude_seen: bool = True,
        allow: NDArray[np.integer] | RowSet | None = None,
        deny: NDArray[np.integer] | None = None,
        diversity: float = 0.0,
    ) -> Answer:
        """The k best items for one user; fewer where the filters leave fewer.

        Args:
            history: rows of items, repeats allowed.
            k: how many.
            profile: what the user says of themselves.
            text: what is looked for, or was just read: as if an item that reads so had been met.
            exclude_seen: leave out what is in the history.
            allow: rows, of which alone answers may come.
            deny: rows that no answer may hold.
            diversity: 0 … 1, see ``diversify``.

        Raises:
            ValueError: k is below 1, or a row lies outside the catalogue.
            ConfigError: a profile or a text, where this engine reads none.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, received {k}")
        asked = self.ask(history, profile, text)
        return self.best(asked.asker, k, allow, unseen(asked, deny) if exclude_seen else deny, diversity)

    def ask(
        self, history: Sequence[int] | NDArray[np.integer], profile: str | None = None, text: str | None = None
    ) -> Asked:
        """Gather, aggregate, encode and fuse; arguments and errors as ``answer``."""
        met = self.known(history)
        sources_MD = self.gather(met)
        return Asked(met, sources_MD, self.fuse(self.aggregate(sources_MD), self.encode(profile, text, len(met))))

    def best(
        self,
        asker: Asker,
        k: int,
        allow: NDArray[np.integer] | RowSet | None = None,
        deny: NDArray[np.integer] | None = None,
        diversity: float = 0.0,
    ) -> Answer:
        """Retrieve, rank and, where asked for, diversify; arguments as ``answer``."""
        wanted = max(k, _MOST_DIVERSIFIED) if diversity else k
        ranked = self.rank(asker, *self.retrieve(asker, wanted, allow, deny), wanted)
        return self.diversify(ranked, k, diversity) if diversity else ranked

    def known(self, history: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Distinct rows of a history, checked."""
        met = np.array(history, np.int64)
        if not (met[1:] > met[:-1]).all():
            met = np.unique(met)
        if len(met) and not 0 <= met[0] <= met[-1] < self.num_items:
            raise ValueError(f"item rows {met[0]} … {met[-1]} do not fit {self.num_items} items")
        return met

    def gather(self, met: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of what was met, float32 ``[m, D]``."""
        return self.tables.sources(met)

    def aggregate(self, sources_MD: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of what was met, float32 ``[D]``; zeros for nobody."""
        if not len(sources_MD):
            return self._nothing_D
        return np.asarray(np.add.reduce(sources_MD) * np.float32(1 / len(sources_MD)))

    def encode(self, profile: str | None, text: str | None, num_met: int) -> tuple[NDArray[np.float32], float]:
        """What the texts add to a user, float32 ``[D]``, and by how much what was met is to shrink beside them."""
        told_D, share = self._nothing_D, 1.0
        if profile is not None:
            if self.form.profile_FD is None:
                raise ConfigError("this recommender reads no profile texts; leave the profile out")
            told_D = through(self.features(profile)[None], self.form.profile_FD)[0]
        if text is not None:
            share = num_met / (num_met + 1)
            told_D = told_D + (1 - share) * (self.features(text) @ self._text_FD)
        return told_D, share

    def fuse(self, mean_D: NDArray[np.float32], read: tuple[NDArray[np.float32], float]) -> Asker:
        """Join what was met and what was read, and take the ranking head's first layer as far as the user goes."""
        told_D, share = read
        vector_D = mean_D * np.float32(share) + told_D
        head = self.form.head
        hidden_H = None if head is None else head.hidden(vector_D[None], self.form.view_sizes)[0]
        return Asker(vector_D, told_D, share, hidden_H)

    def retrieve(
        self,
        asker: Asker,
        k: int,
        allow: NDArray[np.integer] | RowSet | None = None,
        deny: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates by inner product, best first: rows int64 ``[C]`` and scores float32 ``[C]``."""
        query_1D = np.empty((1, len(asker.vector_D) + 1), np.float32)
        query_1D[0, :-1], query_1D[0, -1] = asker.vector_D, 1
        rows, scores = self.index.search(query_1D, retrieved(self.form, self.candidates, k), allow=allow, deny=deny)
        # Padding comes last, and seldom.
        if rows[0, -1] >= 0:
            return rows[0], scores[0]
        found = rows[0] >= 0
        return rows[0][found], scores[0][found]

    def rank(self, asker: Asker, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Answer:
        """The k best of the candidates once the head has spoken."""
        if asker.hidden_H is None or self.form.head is None:
            return Answer(rows[:k], scores[:k])
        total_C = scores + self.tables.corrections(rows[None], asker.hidden_H[None], self.form.head.out_H)[0]
        best = np.argsort(-total_C, kind="stable")[:k]
        return Answer(rows[best], total_C[best])

    def diversify(self, ranked: Answer, k: int, diversity: float) -> Answer:
        """k of the ranked items, chosen one by one by score and unlikeness to those chosen (Carbonell & Goldstein,
        SIGIR 1998): (1 − diversity) · score, scaled to 0 … 1, − diversity · the largest cosine to one of them.
        """
        if len(ranked.items) <= 1:
            return ranked
        targets_CD = self.index.vectors(ranked.items)[:, :-1]
        unit_CD = targets_CD / np.maximum(np.linalg.norm(targets_CD, axis=1, keepdims=True), 1e-9)
        spread = float(np.ptp(ranked.scores)) or 1.0
        worth_C = (1 - diversity) * (ranked.scores - ranked.scores.min()) / spread
        nearest_C, chosen = np.zeros(len(unit_CD), np.float32), list[int]()
        for _ in range(min(k, len(unit_CD))):
            worth = worth_C - diversity * nearest_C
            worth[chosen] = -np.inf
            chosen.append(int(worth.argmax()))
            nearest_C = np.maximum(nearest_C, unit_CD @ unit_CD[chosen[-1]])
        return Answer(ranked.items[chosen], ranked.scores[chosen])

    def similar(self, row: int, k: int) -> Answer:
        """The k items whose targets point most nearly where this one's does; scores are cosines."""
        target_1D = self.index.vectors(np.array([row]))
        target_1D[0, -1] = 0.0
        rows, _ = self.index.search(target_1D, max(k, self.candidates), deny=np.array([row]))
        found = rows[0][rows[0] >= 0]
        near_CD, own_D = self.index.vectors(found)[:, :-1], target_1D[0, :-1]
        lengths = np.linalg.norm(near_CD, axis=1) * np.linalg.norm(own_D)
        cosines = near_CD @ own_D / np.maximum(lengths, 1e-9)
        best = np.argsort(-cosines, kind="stable")[:k]
        return Answer(found[best], cosines[best])

    def explain(self, asked: Asked, items: NDArray[np.int64]) -> Parts:
        """What the scores of ``items`` ``[n]`` are made of; the parts of an item add up to its score."""
        sources_MD, asker = asked.sources_MD, asked.asker
        targets_ND = self.index.vectors(items)
        weight = asker.share / max(1, len(sources_MD))
        history_NM = targets_ND[:, :-1] @ sources_MD.T * np.float32(weight)
        told_N = targets_ND[:, :-1] @ asker.told_D
        head_N = np.zeros(len(items), np.float32)
        if asker.hidden_H is not None and self.form.head is not None:
            head_N = self.tables.corrections(items[None], asker.hidden_H[None], self.form.head.out_H)[0]
        return Parts(history_NM, told_N, targets_ND[:, -1], head_N)

    def features(self, text: str) -> NDArray[np.float32]:
        """What a text says, float32 ``[F]``; raises ConfigError where this engine reads none."""
        return np.asarray(self._reading.features([text])[0])

    def item_features(self, text: str) -> NDArray[np.float32]:
        """The same of a new item's text, which is read once."""
        return np.asarray(self._reading.read([text])[0])

    @property
    def _reading(self) -> Backend:
        if self.backend is None or self.backend.reader is None:
            raise ConfigError("this recommender reads no texts; leave the text out")
        return self.backend

    @cached_property
    def _text_FD(self) -> NDArray[np.float32]:
        """From the features of a text to the source vector of an item that reads so."""
        if self._item_reader is None:
            raise ConfigError("this recommender reads no texts; leave the text out")
        whole_FD = self._item_reader.text_sources()
        reduced = self.form.reduction.source_DR
        return whole_FD if reduced is None else whole_FD @ reduced


def unseen(asked: Asked, deny: NDArray[np.integer] | None) -> NDArray[np.integer] | None:
    """Rows that no answer may hold where it is to hold nothing that was met: those of ``deny``, too."""
    if not len(asked.met):
        return deny
    return asked.met if deny is None else np.union1d(deny, asked.met)


def add_items(engines: Sequence[Engine], rows: ItemRows) -> NDArray[np.int64]:
    """Items given as rows of the full form get the next rows of every engine and can be found at once.

    The engines are variants of one catalogue, and may share an index or tables.
    """
    added = np.arange(engines[0].num_items, engines[0].num_items + len(rows.bias_N))
    changed: set[int] = set()
    # Who shares tables is of one rung, and shares the index, too.
    for engine in {id(one.tables): one for one in engines}.values():
        reduced = engine.form.reduction(rows)
        engine.tables.append(reduced)
        if id(engine.index) not in changed:
            changed.add(id(engine.index))
            engine.index.add(added, np.hstack([reduced.target_ND, reduced.bias_N[:, None]]))
    return added


def remove_items(engines: Sequence[Engine], rows: NDArray[np.int64]) -> None:
    """Items that are found no more; histories may go on naming them."""
    for index in indexes_of(engines):
        index.remove(rows)


def indexes_of(engines: Iterable[Engine]) -> list[ItemIndex]:
    """Each once, however many engines share it."""
    return list({id(engine.index): engine.index for engine in engines}.values())
