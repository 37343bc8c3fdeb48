import numpy as np
import pytest
from random_events import random_events

from lanner.errors import ConfigError
from lanner.models.item_knn import ItemKNN, ItemKNNConfig


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0.0), (5, 4.0), (100, 1.0)])
def test_equals_dense_cosine_with_the_nearest_of_each_target(neighbours, shrinkage):
    dataset, met = random_events()
    model = ItemKNN(ItemKNNConfig(neighbours, shrinkage)).fit(dataset)
    together, degree = met.T @ met, met.sum(axis=0)
    similar = together / np.maximum(np.sqrt(np.outer(degree, degree)) + shrinkage, 1e-9)
    np.fill_diagonal(similar, 0)
    rows = model.scoring_model.item_to_item.matrix().toarray()
    for target, row in enumerate(similar):
        kept = rows[:, target]
        nearest = np.sort(row)[::-1][:neighbours]
        np.testing.assert_allclose(np.sort(kept)[::-1][:neighbours], nearest, rtol=1e-5)
        np.testing.assert_allclose(kept[kept > 0], row[kept > 0], rtol=1e-5)
        assert np.count_nonzero(kept) <= neighbours


@pytest.mark.parametrize("settings", [{"neighbours": 0}, {"shrinkage": -1.0}, {"shrinkage": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ItemKNNConfig(**settings)
