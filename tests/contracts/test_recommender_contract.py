"""The contract of every recommender, on taste groups with known right answers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions, UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import DataError
from lanner.models.baselines import PopularityRecommender, RandomRecommender
from lanner.models.ease import EASE, EASEConfig
from lanner.models.graph_filter import GraphFilter, GraphFilterConfig
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.model import HybridRecommender
from lanner.models.ials import IALS, IALSConfig
from lanner.models.item_knn import ItemKNN, ItemKNNConfig
from lanner.models.neural import NeuralConfig, NeuralRecommender, TrainedRecommender
from lanner.models.recommender import Recommender
from lanner.training.joining import Joiner
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")

GROUPS, USERS_PER_GROUP, ITEMS_PER_GROUP = 4, 12, 10
NUM_ITEMS = GROUPS * ITEMS_PER_GROUP


@dataclass(frozen=True)
class Case:
    """How to make a recommender for the small dataset, and what may be asked of it."""

    make: Callable[[], Recommender]
    fresh: Callable[[], Recommender]
    """No arguments but the defaults: what a bundle is loaded into."""
    learns_taste: bool = True


TRAINING = TrainingConfig(epochs=12, batch_users=16, learning_rate=0.03, device="cpu")


def neural(*views: str, training: TrainingConfig = TRAINING, **changes: Any) -> Case:
    """A small network, trained for a moment."""
    sizes = {"dimensions": 8, "language_dimensions": 8, "filter_rank": 8, "filter_ridge": 5.0, "cold_neighbours": 5}
    trainer = Trainer(training, progress=False)
    return Case(lambda: NeuralRecommender(NeuralConfig(views=views, **sizes | changes), trainer), NeuralRecommender)


def hybrid() -> Recommender:
    """Every part, on settings that suit a small world."""
    sizes = {"dimensions": 8, "language_dimensions": 8, "cold_neighbours": 5}
    network = NeuralRecommender(NeuralConfig(fusion="sum", **sizes), Trainer(TRAINING, progress=False))
    return HybridRecommender(HybridConfig(neighbours=10, text_neighbours=5, rank=8), network, Joiner(progress=False))


CASES = {
    "random": Case(RandomRecommender, RandomRecommender, learns_taste=False),
    "popularity": Case(PopularityRecommender, PopularityRecommender, learns_taste=False),
    "item-knn": Case(lambda: ItemKNN(ItemKNNConfig(neighbours=20, shrinkage=1)), ItemKNN),
    "ease": Case(lambda: EASE(EASEConfig(regularisation=10)), EASE),
    "ials": Case(lambda: IALS(IALSConfig(factors=8, iterations=10)), IALS),
    "graph-filter": Case(GraphFilter, GraphFilter),
    "graph-filter-with-low-pass": Case(lambda: GraphFilter(GraphFilterConfig(rank=4, neighbours=20)), GraphFilter),
    "lightgcn": neural("graph", layers=3, training=replace(TRAINING, objective="bpr", learning_rate=0.1)),
    "gnn": neural("graph", "filter"),
    "language": neural("language"),
    "fusion": neural("graph", "filter", "language"),
    "relational": neural("relational", "language"),
    "hybrid": Case(hybrid, HybridRecommender),
}


def dataset_of(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Dataset:
    names = [tuple(f"{kind} {row}" for row in range(count)) for kind, count in (("u", num_users), ("i", num_items))]
    texts = tuple(f"a thing of kind {row // ITEMS_PER_GROUP}" for row in range(num_items))
    return Dataset(
        Interactions(user.astype(np.int32), item.astype(np.int32)),
        IdMap(names[0]),
        IdMap(names[1]),
        Catalogue(texts=texts, titles=names[1]),
        Catalogue.blank(names[0]),
        has_order=True,
    )


@pytest.fixture(scope="module")
def groups() -> Dataset:
    """Each user has seen six of the ten items of one group, and once in a while something else."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(GROUPS * USERS_PER_GROUP):
        own = rng.choice(ITEMS_PER_GROUP, 6, replace=False) + user // USERS_PER_GROUP * ITEMS_PER_GROUP
        events += [(user, item) for item in own]
        events += [(user, rng.integers(NUM_ITEMS))] if user % 5 == 0 else []
    user, item = np.array(events).T
    return dataset_of(user, item, GROUPS * USERS_PER_GROUP, NUM_ITEMS)


@pytest.fixture(scope="module", params=CASES)
def fitted(request: pytest.FixtureRequest, groups: Dataset) -> tuple[Case, Recommender]:
    case = CASES[request.param]
    return case, case.make().fit(groups)


def strangers() -> UserBatch:
    """One user of each group whom no model has seen, with three items each."""
    return UserBatch(Ragged.from_lists([[g * ITEMS_PER_GROUP + i for i in (1, 4, 7)] for g in range(GROUPS)]))


def test_scores_have_the_agreed_shape_and_are_finite(fitted, groups):
    scores = fitted[1].score(groups.user_batch())
    assert scores.shape == (groups.num_users, NUM_ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_fit_keeps_the_dataset(fitted, groups):
    assert fitted[1].dataset is groups


def test_taste_of_strangers_is_found(fitted):
    case, model = fitted
    if not case.learns_taste:
        pytest.skip("knows no taste")
    items = model.recommend(strangers(), k=4).items
    assert (items // ITEMS_PER_GROUP == np.arange(GROUPS)[:, None]).all()


def test_seen_items_are_left_out_only_when_asked(fitted):
    model, users = fitted[1], strangers()
    without = model.recommend(users, k=NUM_ITEMS).items
    everything = model.recommend(users, k=NUM_ITEMS, exclude_seen=False).items
    for row in range(len(users)):
        expected = set(range(NUM_ITEMS)) - set(users.history[row].tolist())
        assert set(without[row].tolist()) == expected | {-1}
        assert set(everything[row].tolist()) == set(range(NUM_ITEMS))


def test_recommendations_fall(fitted):
    values = fitted[1].recommend(strangers(), k=12).scores
    assert (np.diff(values, axis=1) <= 0).all()


def test_a_user_is_scored_alike_in_any_company(fitted, groups):
    model, everyone = fitted[1], groups.user_batch()
    rows = np.array([17, 3, 40])
    together = model.score(everyone)[rows]
    np.testing.assert_allclose(model.score(everyone.take(rows)), together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score(everyone.take(rows[:1])), together[:1], rtol=1e-4, atol=1e-5)


def test_repeats_in_a_history_change_nothing(fitted):
    if fitted[1].scoring_model.recency:
        pytest.skip("a repeat is a newer event")
    once, twice = Ragged.from_lists([[1, 4, 7]]), Ragged.from_lists([[1, 4, 7, 4, 1]])
    scores = [fitted[1].score(UserBatch(history)) for history in (once, twice)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)


def test_fitting_twice_gives_the_same_scores(fitted, groups):
    case, model = fitted
    again = case.make().fit(groups)
    np.testing.assert_allclose(again.score(strangers()), model.score(strangers()), rtol=1e-4, atol=1e-5)


def test_an_update_takes_in_events_without_training(fitted, groups):
    case, model = fitted
    before = groups.with_interactions(groups.interactions.take(np.arange(len(groups.interactions)) % 7 > 0))
    updated = case.make().fit(before).update(groups)
    assert updated.dataset is groups
    assert np.isfinite(updated.score(groups.user_batch())).all()
    if not isinstance(model, TrainedRecommender):
        np.testing.assert_allclose(updated.score(strangers()), model.score(strangers()), rtol=1e-4, atol=1e-5)


def test_an_update_takes_in_new_users_and_items(fitted, groups):
    """The last item of each group and every third user come later."""
    case, _ = fitted
    rank_of = np.argsort(np.argsort((np.arange(NUM_ITEMS) % ITEMS_PER_GROUP == ITEMS_PER_GROUP - 1), kind="stable"))
    user_of = np.argsort(np.argsort(np.arange(groups.num_users) % 3 == 0, kind="stable"))
    events = groups.interactions
    moved = replace(events, user=user_of[events.user].astype(np.int32), item=rank_of[events.item].astype(np.int32))
    texts = np.array(groups.item_catalogue.texts)[np.argsort(rank_of)]

    def known(num_users: int, num_items: int) -> Dataset:
        kept = moved.take((moved.user < num_users) & (moved.item < num_items))
        made = dataset_of(kept.user, kept.item, num_users, num_items)
        return replace(made, item_catalogue=replace(made.item_catalogue, texts=tuple(texts[:num_items])))

    whole = known(groups.num_users, NUM_ITEMS)
    updated = case.make().fit(known(int(user_of.max()) * 2 // 3, NUM_ITEMS - GROUPS)).update(whole)
    assert updated.dataset is whole
    scores = updated.score(whole.user_batch())
    assert scores.shape == (groups.num_users, NUM_ITEMS)
    assert np.isfinite(scores).all()
    if case.learns_taste:
        histories = [rank_of[np.array([1, 4, 7]) + group * ITEMS_PER_GROUP] for group in range(GROUPS)]
        new = updated.score(UserBatch(Ragged.from_lists([list(one) for one in histories])))[:, -GROUPS:]
        assert (new.argmax(axis=1) == np.arange(GROUPS)).all()
    arrays, settings = updated.state()
    loaded = case.fresh().load_state(arrays, json.loads(json.dumps(settings)), whole)
    np.testing.assert_array_equal(loaded.score(strangers()), updated.score(strangers()))


def test_scoring_leaves_the_history_alone(fitted):
    users = UserBatch(Ragged.from_lists([[7, 1, 4, 1]]))
    fitted[1].score(users)
    assert users.history.values.tolist() == [7, 1, 4, 1]


def test_an_empty_history_and_an_empty_batch_get_scores(fitted):
    model = fitted[1]
    assert np.isfinite(model.score(UserBatch(Ragged.empty(2)))).all()
    assert model.score(UserBatch(Ragged.empty(0))).shape == (0, NUM_ITEMS)
    assert (model.recommend(UserBatch(Ragged.empty(1)), k=3).items >= 0).all()


def test_state_comes_back(fitted, groups):
    case, model = fitted
    arrays, settings = model.state()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    loaded = case.fresh().load_state(arrays, json.loads(json.dumps(settings)), groups)
    np.testing.assert_array_equal(loaded.score(strangers()), model.score(strangers()))
    assert loaded.dataset is groups
    assert loaded.state()[1] == settings


def test_an_explanation_adds_up_to_the_score(fitted):
    model = fitted[1]
    user = strangers().take(np.array([1]))
    explanation = model.explain(user, 12)
    assert explanation.item == 12
    assert explanation.score == pytest.approx(sum(part.value for part in explanation.parts), abs=1e-6)
    assert explanation.score == pytest.approx(float(model.score(user)[0, 12]), rel=1e-4, abs=1e-5)
    rows = {part.row for part in explanation.parts if part.kind == "history" and part.row >= 0}
    assert rows <= set(user.history[0].tolist())


@pytest.mark.parametrize(("users", "item"), [(2, 0), (1, NUM_ITEMS), (1, -1)])
def test_what_has_no_explanation_is_refused(fitted, users, item):
    with pytest.raises(ValueError):
        fitted[1].explain(strangers().take(np.arange(users)), item)


def test_similar_items_leave_the_item_out(fitted):
    found = fitted[1].similar(5, k=4).items
    assert found.shape == (1, 4)
    assert 5 not in found


def test_a_dataset_without_interactions_is_refused(fitted):
    empty = np.empty(0, np.int32)
    with pytest.raises(DataError, match="no interactions"):
        fitted[0].make().fit(dataset_of(empty, empty, 3, 5))


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 1), (1, 6), (6, 1)])
def test_one_user_or_one_item_is_enough(fitted, num_users, num_items):
    user, item = np.repeat(np.arange(num_users), num_items), np.tile(np.arange(num_items), num_users)
    dataset = dataset_of(user, item, num_users, num_items)
    assert np.isfinite(fitted[0].make().fit(dataset).score(dataset.user_batch())).all()


def test_items_nobody_met_get_finite_scores(fitted, groups):
    grown = dataset_of(groups.interactions.user, groups.interactions.item, groups.num_users + 2, NUM_ITEMS + 3)
    scores = fitted[0].make().fit(grown).score(UserBatch(Ragged.from_lists([[1, NUM_ITEMS + 2], [NUM_ITEMS + 1]])))
    assert scores.shape == (2, NUM_ITEMS + 3)
    assert np.isfinite(scores).all()


def test_the_ranker_lists_what_the_scores_say(fitted, groups):
    model, users = fitted[1], groups.user_batch()
    scores = model.score(users)
    scores[users.history.row_of_value, users.history.values] = -np.inf
    found = model.recommend(users, k=6)
    taken = np.take_along_axis(scores, np.maximum(found.items, 0), axis=1)
    np.testing.assert_allclose(found.scores, taken, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :6], rtol=1e-4, atol=1e-5)


def test_the_exported_model_comes_back_from_its_arrays(fitted, groups):
    exported = fitted[1].scoring_model
    facts = json.loads(json.dumps(exported.facts))
    again = type(exported).from_arrays(exported.arrays(), facts)
    np.testing.assert_array_equal(again.score(groups.user_batch()), exported.score(groups.user_batch()))


def test_without_a_signal_popular_items_come_first(fitted, groups):
    counts = np.bincount(groups.interactions.item, minlength=NUM_ITEMS)
    found = fitted[1].recommend(UserBatch(Ragged.empty(1)), k=5).items[0]
    assert counts[found].tolist() == sorted(counts.tolist(), reverse=True)[:5]
