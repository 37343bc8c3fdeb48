import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lanner.evaluation import metrics

HITS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]], bool)
RELEVANT = np.array([3, 1, 2])
GAIN = 1 / np.log2(np.arange(2, 8))


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("recall", 2, [1 / 3, 0, 1 / 2]),
        ("recall", 4, [2 / 3, 0, 1]),
        ("precision", 2, [1 / 2, 0, 1 / 2]),
        ("precision", 5, [2 / 5, 0, 2 / 5]),
        ("hr", 1, [1, 0, 0]),
        ("hr", 4, [1, 0, 1]),
        ("mrr", 1, [1, 0, 0]),
        ("mrr", 4, [1, 0, 1 / 2]),
        ("map", 4, [(1 + 2 / 3) / 3, 0, (1 / 2 + 2 / 4) / 2]),
        ("map", 2, [1 / 3, 0, 1 / 4]),
        ("ndcg", 2, [GAIN[0] / GAIN[:2].sum(), 0, GAIN[1] / GAIN[:2].sum()]),
        ("ndcg", 4, [GAIN[[0, 2]].sum() / GAIN[:3].sum(), 0, GAIN[[1, 3]].sum() / GAIN[:2].sum()]),
        ("ndcg", 6, [GAIN[[0, 2]].sum() / GAIN[:3].sum(), 0, GAIN[[1, 3]].sum() / GAIN[:2].sum()]),
    ],
)
def test_by_hand(name, k, expected):
    np.testing.assert_allclose(metrics.RANKED[name](HITS, RELEVANT, k), expected, atol=1e-15)


def test_coverage_novelty_and_diversity_by_hand():
    items = np.array([[0, 1], [1, -1], [-1, -1]], np.int32)
    assert metrics.coverage(items, 2, 4) == 0.5
    assert metrics.coverage(items, 1, 4) == 0.5
    popularity = np.array([4, 2, 0, 2])
    np.testing.assert_allclose(metrics.novelty(items, 2, popularity), [(1 + 2) / 2, 2, np.nan])
    vectors = np.array([[2, 0], [1, 1], [0, 0], [0, 3]], np.float32)
    np.testing.assert_allclose(metrics.diversity(items, 2, vectors), [1 - np.sqrt(0.5), np.nan, np.nan], rtol=1e-6)
    three = np.array([[0, 1, 3], [0, 2, 3]], np.int32)
    expected = [1 - 2 * np.sqrt(0.5) / 3, 1]
    np.testing.assert_allclose(metrics.diversity(three, 3, vectors), expected, rtol=1e-6)


hit_tables = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 15)))


@settings(max_examples=60, deadline=None)
@given(hits=hit_tables, more=st.integers(0, 5), k=st.integers(1, 20), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", metrics.RANKED)
def test_between_0_and_1_and_users_may_come_in_any_order(name, hits, more, k, seed):
    relevant = np.maximum(hits.sum(1) + more, 1)
    values = metrics.RANKED[name](hits, relevant, k)
    assert values.shape == (len(hits),)
    assert (values >= 0).all()
    assert (values <= 1 + 1e-12).all()
    order = np.random.default_rng(seed).permutation(len(hits))
    np.testing.assert_array_equal(metrics.RANKED[name](hits[order], relevant[order], k), values[order])


@settings(max_examples=60, deadline=None)
@given(relevant=st.lists(st.integers(1, 10), min_size=1, max_size=8), k=st.integers(1, 12))
def test_perfect_ranking_gives_1_where_1_can_be_had(relevant, k):
    counts = np.array(relevant)
    hits = np.arange(12) < counts[:, None]
    for name in ("ndcg", "hr", "mrr"):
        np.testing.assert_allclose(metrics.RANKED[name](hits, counts, k), 1)
    reachable = np.minimum(counts, k)
    for name in ("recall", "map"):
        np.testing.assert_allclose(metrics.RANKED[name](hits, counts, k), reachable / counts)
    np.testing.assert_allclose(metrics.precision(hits, counts, k), reachable / k)


@settings(max_examples=60, deadline=None)
@given(hits=hit_tables, k=st.integers(1, 15))
def test_moving_a_hit_up_never_hurts(hits, k):
    relevant = np.maximum(hits.sum(1), 1)
    best = np.sort(hits, axis=1)[:, ::-1]
    for metric in metrics.RANKED.values():
        assert (metric(best, relevant, k) >= metric(hits, relevant, k) - 1e-12).all()
