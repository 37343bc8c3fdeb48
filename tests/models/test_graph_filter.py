import numpy as np
import pytest
from random_events import random_events

from lanner.errors import ConfigError
from lanner.models.graph_filter import GraphFilter, GraphFilterConfig


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("popularity_exponent", [0.0, 0.3])
def test_equals_the_dense_formula(rank, popularity_exponent):
    dataset, met = random_events()
    config = GraphFilterConfig(
        neighbours=99,
        user_exponent=0.8,
        popularity_exponent=popularity_exponent,
        rank=rank,
        low_pass_exponent=0.4,
        power_iterations=60,
    )
    scores = GraphFilter(config).fit(dataset).score(dataset.user_batch())
    degree_U, degree_I = np.maximum(met.sum(axis=1), 1), np.maximum(met.sum(axis=0), 1)
    normalised = degree_U[:, None] ** -0.4 * met * degree_I**-0.5
    _, singular, right = np.linalg.svd(normalised)
    ideal = degree_I[:, None] ** -0.5 * right[:rank].T @ right[:rank] * degree_I**0.4
    linear = normalised.T @ normalised * degree_I**popularity_exponent
    kernel = linear + config.low_pass_weight * singular[0] ** 2 * ideal
    np.testing.assert_allclose(scores, met @ kernel, rtol=1e-3, atol=1e-5)


def test_rank_beyond_the_matrix_is_all_there_is():
    dataset, _ = random_events(num_users=5, num_items=9)
    scores = GraphFilter(GraphFilterConfig(rank=50)).fit(dataset).score(dataset.user_batch())
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("setting", ["neighbours", "power_iterations", "rank", "low_pass_weight"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=setting):
        GraphFilterConfig(**{setting: -1})
