import numpy as np
from random_events import random_events

from lanner.data.interactions import Interactions, UserBatch
from lanner.data.ragged import Ragged
from lanner.models.baselines import PopularityRecommender, RandomConfig, RandomRecommender


def test_popularity_counts_users_once():
    dataset, met = random_events()
    events = dataset.interactions
    doubled = dataset.with_interactions(
        Interactions(np.concatenate([events.user] * 2), np.concatenate([events.item] * 2))
    )
    scores = PopularityRecommender().fit(doubled).score(dataset.user_batch())
    np.testing.assert_array_equal(scores, np.tile(met.sum(axis=0), (len(met), 1)))


def test_popularity_explains_with_one_part():
    dataset, met = random_events()
    explanation = PopularityRecommender().fit(dataset).explain(UserBatch(Ragged.empty(1)), 2)
    assert [(part.kind, part.row, part.value) for part in explanation.parts] == [("popularity", -1, met[:, 2].sum())]


def test_random_scores_are_uniform_and_differ_by_user_and_seed():
    dataset, _ = random_events(num_users=200, num_items=400)
    scores = RandomRecommender().fit(dataset).score(dataset.user_batch())
    assert scores.min() >= 0
    assert scores.max() < 1
    counts = np.histogram(scores, bins=20, range=(0, 1))[0]
    # Chi-square with 19 degrees of freedom: above 60 is rarer than one in a hundred thousand.
    assert ((counts - 4000) ** 2 / 4000).sum() < 60
    assert np.abs(np.corrcoef(scores[:20]) - np.eye(20)).max() < 0.25
    other = RandomRecommender(RandomConfig(seed=1)).fit(dataset).score(dataset.user_batch())
    assert abs(np.corrcoef(scores.ravel(), other.ravel())[0, 1]) < 0.02


def test_random_does_not_hang_on_the_order_of_the_history():
    dataset, _ = random_events()
    model = RandomRecommender().fit(dataset)
    forwards, backwards = (model.score(UserBatch(Ragged.from_lists([one]))) for one in ([1, 5, 9], [9, 5, 1]))
    np.testing.assert_array_equal(forwards, backwards)
