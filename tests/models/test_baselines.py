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


def test_random_lists_have_little_in_common():
    dataset, _ = random_events(num_users=200, num_items=400, share=0.03)
    lists = RandomRecommender().fit(dataset).recommend(dataset.user_batch(), 10).items
    shown = np.bincount(lists.ravel(), minlength=400)
    assert (shown > 0).mean() > 0.7
    assert shown.max() < 40
    other = RandomRecommender(RandomConfig(seed=1)).fit(dataset).recommend(dataset.user_batch(), 10).items
    assert np.mean([len(set(one) & set(two)) for one, two in zip(lists, other, strict=True)]) < 1


def test_random_does_not_hang_on_the_order_of_the_history():
    dataset, _ = random_events()
    model = RandomRecommender().fit(dataset)
    forwards, backwards = (model.score(UserBatch(Ragged.from_lists([one]))) for one in ([1, 5, 9], [9, 5, 1]))
    np.testing.assert_array_equal(forwards, backwards)
