"""Adaptation to histories: the language model and the language view are trained jointly, end to end.

The loss is that of the language view: items hidden from a history against all others, or, for large catalogues, against
a sample corrected for popularity (``losses.sampled_softmax``). First only the view is trained, on the frozen model's
vectors; then the model and the view.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import DataError
from lanner.models.fusion import FUSIONS
from lanner.models.language import LanguageEncoder
from lanner.models.network import RecommenderNetwork
from lanner.models.neural import Adapted
from lanner.models.neural_config import NeuralConfig
from lanner.models.text_features import TextFeatures
from lanner.models.views import LanguageView
from lanner.training.adaptation_task import AdaptationTask
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.item_texts import ItemFeatures, ItemTexts, TrainedVectors
from lanner.training.loop import Loop, trained_parameters
from lanner.training.tasks import ViewTask

_VIEW_EPOCHS = 10
"""Maximum epochs of training only the view."""


class HistoriesTask(AdaptationTask):
    """See the module. ``module``: ``language`` and ``view``, which holds the most recent features of all items."""

    def __init__(
        self,
        dataset: Dataset,
        validation: HeldOut,
        language: LanguageEncoder,
        vectors_of: Callable[[ItemTexts], TrainedVectors],
        config: AdaptationConfig,
        neural: NeuralConfig,
        training: TrainingConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Raises ``DataError`` if no item with interactions has a text."""
        texts, self._fitted, table_IF = _frozen_features(language, dataset, neural)
        vectors, seen = vectors_of(texts), np.unique(dataset.histories.values)
        super().__init__(vectors, seen[texts.tokens_I[seen] > 0], config, clock)
        words_IW = table_IF[:, self._fitted.meaning_SED.shape[2] :]
        self._features = ItemFeatures(self._fitted, words_IW).to(language.device)
        network = _language_network(dataset, table_IF, neural, config.seed).to(language.device)
        view = network.views["language"]
        assert isinstance(view, LanguageView)
        self._view, self._view_rate = view, training.learning_rate
        self.module = nn.ModuleDict({"language": vectors.tower, "view": view})
        view_training = replace(training, batch_users=config.batch_users)
        self._objective = ViewTask(network, "language", dataset, validation, view_training)

    def begin(self, loop: Loop) -> None:
        loop.minimise(self._objective, 0, _VIEW_EPOCHS)

    def adapted(self, encoder: LanguageEncoder) -> Adapted:
        view = {name: value.detach().cpu() for name, value in trained_parameters(self._view).items()}
        return Adapted(encoder, self._fitted, view)

    @property
    def _known(self) -> Tensor:
        return self._view.get_buffer("features")

    def _read(self, items: NDArray[np.int64]) -> Tensor:
        vectors_TE, place_NS = self._vectors.of_items(items)
        features: Tensor = self._features(items, place_NS, vectors_TE)
        return features

    def _groups(self) -> list[dict[str, object]]:
        trained = list(trained_parameters(self._view).values())
        return [*super()._groups(), {"params": trained, "lr": self._view_rate, "weight_decay": 0.0}]

    def loss(self, step: int) -> Tensor:
        items = self._batches.at(step)
        fresh_NF, known_IF = self._read(items), self._known
        features_IF = known_IF.index_copy(0, torch.from_numpy(items).to(known_IF.device), fresh_NF)
        self._remember(items, fresh_NF)
        return self._objective.loss_by(self._view.read(features_IF), step, items)

    def _measured(self) -> float | None:
        return self._objective.quality()


def _frozen_features(
    language: LanguageEncoder, dataset: Dataset, config: NeuralConfig
) -> tuple[ItemTexts, TextFeatures, NDArray[np.float32]]:
    """The texts, the map from texts to features, and all items' features from the frozen model, ``[I, F]``."""
    texts = dataset.item_catalogue.texts
    known = [texts[row] for row in np.unique(dataset.histories.values) if texts[row].strip()]
    if not known:
        raise DataError("no item with interactions has a text, so there is nothing to adapt a language model to")
    vectors: dict[str, NDArray[np.float32]] = {}

    def encode(wanted: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(wanted) if text not in vectors]
        vectors.update(zip(new, language.encode(new, progress=len(new) > 512), strict=True))
        return np.stack([vectors[text] for text in wanted])

    fitted = TextFeatures.fit(known, encode, config.meaning_dimensions, config.word_dimensions)
    table_IF = fitted.transform(texts, encode)
    own = ItemTexts(texts, len(fitted.mean_SE), language)
    return own, fitted, table_IF


def _language_network(
    dataset: Dataset, table_IF: NDArray[np.float32], config: NeuralConfig, seed: int
) -> RecommenderNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        view = LanguageView(torch.from_numpy(table_IF), config.language_dimensions, config.feature_dropout, False)
    degrees = np.bincount(dataset.histories.values, minlength=dataset.num_items)
    return RecommenderNetwork(
        {"language": view}, FUSIONS["sum"]([config.language_dimensions]), degrees, dataset.num_users, 0, None
    )
