"""Adaptation to companions: texts of items that the same users choose become similar, without any view or graph.

The probability that a user who chose item i also chose j is, over the users u of both::

    p(j | i) ∝ Σ_u 1 / (|N(u)| − 1),  j ≠ i

and the loss is the cross-entropy of softmax_j(cos(v_i, v_j) / τ + log n_j) with it: n_j, the users of j, so that
similarity need not express popularity (Menon et al., ICLR 2021). Each i of a step is compared with the whole catalogue,
or, if that is large, with some of its companions and with random items.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.errors import DataError
from lanner.inference.sparse import history_matrix
from lanner.models.language import LanguageEncoder
from lanner.models.linear import training_matrix
from lanner.models.neural import Adapted
from lanner.training.adaptation_task import AdaptationTask
from lanner.training.config import AdaptationConfig
from lanner.training.item_texts import ItemTexts, ItemVectors, TrainedVectors
from lanner.training.loop import Loop
from lanner.training.tasks import MAX_EVALUATED, checked_quality, some, weighed

_DRAWN = 16
"""Companions drawn per item of a batch if the catalogue is too large to compare with all of it."""
_OWN = -1e4
"""Score of an item as its own companion: finite, as its share of 0 is multiplied by it."""
_INDEPENDENT = 4
"""Weight of a history in a validation score: that of so many independent items, as its items resemble each other."""


class Companions:
    """Which items the users of an item also chose, of those with texts.

    items: int64, those that have companions, sorted. degrees: number of users of each item who chose several, ``[I]``.
    """

    def __init__(self, dataset: Dataset, readable_I: NDArray[np.bool_]) -> None:
        chosen_UI = sp.csr_array(training_matrix(dataset)) @ sp.diags_array(readable_I.astype(np.float32))
        chosen_UI.eliminate_zeros()
        chosen_UI = chosen_UI[np.diff(chosen_UI.indptr) > 1]
        others_U = np.diff(chosen_UI.indptr).astype(np.float32) - 1
        self._users_IU, self._shares_UI = chosen_UI.T.tocsr(), sp.diags_array(1 / others_U) @ chosen_UI
        self.degrees = np.diff(self._users_IU.indptr)
        self.items = np.flatnonzero(self.degrees)
        if not len(self.items):
            raise DataError("no user chose two items with texts, so there is nothing to adapt a language model to")

    def of(self, items: NDArray[np.int64]) -> sp.csr_array:
        """p(j | i) for each i of ``items``, csr ``[N, I]``."""
        shares_NI = sp.csr_array(self._users_IU[items] @ self._shares_UI)
        shares_NI.data[shares_NI.indices == np.repeat(items, np.diff(shares_NI.indptr))] = 0
        shares_NI.eliminate_zeros()
        return sp.csr_array(sp.diags_array(1 / shares_NI.sum(axis=1)) @ shares_NI)


class CompanionsTask(AdaptationTask):
    """See the module. ``module``: ``language`` and ``vectors``, the most recent ones of all items."""

    def __init__(
        self,
        dataset: Dataset,
        validation: HeldOut,
        language: LanguageEncoder,
        vectors_of: Callable[[ItemTexts], TrainedVectors],
        config: AdaptationConfig,
        num_candidates: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Raises ``DataError`` if no user chose two items with texts."""
        texts = dataset.item_catalogue.texts
        vectors = vectors_of(ItemTexts(texts, max(text.count(FIELD_SEPARATOR) + 1 for text in texts), language))
        self._companions = Companions(dataset, vectors.texts.tokens_I > 0)
        super().__init__(vectors, self._companions.items, config, clock)
        self._items = ItemVectors(*vectors.texts.place_IS.shape, language.dimensions).to(language.device)
        self.module = nn.ModuleDict({"language": vectors.tower, "vectors": self._items})
        self._evaluated, self._num_candidates = some(validation, MAX_EVALUATED), num_candidates
        self._log_degrees = np.log(np.maximum(self._companions.degrees, 1)).astype(np.float32)

    @torch.no_grad()
    def begin(self, loop: Loop) -> None:
        if loop.resumed is None:
            vectors_TE, place_NS = self._vectors.of_items(self._companions.items)
            self._items.find_averages(place_NS, vectors_TE)
            self.refresh()

    def adapted(self, encoder: LanguageEncoder) -> Adapted:
        return Adapted(encoder)

    @property
    def _known(self) -> Tensor:
        return self._items.get_buffer("known")

    def _read(self, items: NDArray[np.int64]) -> Tensor:
        vectors_TE, place_NS = self._vectors.of_items(items)
        rows: Tensor = self._items(place_NS, vectors_TE)
        return rows

    def loss(self, step: int) -> Tensor:
        items = self._batches.at(step)
        fresh_NE, known_IE = self._read(items), self._known
        candidates, share_NC, offset_C = self._compared(step, items)

        def on_device(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(known_IE.device)

        places = on_device(np.searchsorted(candidates, items))
        candidates_CE = known_IE[on_device(candidates)].index_copy(0, places, fresh_NE)
        self._remember(items, fresh_NE)
        scores_NC = fresh_NE @ candidates_CE.T / self._config.temperature + on_device(offset_C)
        scores_NC[torch.arange(len(items)), places] = _OWN
        return cross_entropy(scores_NC, on_device(share_NC))

    def _compared(
        self, step: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Candidates C, sorted, the share of each as a companion ``[N, C]``, and what is added to its score."""
        items, shares_NI = self._companions.items, self._companions.of(rows)
        if len(items) <= self._num_candidates:
            return items, shares_NI[:, items].toarray(), self._log_degrees[items]
        random = np.random.default_rng((self._config.seed, 8, step))
        drawn_ND = np.stack([_drawn(shares_NI, row, random) for row in range(len(rows))])
        more = random.choice(items, max(self._num_candidates - len(rows), 0))
        # Items that a random order put into this step count as draws.
        candidates, log_chance = weighed(
            drawn_ND.ravel(), np.concatenate([rows, more]), len(items), self._companions.degrees
        )
        share_NC = np.zeros((len(rows), len(candidates)), np.float32)
        np.add.at(share_NC, (np.arange(len(rows))[:, None], np.searchsorted(candidates, drawn_ND)), 1 / _DRAWN)
        return candidates, share_NC, self._log_degrees[candidates] - log_chance

    def _measured(self) -> float | None:
        return checked_quality(self, self._evaluated)

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of all items by their similarity to the histories and their popularity, float32 ``[B, I]``."""
        known_IE = self._known.cpu().numpy()
        chosen_BI = history_matrix(users.history, len(known_IE))
        weight_B = _INDEPENDENT / self._config.temperature / np.maximum(np.diff(chosen_BI.indptr), 1)
        users_BE = (chosen_BI @ known_IE) * weight_B[:, None].astype(np.float32)
        scores_BI: NDArray[np.float32] = users_BE @ known_IE.T
        scores_BI += self._log_degrees
        return scores_BI


def _drawn(shares_NI: sp.csr_array, row: int, random: np.random.Generator) -> NDArray[np.int32]:
    """``_DRAWN`` companions of an item, each by its share."""
    own = slice(*shares_NI.indptr[row : row + 2])
    shares = shares_NI.data[own].astype(np.float64)
    drawn: NDArray[np.int32] = random.choice(shares_NI.indices[own], _DRAWN, p=shares / shares.sum())
    return drawn
