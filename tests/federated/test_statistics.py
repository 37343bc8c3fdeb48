"""Closed forms from sums match those of the pooled events; noise hides any one user."""

import numpy as np
import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError
from lanner.federated.privacy import BY_USER, Privacy, Release
from lanner.federated.secure_sum import total_of
from lanner.federated.statistics import Statistics, ease, graph_filter, private
from lanner.models.ease import EASE, EASEConfig


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    events = pl.DataFrame({"user": random.integers(0, 60, 900), "item": random.integers(0, 25, 900)})
    return Dataset.from_frames(events)


def parts(data, count):
    user = data.interactions.user
    return [
        data.with_interactions(data.interactions.take(np.flatnonzero(user % count == part))) for part in range(count)
    ]


@pytest.mark.parametrize("weighting", ["event", "user"])
def test_the_parts_add_up_to_the_whole(data, weighting):
    whole = Statistics.of(data, weighting)
    words = [Statistics.of(part, weighting).words() for part in parts(data, 5)]
    found = Statistics.from_words(total_of(words), data.num_items, weighting)
    np.testing.assert_allclose(found.gram_II, whole.gram_II, atol=0 if weighting == "event" else 5 * 2**-33)


def test_ease_from_sums_is_ease(data):
    words = [Statistics.of(part, "event").words() for part in parts(data, 4)]
    ours = ease(Statistics.from_words(total_of(words), data.num_items, "event"), 20.0)
    theirs = EASE(EASEConfig(regularisation=20.0)).fit(data).export()
    users = data.user_batch(np.arange(10))
    np.testing.assert_allclose(ours.score(users), theirs.score(users), atol=1e-5)


def test_the_graph_filter_from_sums_is_the_step_written_out(data):
    weighted, counted = (Statistics.of(data, one) for one in ("user", "event"))
    found = graph_filter(weighted, counted.gram_II.diagonal()).item_matrix.toarray()
    met = np.zeros((data.num_users, data.num_items))
    met[data.interactions.user, data.interactions.item] = 1
    scale = met.sum(axis=0) ** -0.5
    expected = (met.T @ (met / met.sum(axis=1, keepdims=True))) * scale[:, None] * scale
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_user_changes_what_is_sent_by_at_most_the_sensitivity(data):
    whole = Statistics.of(data, "user")
    for user in range(10):
        rest = data.with_interactions(data.interactions.take(np.flatnonzero(data.interactions.user != user)))
        difference = (whole.gram_II - Statistics.of(rest, "user").gram_II)[np.triu_indices(data.num_items)]
        assert np.linalg.norm(difference) <= BY_USER.sensitivity + 1e-9


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (4.0, 1e-5), (8.0, 1e-6)])
def test_the_noise_is_the_least_that_gives_the_privacy(epsilon, delta):
    sigma = Release(1.0).sigma(Privacy(epsilon, delta))
    # How far two outputs, of means 0 and 1, may be told apart: δ = ∫ max(0, p − e^ε q).
    grid = np.linspace(-40, 40, 2_000_001)
    first, second = (np.exp(-0.5 * ((grid - mean) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) for mean in (1, 0))
    spent = np.maximum(first - np.exp(epsilon) * second, 0).sum() * (grid[1] - grid[0])
    assert spent == pytest.approx(delta, rel=0.01)
    assert Release(2.0).sigma(Privacy(epsilon, delta)) == pytest.approx(2 * sigma, rel=1e-6)


def test_the_clients_noise_adds_up(data):
    random = np.random.default_rng(0)
    privacy = Privacy(4.0)
    total = sum(BY_USER.noise(privacy, 50, random, 20_000) for _ in range(50))
    assert total.std() == pytest.approx(BY_USER.sigma(privacy), rel=0.03)


def test_of_noise_alone_nothing_is_left():
    random, privacy = np.random.default_rng(0), Privacy(2.0)
    noise = np.triu(random.normal(0, BY_USER.sigma(privacy), (200, 200)))
    kept = private(Statistics(noise + np.triu(noise, 1).T, "user"), BY_USER, privacy)
    assert np.linalg.matrix_rank(kept.gram_II) <= 2


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (1, 0), (1, 1)])
def test_privacy_that_is_none_is_refused(epsilon, delta):
    with pytest.raises(ConfigError, match="epsilon must be above 0"):
        Privacy(epsilon, delta)


def test_sums_of_another_form_and_settings_out_of_range_are_refused(data):
    with pytest.raises(ConfigError, match="weighting must be one of event, user, received 'evnt'"):
        Statistics.of(data, "evnt")
    whole = Statistics.of(data, "event")
    with pytest.raises(ConfigError, match="the sum of 9 items has 45 words, received"):
        Statistics.from_words(whole.words(), 9, "event")
    for regularisation in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="regularisation must be a positive number"):
            ease(whole, regularisation)
    with pytest.raises(ConfigError, match="weighting must be one of event, user, received 'evnt'"):
        Statistics.from_words(whole.words(), data.num_items, "evnt")
    with pytest.raises(ConfigError, match="a sum by user has words of uint64, received uint32"):
        Statistics.from_words(whole.words(), data.num_items, "user")
    with pytest.raises(ConfigError, match="received sums weighted by event"):
        graph_filter(whole, whole.gram_II.diagonal())
