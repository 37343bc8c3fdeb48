"""The hybrid: closed forms with text priors, a trained graph view and a language view, combined in one linear sum.

Every part is linear in the weighted history, and so is the sum: explanations are exact, an event takes effect at once,
and one index serves all. Validation chooses each part's settings and weight; see ``training.joining``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.inference.cold_start import ItemReader
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.inference.tables import Table, take
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.material import ItemTexts, Material, ratings_of, text_neighbours
from lanner.models.hybrid.parts import KINDS, SOFTMAX, Linear, Settings, kept_rows
from lanner.models.language import LanguageEncoder
from lanner.models.local_ridge import strongest
from lanner.models.neural import NOT_SPARED, NeuralRecommender, TrainedRecommender, ViewScores, with_validation
from lanner.models.recommender import below, item_popularity
from lanner.models.text_features import TextFeatures

CLOSED = "closed"
"""In ``Choice.cold_weights``: the sum of all closed forms."""
PROFILE = "profile"
"""In ``Choice.weights``: the match of profiles with the items' texts, if the training data have profiles."""
_MEANING_DIMENSIONS = 64
"""Directions of the text features in which a text is matched with items."""
_TEXT_SPREAD, _PROFILE_SPREAD = 3.0, 0.5
"""Spread of the scores of a query text and of a profile that no data could weigh, relative to those of a history."""
_SAMPLED = 256
"""Users and texts on which scores are brought to one scale."""
_TEXT_POOL = 300
"""Number of nearest items by text considered."""
_MAX_CHANGED_SHARE = 0.7
"""Maximum share of the items for which an update solves single columns instead of all."""


@dataclass(frozen=True)
class Choice:
    """What validation chose.

    settings: of each closed form in use. weights: of every part and view, 0: unused. cold_weights: for unseen
    items: of ``closed``, the closed forms' sum lent by similar items, and of each view. recency: see
    ``ScoringModel``. quality: ndcg@10 on validation. sums: whether item-to-item weights are summed over a history, as
    the softmax was fitted, and not divided by its length.
    """

    settings: Mapping[str, Settings]
    weights: Mapping[str, float]
    cold_weights: Mapping[str, float]
    recency: float
    quality: float
    sums: bool = False


@dataclass(frozen=True)
class TrainedViews:
    """The network's views as the search scores them, by name: with the items' own tables, and with borrowed ones.

    lent_II: what each item borrows, a column of shares each, csr ``[I, I]``; None without texts. is_cold_I: unseen
    items.
    """

    own: Mapping[str, ViewScores]
    borrowed: Mapping[str, ViewScores]
    lent_II: sp.csr_matrix | None
    is_cold_I: NDArray[np.bool_]


class Joiner(Protocol):
    """Chooses settings and weights by validation; injected, so that models do not depend on training."""

    def __call__(self, material: Material, config: HybridConfig, views: TrainedViews, validation: HeldOut) -> Choice:
        """``material`` must not hold the validation events."""


class HybridRecommender(TrainedRecommender):
    """A sum of closed forms and the views of a trained network, as a recommender."""

    name: ClassVar[str] = "hybrid"

    def __init__(
        self, config: HybridConfig | None = None, network: NeuralRecommender | None = None, joiner: Joiner | None = None
    ) -> None:
        """network: its views are added to the sum; its fusion must be ``sum``."""
        self.config = config or HybridConfig()
        self._network, self._joiner = network or NeuralRecommender(), joiner
        self._texts: ItemTexts | None = None

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn from ``dataset``; without ``validation`` a tenth of each user's items is held out for that purpose.

        Closed forms are refitted on both once everything is chosen; the trained views are not.

        Raises:
            DataError: no interactions. ConfigError: built without a joiner or a trainer.
        """
        if self._joiner is None:
            raise ConfigError("this recommender was built for loading; give it a joiner to fit it")
        whole, self._texts = dataset, None
        if validation is None:
            dataset, validation = with_validation(dataset)
        if "network" in self.config.parts:
            self._network.fit(dataset, validation)
        else:
            self._network.untrained(dataset)
        self.shortfall = NOT_SPARED if validation is None else ""
        if validation is None:  # nothing can be chosen
            self.choice, self._lost = Choice({}, dict.fromkeys(self._network.config.views, 1.0), {}, 0.0, 0.0), 0.0
            self._solved_I = np.zeros(dataset.num_items, np.float32)
            return self._join(whole, Linear())
        material = self._material(dataset)
        self.choice = self._joiner(material, self.config, self._views(), validation)
        self._network.drop_views(self._idle_views())
        held_out = Ragged.from_pairs(
            validation.rows[validation.positives.row_of_value], validation.positives.values, dataset.num_users
        )
        if dataset is not whole:  # friends and neighbours are also read from all of it
            self._network.load_state(*self._network.state(), whole)
        known = material.with_histories(material.histories.join(held_out))
        return self._join(whole, self._closed(known))

    def refit(self, dataset: Dataset) -> Self:
        """Refit every part on ``dataset``; settings and weights stay."""
        if any(
            self.choice.weights.get(name) or self.choice.cold_weights.get(name) for name in self._network.config.views
        ):
            self._network.refit(dataset)
        else:
            self._network.update(dataset)
        return self._join(dataset, self._closed(self._material(dataset)))

    def update(self, dataset: Dataset) -> Self:
        """See ``Recommender.update``. Regressions are re-solved for items grown by over ``HybridConfig.growth``."""
        directions_IR = self._directions()
        self._network.update(dataset)
        solved_I, users_I = _padded(self._solved_I, dataset.num_items), item_popularity(dataset)
        grown = np.flatnonzero(np.abs(users_I - solved_I) > self.config.growth * solved_I)
        if directions_IR is not None:
            directions_IR = _padded(directions_IR, dataset.num_items)
        # If most items are affected, solving all is cheaper; and the softmax cannot solve single columns.
        few = len(grown) < _MAX_CHANGED_SHARE * dataset.num_items and SOFTMAX not in self.choice.settings
        targets = grown if few else None
        material = replace(self._material(dataset), targets=targets, directions_IR=directions_IR)
        return self._join(dataset, self._closed(material))

    def _directions(self) -> NDArray[np.float32] | None:
        """Approximate leading directions of the graph, from the current low-pass part."""
        settings, target_IR = self.choice.settings.get("low-pass"), self._closed_sum.target_IR
        if settings is None or target_IR is None:
            return None
        scale_I = np.maximum(item_popularity(self.dataset), 1) ** np.float32(settings["popularity"])
        return np.asarray(target_IR / scale_I[:, None], np.float32)

    def unaware(self) -> "HybridRecommender":
        """This model with its closed forms fitted on ``dataset`` alone, so that held-out events can evaluate it."""
        other = HybridRecommender(self.config, self._network.unaware(), self._joiner)
        other.choice, other._texts = self.choice, self._texts
        return other._join(self.dataset, other._closed(other._material(self.dataset)))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _material(self, dataset: Dataset) -> Material:
        about, ratings = (dataset.histories, dataset.num_items, dataset.has_order), ratings_of(dataset.interactions)
        features_IF, read = self._features_IF, self._network.text_features
        if features_IF is None or read is None:
            return Material(*about, ratings=ratings, people=dataset.user_catalogue)
        meaning_IF, texts = features_IF[:, : read.meaning_SED.shape[2]], dataset.item_catalogue.texts
        if self._texts is None:
            words_IW = read.word_matrix(texts)
            self._texts = ItemTexts(meaning_IF, words_IW, text_neighbours(meaning_IF, words_IW, _TEXT_POOL))
        elif (known := len(self._texts.meaning_IF)) < len(texts):
            self._texts = self._texts.extended(meaning_IF[known:], read.word_matrix(texts[known:]), _TEXT_POOL)
        features_IF = np.hstack([meaning_IF, self._texts.words_IW @ read.words_WD])
        return Material(*about, features_IF, self._texts.near, ratings, dataset.user_catalogue)

    def _views(self) -> TrainedViews:
        own, borrowed = self._network.view_scores() if "network" in self.config.parts else ({}, {})
        if self._features_IF is not None and any(self._network.dataset.user_catalogue.texts):
            own = own | {PROFILE: self._profile_scores(self._features_IF)}
        is_cold_I = self._network.network.get_buffer("is_cold").numpy()
        return TrainedViews(own, borrowed, self._network.lent_items(), is_cold_I)

    def _profile_scores(self, features_IF: NDArray[np.float32]) -> ViewScores:
        """The match of profiles with the items' texts, as the search scores views."""
        directions_FD = _leading(features_IF)
        target_ID = features_IF @ directions_FD

        def score(users: UserBatch) -> NDArray[np.float32]:
            if users.profiles is None:
                return np.zeros((len(users), len(target_ID)), np.float32)
            scores_BI: NDArray[np.float32] = self._network.features(users.profiles) @ directions_FD @ target_ID.T
            return scores_BI

        return score

    def _idle_views(self) -> Sequence[str]:
        """Views of weight 0; the text view stays, as it reads requests and new items, and at least one must stay."""
        weights, cold, views = self.choice.weights, self.choice.cold_weights, self._network.config.views
        idle = [one for one in views if one != "language" and not weights.get(one) and not cold.get(one)]
        return idle[1:] if len(idle) == len(views) else idle

    def _closed(self, material: Material) -> Linear:
        """The weighted sum of the closed forms, with columns lent to unseen items."""
        weights = self.choice.weights
        fitted = [
            (KINDS[name].fit(material, self.config, settings), np.float32(weights[name]))
            for name, settings in self.choice.settings.items()
        ]
        rows, lost = kept_rows(
            [(one.items, weight) for one, weight in fitted if one.items is not None], self.config.kept
        )
        biases = [one.bias_I * weight for one, weight in fitted if one.bias_I is not None]
        source_IR, target_IR = _side_by_side(
            [(one.source_IR, one.target_IR * weight) for one, weight in fitted if one.target_IR is not None]
        )
        bias_I = np.asarray(np.sum(biases, axis=0), np.float32) if biases else None
        if material.targets is None or rows is None:
            self._lost, self._solved_I = lost, material.users_I
        else:
            rows, self._lost = self._merged(rows, material), max(self._lost, lost)
        return self._with_cold_items(Linear(rows, source_IR, target_IR, bias_I), material.is_seen_I)

    def _merged(self, rows_IT: sp.csr_matrix, material: Material) -> sp.csr_matrix:
        """The re-solved columns merged into the unchanged ones."""
        solved_I, targets = _padded(self._solved_I, material.num_items), material.target_items
        stays_I = solved_I > 0
        stays_I[targets] = False
        before = self._closed_sum.items
        assert before is not None
        old = sp.csr_matrix(before).tocoo()
        kept = stays_I[old.col]
        new = rows_IT.tocoo()
        columns = np.concatenate([old.col[kept], targets[new.col]])
        entries = (np.concatenate([old.row[kept], new.row]), columns)
        whole = sp.csr_matrix((np.concatenate([old.data[kept], new.data]), entries), (material.num_items,) * 2)
        solved_I[targets] = material.users_I[targets]
        self._solved_I = solved_I
        return strongest(whole, self.config.kept)

    def _with_cold_items(self, closed: Linear, is_seen_I: NDArray[np.bool_]) -> Linear:
        """The columns of unseen items are predicted from those of the items with the most similar texts."""
        neighbours_II = self._network.lent_items()
        if neighbours_II is None or is_seen_I.all():
            return closed
        gain_I = np.where(is_seen_I, 0, self.choice.cold_weights.get(CLOSED, 0.0)).astype(np.float32)
        columns_II = (sp.diags(is_seen_I.astype(np.float32)) + neighbours_II @ sp.diags(gain_I)).tocsr()
        items, target_IR, bias_I = closed.items, closed.target_IR, closed.bias_I
        return Linear(
            None if items is None else (items @ columns_II).tocsr(),
            closed.source_IR,
            None if target_IR is None else np.asarray(columns_II.T @ target_IR, np.float32),
            None if bias_I is None else np.asarray(columns_II.T @ bias_I, np.float32),
        )

    # --- the contract ------------------------------------------------------------------------------------------------

    def _join(self, dataset: Dataset, closed: Linear) -> Self:
        if closed.items is not None:
            closed = replace(closed, items=sp.csr_matrix(closed.items, dtype=np.float32).sorted_indices())
        self._closed_sum = closed
        warm, cold = self.choice.weights, self.choice.cold_weights
        self._network.weigh({name: (warm.get(name, 0.0), cold.get(name, 0.0)) for name in self._network.config.views})
        return self._fitted(dataset)

    def export(self) -> ScoringModel:
        network, closed = self._network.export(), self._closed_sum
        items = closed.items
        joined = replace(
            network,
            bias_I=network.bias_I if closed.bias_I is None else network.bias_I + closed.bias_I,
            popularity_I=item_popularity(self.dataset),
            item_to_item=None if items is None else SparseRows.of(items, self._lost, sums=self.choice.sums),
            recency=self.choice.recency,
            kind_A=self.dataset.user_catalogue.kinds if closed.reads_attributes else network.kind_A,
        )
        if closed.source_IR is not None and closed.target_IR is not None:
            joined = _with_view(joined, "low-pass", closed.source_IR, closed.target_IR)
        return joined if self._features_IF is None else self._with_meaning(joined, self._features_IF)

    def _with_meaning(self, model: ScoringModel, features_IF: NDArray[np.float32]) -> ScoringModel:
        """The model with a view that matches texts with similar items; histories do not use it.

        A query text's scores spread ``_TEXT_SPREAD`` times as far as a user's, so it dominates and taste ranks the
        matches. A profile weighs what validation chose, where the training data had profiles.
        """
        directions_FD = _leading(features_IF)
        target_ID = features_IF @ directions_FD
        users = self.dataset.user_batch(np.flatnonzero(self.dataset.histories.lengths)[:_SAMPLED])
        texts = np.random.default_rng(0).permutation(len(target_ID))[:_SAMPLED]
        spread = model.score(users).std(axis=1).mean() if len(users) else np.float32(1)
        own_spread = (target_ID[texts] @ target_ID.T).std(axis=1).mean()
        size = np.float32(take(model.target_ID).std() / max(float(target_ID.std()), 1e-9)) or np.float32(1)
        of_history = np.float32(spread / max(float(own_spread), 1e-9))
        gains = {
            "text_FD": _TEXT_SPREAD * of_history,
            "profile_FD": self.choice.weights.get(PROFILE, _PROFILE_SPREAD * of_history),
        }
        wider = _with_view(model, "meaning", np.zeros_like(target_ID), target_ID * size)
        maps: dict[str, Any] = {}
        for field, gain in gains.items():
            learned: Table | None = getattr(wider, field)
            shape = (len(directions_FD), wider.dimensions)
            maps[field] = np.zeros(shape, np.float32) if learned is None else take(learned).copy()
            maps[field][:, -target_ID.shape[1] :] = directions_FD * (np.float32(gain) / size)
        return replace(wider, **maps)

    @property
    def _features_IF(self) -> NDArray[np.float32] | None:
        """Features of the items' texts; None without a language view."""
        views = self._network.network.views
        return views["language"].get_buffer("features").numpy() if "language" in views else None

    @property
    def relations(self) -> dict[str, dict[str, float]]:
        """What the relational view learned of each kind of edge; see ``NeuralRecommender.relations``."""
        return self._network.relations

    @property
    def reader(self) -> NeuralRecommender | None:
        return self._network.reader

    @property
    def encoder(self) -> LanguageEncoder:
        return self._network.encoder

    @property
    def text_features(self) -> TextFeatures | None:
        return self._network.text_features

    @property
    def item_reader(self) -> ItemReader | None:
        found, cold = self._network.item_reader, self.choice.cold_weights.get(CLOSED, 0.0)
        if found is None:
            return None
        model = self.scoring_model
        # The views after the network's own.
        later = model.view_names[len(found.view_sizes) :]
        shares = np.array([[1.0] * len(later), [cold if name == "low-pass" else 1.0 for name in later]], np.float32)
        weights_2V = np.hstack([found.weights_2V, shares])
        return replace(
            found, lent=cold, weights_2V=weights_2V, view_sizes=model.view_sizes, meaning_FD=self._meaning_of(model)
        )

    def _meaning_of(self, model: ScoringModel) -> NDArray[np.float32]:
        """From the features of a text to an item's target in the view that ``_with_meaning`` added."""
        assert self._features_IF is not None
        assert model.text_FD is not None
        size = model.view_sizes[-1]
        # Texts of queries and of items have the same directions, at different scales.
        directions_FD = take(model.text_FD)[:, -size:]
        made = np.linalg.norm(self._features_IF @ directions_FD)
        scale = np.linalg.norm(take(model.target_ID)[:, -size:]) / max(float(made), 1e-9)
        return np.asarray(directions_FD * scale, np.float32)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        network, settings = self._network.state()
        arrays = {f"network.{name}": array for name, array in network.items()}
        closed = self._closed_sum
        if closed.items is not None:
            rows = sp.csr_matrix(closed.items)
            arrays |= {"indptr": rows.indptr.astype(np.int64), "items": rows.indices, "values": rows.data}
        factors = {"source": closed.source_IR, "target": closed.target_IR, "bias": closed.bias_I}
        arrays |= {name: array for name, array in factors.items() if array is not None}
        arrays["solved"] = self._solved_I
        return arrays, {
            "config": asdict(self.config),
            "choice": asdict(self.choice),
            "lost": self._lost,
            "network": settings,
        }

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        config = dict(settings["config"])
        self.config = HybridConfig(**(config | {"parts": tuple(config["parts"])}))
        self.choice, self._lost = Choice(**settings["choice"]), float(settings["lost"])
        self._network.load_state(below("network.", arrays), settings["network"], dataset)
        self._solved_I, self._texts = arrays.get("solved", np.zeros(dataset.num_items, np.float32)), None
        items = None
        if "indptr" in arrays:
            shape = (len(arrays["indptr"]) - 1, dataset.num_items)
            items = sp.csr_matrix((arrays["values"], arrays["items"], arrays["indptr"]), shape=shape)
        return self._join(dataset, Linear(items, arrays.get("source"), arrays.get("target"), arrays.get("bias")))


def _leading(features_IF: NDArray[np.float32]) -> NDArray[np.float32]:
    """The leading directions of the text features, ``[F, D]``."""
    return np.ascontiguousarray(np.linalg.eigh(features_IF.T @ features_IF)[1][:, ::-1][:, :_MEANING_DIMENSIONS])


def _padded(array_I: NDArray[np.float32], num_items: int) -> NDArray[np.float32]:
    """A copy with zeros for items added later."""
    later = [(0, num_items - len(array_I)), *[(0, 0)] * (array_I.ndim - 1)]
    return np.pad(array_I, later)


def _with_view(
    model: ScoringModel, name: str, source_ID: NDArray[np.float32], target_ID: NDArray[np.float32]
) -> ScoringModel:
    """The model with one more view, to which friends, attributes, profiles and texts do not contribute."""
    after = ((0, 0), (0, source_ID.shape[1]))
    maps: dict[str, Any] = {
        field: np.pad(take(table), after)
        for field in ("friends_UD", "attribute_AD", "profile_FD", "text_FD")
        if (table := getattr(model, field)) is not None
    }
    return replace(
        model,
        source_ID=np.hstack([take(model.source_ID), source_ID]),
        target_ID=np.hstack([take(model.target_ID), target_ID]),
        view_sizes=(*model.view_sizes, source_ID.shape[1]),
        view_names=(*model.view_names, name),
        **maps,
    )


def _side_by_side(
    factors: Sequence[tuple[NDArray[np.float32] | None, NDArray[np.float32]]],
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Sources and targets of several low-rank maps concatenated, each pair scaled to the same size for INT8 rows."""
    sources, targets = [], []
    for source_IR, target_IR in factors:
        assert source_IR is not None
        gain = np.sqrt(target_IR.std() / max(float(source_IR.std()), 1e-12)) or np.float32(1)
        sources.append(source_IR * gain)
        targets.append(target_IR / gain)
    if not sources:
        return None, None
    return np.hstack(sources).astype(np.float32), np.hstack(targets).astype(np.float32)
