"""The trained recommenders: one view of the items, or several combined by a fusion; a part of the hybrid."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.split import HeldOut
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError, DataError
from lanner.graph.adjacency import Adjacency, distinct_edges
from lanner.inference.cold_start import ItemReader
from lanner.inference.scoring_model import ScoringModel
from lanner.models.fusion import FUSIONS
from lanner.models.language import LanguageEncoder
from lanner.models.linear import training_matrix
from lanner.models.network import RecommenderNetwork
from lanner.models.neural_config import FusionName, LanguageConfig, NeuralConfig
from lanner.models.neural_export import item_reader_of, scoring_model_of
from lanner.models.recommender import Recommender, below
from lanner.models.relational import RelationalView
from lanner.models.relations import item_relations
from lanner.models.text_features import TextFeatures
from lanner.models.views import FilterView, GraphView, LanguageView, Tables, View

_TOO_FEW_EVENTS = (
    "too few events to train on: {}, so the network learned nothing; "
    "give more events, or choose a model that needs no training, such as item-knn"
)
NOT_SPARED = _TOO_FEW_EVENTS.format("no user can spare an item for validation")
_NO_PAIRS = _TOO_FEW_EVENTS.format("no user has two different items")
ViewScores = Callable[[UserBatch], NDArray[np.float32]]
"""Scores of every item for each user of a batch, a new float32 ``[B, I]``."""


class Trainer(Protocol):
    """Trains a network in place; the held-out events decide when to stop and how the views are combined."""

    def __call__(self, network: RecommenderNetwork, dataset: Dataset, validation: HeldOut) -> None:
        """Train everything."""

    def refit(self, network: RecommenderNetwork, dataset: Dataset) -> None:
        """Train the views for as many epochs as were best in the last call."""

    def fuse(self, network: RecommenderNetwork, validation: HeldOut) -> None:
        """Train the fusion alone."""


@dataclass(frozen=True)
class Adapted:
    """A language model that was trained on interactions, and what was trained with it.

    features: the map from texts to features, fitted on the vectors from before this training. view: parameters of the
    language view, by name, without its map of profiles; its training goes on from them. None: no view took part.
    """

    encoder: LanguageEncoder
    features: TextFeatures | None = None
    view: Mapping[str, Tensor] | None = None


class Adaptation(Protocol):
    """Trains the language model on the interactions, before its vectors are used; injected, like the trainer."""

    def __call__(self, language: LanguageEncoder, dataset: Dataset, validation: HeldOut) -> Adapted | None:
        """The adapted model; None if nothing improved ``language``."""


class TrainedRecommender(Recommender):
    """A recommender with trained parameters, which stay fitted to their data, and optionally with texts."""

    @abstractmethod
    def unaware(self) -> "TrainedRecommender":
        """This model with its closed forms solved on ``dataset`` alone, so that held-out events can evaluate it."""

    @property
    @abstractmethod
    def encoder(self) -> LanguageEncoder:
        """The language model that reads the texts."""

    @property
    @abstractmethod
    def text_features(self) -> TextFeatures | None:
        """The map from texts to features; None for a model without a language view."""

    @property
    @abstractmethod
    def item_reader(self) -> ItemReader | None:
        """Computes the rows of a new item from its text; None for a model that does not read texts."""


class NeuralRecommender(TrainedRecommender):
    """A ``RecommenderNetwork`` behind the contract. ``trainer`` is injected: models do not depend on training."""

    name: ClassVar[str] = "fusion"

    network: RecommenderNetwork
    """Set by ``fit`` and by ``load_state``."""

    def __init__(
        self,
        config: NeuralConfig | None = None,
        trainer: Trainer | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        """adaptation: None: the language model stays unchanged."""
        self.config = config or NeuralConfig()
        self.trainer, self._adaptation = trainer, adaptation
        self._encoder = LanguageEncoder(self.config.encoder)
        self._taught: Mapping[str, Tensor] | None = None
        """Parameters of the language view that an adaptation trained, on ``_features``."""
        self._features: TextFeatures | None = None
        self._profiles: dict[str, Tensor] = {}

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn from ``dataset``; without ``validation`` a tenth of each user's items is held out for that purpose.

        If no user has enough items for that, everything keeps its initial state: popularity, and the closed forms.

        Raises:
            DataError: no interactions, or no texts for a model that has a language view and nothing else.
            ConfigError: the model was built without a trainer.
        """
        if self.trainer is None:
            raise ConfigError("this recommender was built for loading; give it a trainer to fit it")
        whole = dataset
        if validation is None:
            dataset, validation = with_validation(dataset)
        self._taught = None
        if self._adaptation is not None and validation is not None and "language" in self.config.views:
            adapted = self._adaptation(self._encoder, dataset, validation)
            if adapted is not None:
                self._encoder, self._features, self._taught = adapted.encoder, adapted.features, adapted.view
        edges = Adjacency.from_pattern(training_matrix(dataset))
        network = self._initial_network(dataset, edges)
        self.shortfall = NOT_SPARED
        if validation is not None:
            self.shortfall = "" if edges.row_degrees.max() >= 2 else _NO_PAIRS
            self.trainer(network, dataset, validation)
            # Held-out events are data all the same: the closed form learns from them once everything is chosen.
            rows = np.concatenate([edges.row_of_edge, validation.rows[validation.positives.row_of_value]])
            columns = np.concatenate([edges.indices, validation.positives.values])
            self._refit_filter(network.cpu(), distinct_edges(rows, columns, edges.shape))
        self._serve(network.cpu(), dataset)
        # Friends and neighbours are also read from the whole dataset.
        return self if dataset is whole else self.load_state(*self.state(), whole)

    def untrained(self, dataset: Dataset) -> Self:
        """The model with fitted text features and untrained views."""
        return self._serve(self._initial_network(dataset, Adjacency.from_pattern(training_matrix(dataset))), dataset)

    def _initial_network(self, dataset: Dataset, edges: Adjacency) -> RecommenderNetwork:
        features_IF = self._fit_features(dataset, edges.column_degrees)
        with _seeded(self.config.seed):
            network = self._start(self._build(dataset, edges, features_IF, FilterView.fit))
        if features_IF is not None:
            network.find_lenders(features_IF)
        return network

    def refit(self, dataset: Dataset) -> Self:
        """Refit the views on ``dataset``, for as many epochs as validation chose in ``fit``.

        The text features and the fusion stay: they were learned from events that the views had not seen.
        """
        assert self.trainer is not None, "fitted before"
        edges, before = Adjacency.from_pattern(training_matrix(dataset)), self.network
        features_IF = before.views["language"].get_buffer("features").numpy() if "language" in before.views else None

        with _seeded(self.config.seed):
            network = self._start(self._build(dataset, edges, features_IF, _refitted(before)))
        network.fusion.load_state_dict(before.fusion.state_dict())
        if features_IF is not None:
            network.find_lenders(features_IF)
        self.trainer.refit(network, dataset)
        return self._serve(network.cpu(), dataset)

    def update(self, dataset: Dataset) -> Self:
        """See ``Recommender.update``. A new item has no ID vector; its relations and its text represent it."""
        before, edges = self.network, Adjacency.from_pattern(training_matrix(dataset))
        new = slice(before.num_items, dataset.num_items)
        features_IF = None
        if self._features is not None:
            view = before.views["language"]
            known_IF = view.get_buffer("features").numpy()
            features_IF = np.vstack(
                [known_IF, self._features.transform(dataset.item_catalogue.texts[new], self._encode)]
            )

        network = self._build(dataset, edges, features_IF, _refitted(before))
        network.take_over(before)
        if features_IF is not None:
            network.find_lenders(features_IF, before.num_items)
        return self._serve(network, dataset)

    def _refit_filter(self, network: RecommenderNetwork, edges: Adjacency) -> None:
        for name, view in network.views.items():
            if isinstance(view, FilterView):
                network.views[name] = view.refit(edges, self.config.filter_ridge)

    def unaware(self) -> "NeuralRecommender":
        other = NeuralRecommender(self.config, self.trainer)
        other._encoder, other._taught = self._encoder, self._taught
        other._features, other._profiles = self._features, self._profiles
        network = deepcopy(self.network)
        network.read_profiles = other._read_profiles if self.network.read_profiles else None
        self._refit_filter(network, Adjacency.from_pattern(training_matrix(self.dataset)))
        return other._serve(network, self.dataset)

    @property
    def encoder(self) -> LanguageEncoder:
        return self._encoder

    @property
    def text_features(self) -> TextFeatures | None:
        return self._features

    def with_fusion(self, fusion: FusionName, validation: HeldOut) -> "NeuralRecommender":
        """The same views under another ranking head, which alone is trained. ``validation``: that of ``fit``."""
        if self.trainer is None:
            raise ConfigError("this recommender was built for loading; give it a trainer to train a head")
        # Views that never saw the held-out events; those that did would seem better than they are.
        other = self.unaware()
        other.config, network = replace(self.config, fusion=fusion), other.network
        with _seeded(self.config.seed):
            network.fusion = FUSIONS[fusion](network.fusion.dimensions)
        self.trainer.fuse(network, validation)
        if "filter" in network.views:
            network.cpu().views["filter"] = self.network.views["filter"]
        return other._serve(network.cpu(), self.dataset)

    def _fit_features(self, dataset: Dataset, degrees: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if "language" not in self.config.views:
            return None
        texts = dataset.item_catalogue.texts
        known = [text for text, degree in zip(texts, degrees, strict=True) if degree and text.strip()]
        if not known:
            raise DataError("no item with interactions has a text; leave 'language' out of views")
        sizes = (self.config.meaning_dimensions, self.config.word_dimensions)
        if self._features is None or self._taught is None:
            self._features = TextFeatures.fit(known, self._encode, *sizes)
        self._profiles = {}
        return self._features.transform(texts, self._encode)

    def _start(self, network: RecommenderNetwork) -> RecommenderNetwork:
        """Give the language view the parameters that it learned in an adaptation."""
        if self._taught is not None:
            view = network.views["language"]
            assert isinstance(view, LanguageView)
            view.load_state_dict(self._taught, strict=False)
            view.starts_trained = view.from_profile is None
        return network

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode(texts, progress=len(texts) > 512)

    def _read_profiles(self, profiles: Sequence[str]) -> Tensor:
        """Features of each profile, ``[B, F]``; those of the dataset's own users are precomputed."""
        assert self._features is not None
        new = [text for text in dict.fromkeys(profiles) if text not in self._profiles]
        read = self._profiles
        if new:
            read = read | dict(zip(new, torch.from_numpy(self._features.transform(new, self._encode)), strict=True))
        return torch.stack([read[text] for text in profiles]) if profiles else torch.empty(0, self._features.width)

    def _build(
        self,
        dataset: Dataset,
        edges: Adjacency,
        features_IF: NDArray[np.float32] | None,
        make_filter: Callable[[Adjacency, int, float], FilterView],
    ) -> RecommenderNetwork:
        config, sizes = self.config, []
        views: dict[str, View] = {}
        has_profiles = any(dataset.user_catalogue.texts)
        for name in config.views:
            view: View
            if name == "graph":
                view = GraphView(edges, config.dimensions, config.layers, dataset.ties is not None)
                sizes.append(config.dimensions)
            elif name == "relational":
                texts = None if features_IF is None else torch.from_numpy(features_IF)
                sizes_of = (config.dimensions, config.layers, dataset.ties is not None, dataset.user_catalogue)
                view = RelationalView(edges, item_relations(dataset), texts, *sizes_of)
                sizes.append(config.dimensions)
            elif name == "filter":
                view = make_filter(edges, config.filter_rank, config.filter_ridge)
                sizes.append(view.get_buffer("source").shape[1])
            else:
                assert features_IF is not None
                features = torch.from_numpy(features_IF)
                view = LanguageView(features, config.language_dimensions, config.feature_dropout, has_profiles)
                sizes.append(config.language_dimensions)
            views[name] = view
        reads = has_profiles and self._features is not None
        if reads and self._features is not None:
            new = [text for text in dict.fromkeys(dataset.user_catalogue.texts) if text not in self._profiles]
            features = torch.from_numpy(self._features.transform(new, self._encode))
            self._profiles |= zip(new, features, strict=True)
        read = self._read_profiles if reads else None
        fusion = FUSIONS[config.fusion](sizes)
        sizes_of_all = (edges.column_degrees, dataset.num_users, config.cold_neighbours)
        return RecommenderNetwork(views, fusion, *sizes_of_all, read, dataset.user_catalogue.kinds, config.fanout)

    def _serve(self, network: RecommenderNetwork, dataset: Dataset) -> Self:
        self.network = network.eval()
        return self._fitted(dataset)

    def export(self) -> ScoringModel:
        return scoring_model_of(self)

    @property
    def reader(self) -> "NeuralRecommender | None":
        return self if "language" in self.config.views else None

    @property
    def item_reader(self) -> ItemReader | None:
        return item_reader_of(self)

    # --- as a part of the hybrid -------------------------------------------------------------------------------------

    def view_scores(self) -> tuple[dict[str, ViewScores], dict[str, ViewScores]]:
        """Each view alone, by name: with the items' own tables, and as if all items were unseen."""
        network = self.network
        items = network.item_side()

        def scores(place: int, tables: Tables) -> ViewScores:
            @torch.no_grad()
            def of(users: UserBatch) -> NDArray[np.float32]:
                vectors_BD = network.user_side(network.inputs(users), items)[place]
                scores_BI: NDArray[np.float32] = (vectors_BD @ tables.target_ID.T + tables.bias_I).float().numpy()
                return scores_BI

            return of

        own, borrowed = (
            {name: scores(place, one) for place, (name, one) in enumerate(zip(network.views, tables, strict=True))}
            for tables in (items.own, items.borrowed)
        )
        return own, borrowed

    def lent_items(self) -> sp.csr_matrix | None:
        """Shares that each item (column) would borrow from each other (row); None without texts."""
        lenders, shares = (self.network.get_buffer(name).numpy() for name in ("lenders", "shares"))
        if not lenders.shape[1]:
            return None
        columns = np.repeat(np.arange(len(lenders)), lenders.shape[1])
        entries = (shares.ravel(), (lenders.ravel(), columns))
        return sp.csr_matrix(entries, shape=(len(lenders),) * 2)

    def drop_views(self, names: Collection[str]) -> None:
        """Remove views from a network without a ranking head."""
        network = self.network
        kept = [place for place, name in enumerate(network.views) if name not in names]
        fusion = FUSIONS["sum"]([network.fusion.dimensions[place] for place in kept])
        fusion.get_buffer("weights").copy_(network.fusion.get_buffer("weights")[:, kept])
        for name in names:
            del network.views[name]
        network.fusion = fusion
        self.config = replace(self.config, views=tuple(name for name in self.config.views if name not in names))
        self._fitted(self.dataset)

    def weigh(self, weights: Mapping[str, tuple[float, float]]) -> None:
        """Set the weight of each view for seen and for unseen items."""
        buffer = self.network.fusion.get_buffer("weights")
        for place, name in enumerate(self.network.views):
            buffer[:, place] = torch.tensor(weights[name])
        self._fitted(self.dataset)

    @property
    def relations(self) -> dict[str, dict[str, float]]:
        """What the relational view learned of each kind of edge; empty without such a view.

        items: shares of the messages between items by relation, friends and users' attributes included; they sum to 1.
        users: weight of the friends' mean next to the user's own history, and the influence of each attribute.
        """
        view = dict(self.network.views.items()).get("relational")
        if not isinstance(view, RelationalView):
            return {}
        friends = {} if self.dataset.ties is None else {"friends": float(view.friend_weight.detach())}
        return {"items": view.relation_weights, "users": friends | view.attribute_weights}

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, float32 ``[T, F]``; those of the dataset's own profiles are precomputed."""
        return self._read_profiles(texts).numpy()

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = {f"network.{name}": value.numpy() for name, value in self.network.state_dict().items()}
        words: list[str] = []
        if self._features is not None:
            texts, words = self._features.state()
            arrays |= {f"texts.{name}": value for name, value in texts.items()}
            arrays |= {f"encoder.{name}": value for name, value in self._encoder.weights.items()}
        return arrays, {"config": asdict(self.config), "words": words, "relations": self.relations}

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        config = dict(settings["config"])
        encoder = LanguageConfig(**config.pop("encoder"))
        self.config = NeuralConfig(**(config | {"views": tuple(config["views"]), "encoder": encoder}))
        self._encoder = LanguageEncoder(encoder, below("encoder.", arrays) or None)
        texts = below("texts.", arrays)
        self._features, self._profiles = TextFeatures.from_state(texts, settings["words"]) if texts else None, {}
        stored = {name: torch.from_numpy(np.array(value)) for name, value in below("network.", arrays).items()}
        features = stored.get("views.language.features")

        def stored_filter(_: Adjacency, rank: int, ridge: float) -> FilterView:
            return FilterView(stored["views.filter.source"], stored["views.filter.target"])

        kept = None if features is None else features.numpy()
        network = self._build(dataset, Adjacency.from_pattern(training_matrix(dataset)), kept, stored_filter)
        network.load_state_dict(stored)
        return self._serve(network, dataset)


def with_validation(dataset: Dataset) -> tuple[Dataset, HeldOut | None]:
    """Hold out a tenth of each user's items; None if no user has enough of them."""
    try:
        split = random_ratio(dataset, test=0.1, validation=0.0)
    except DataError:
        return dataset, None
    return split.train, split.test


def _refitted(network: RecommenderNetwork) -> Callable[[Adjacency, int, float], FilterView]:
    """Fits the filter view of ``network`` to other edges."""

    def refit(edges: Adjacency, _: int, ridge: float) -> FilterView:
        view = network.views["filter"]
        assert isinstance(view, FilterView)
        return view.refit(edges, ridge)

    return refit


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights drawn in the block depend on ``seed`` alone; the global random state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
