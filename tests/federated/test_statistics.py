"""Closed forms from sums match those of the pooled events; noise hides any one user."""

import numpy as np
import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, DataError
from lanner.federated.privacy import BY_USER, Privacy, Release
from lanner.federated.secure_sum import total_of
from lanner.federated.statistics import Layout, Statistics, counts_form, ease, graph_filter, private, users_of_items
from lanner.models.ease import EASE, EASEConfig
from lanner.models.graph_filter import GraphFilter, GraphFilterConfig


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


def summed(values, form):
    """The sum of the clients' values as words, without masks."""
    packed = [form.packed(form.encoded(one)) for one in values]
    return form.decoded(total_of([form.unpacked(one) for one in packed]))


def of_clients(data, count, weighting):
    """The statistics of all clients together, by the sums that they send."""
    clients = parts(data, count)
    counts_I = summed([users_of_items(one, 60) for one in clients], counts_form(data.num_items, count, 60))
    layout = Layout.by_event(counts_I) if weighting == "event" else Layout.by_user(data.num_items)
    return layout.statistics(summed([layout.values(Statistics.of(one, weighting)) for one in clients], layout.form))


@pytest.mark.parametrize("weighting", ["event", "user"])
def test_the_parts_add_up_to_the_whole(data, weighting):
    found = of_clients(data, 5, weighting)
    np.testing.assert_allclose(
        found.gram_II, Statistics.of(data, weighting).gram_II, rtol=0, atol=0 if weighting == "event" else 5 * 2**-33
    )


def test_ease_from_sums_is_ease(data):
    ours = ease(of_clients(data, 4, "event"), 20.0)
    theirs = EASE(EASEConfig(regularisation=20.0)).fit(data).export()
    users = data.user_batch(np.arange(10))
    np.testing.assert_allclose(ours.score(users), theirs.score(users), atol=1e-5)


def skewed():
    """Each item has the users of the next rarer one; one item has none, one has all 60."""
    pairs = [(user, item) for item, first in enumerate((0, 0, 52, 53, 29, 58, 59)) for user in range(first, 60)]
    events = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    dataset = Dataset.from_frames(events)
    return dataset.with_interactions(dataset.interactions.take(dataset.interactions.item != 1))


def test_each_pair_has_as_many_bits_as_the_rarer_item_needs():
    data = skewed()
    layout = Layout.by_event(users_of_items(data, 60))
    # Items with users: 60 (6 bits), 31 (5), 8 (4), 7 (3), 2 (2), 1 (1); the one without has no words.
    assert layout.form.runs == ((1, 5), (2, 4), (3, 3), (4, 2), (5, 1))
    assert layout.form.num_bytes == 1 + 1 + 2 + 1 + 1
    whole = Statistics.of(data, "event")
    found = of_clients(data, 7, "event")
    np.testing.assert_array_equal(found.gram_II, whole.gram_II)
    # Every pair has the users of its rarer item, the most that its bits are for.
    assert layout.values(whole).tolist() == [31, 8, 8, 7, 7, 7, 2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_the_words_of_a_count_follow_from_what_is_public(data):
    assert counts_form(3706, 100, 61).runs == ((3706, 13),)
    assert counts_form(5, 1, 1).runs == ((5, 1),)
    with pytest.raises(ConfigError, match="must be at least 1, received 5, 0, 7"):
        counts_form(5, 0, 7)
    with pytest.raises(DataError, match="the client has 60 users, and the clients agreed on at most 59 each"):
        users_of_items(data, 59)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 6},
        {"rank": 0, "popularity_exponent": 0.3},
        {"rank": 6, "popularity_exponent": -0.2, "low_pass_weight": 0.7, "low_pass_exponent": 0.2},
        {"rank": 100},
    ],
)
def test_the_graph_filter_from_sums_is_the_graph_filter(data, settings):
    config = GraphFilterConfig(**settings, power_iterations=300)
    counts_I = users_of_items(data, 60)
    ours = graph_filter(of_clients(data, 4, "user"), counts_I, config)
    theirs = GraphFilter(config).fit(data).export()
    users = data.user_batch(np.arange(10))
    np.testing.assert_allclose(ours.score(users), theirs.score(users), atol=1e-5 * np.abs(theirs.score(users)).max())
    np.testing.assert_array_equal(ours.popularity_I, theirs.popularity_I)


def test_an_item_without_users_has_no_part_in_the_graph_filter():
    data = skewed()
    found = graph_filter(Statistics.of(data, "user"), users_of_items(data, 60), GraphFilterConfig(rank=3))
    assert np.isfinite(found.score(data.user_batch(np.arange(10)))).all()
    np.testing.assert_allclose(found.source_ID[1], 0, atol=1e-12)
    assert found.popularity_I[1] == 0


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
    layout = Layout.by_event(whole.gram_II.diagonal())
    with pytest.raises(ConfigError, match=r"the sum over 25 items has 300 values, received \[301\]"):
        layout.statistics(np.zeros(301))
    for regularisation in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="regularisation must be a positive number"):
            ease(whole, regularisation)
    with pytest.raises(ConfigError, match="the sum is weighted by user over 25 items, received sums by event over 25"):
        Layout.by_user(25).values(whole)
    with pytest.raises(ConfigError, match="weighted by event over 25 items, received sums by event over 24 items"):
        layout.values(Statistics(whole.gram_II[:24, :24], "event"))
    with pytest.raises(ConfigError, match="received sums weighted by event"):
        graph_filter(whole, whole.gram_II.diagonal())
    with pytest.raises(ConfigError, match="sums weighted by user need user_exponent=1"):
        graph_filter(Statistics.of(data, "user"), whole.gram_II.diagonal(), GraphFilterConfig(user_exponent=0.3))
