import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.evaluation import Report, compare
from lanner.evaluation.intervals import bootstrap_means, interval


def report(values, rows=None, name="one"):
    return Report(name, np.arange(len(values)) if rows is None else rows, {"ndcg_at_10": np.asarray(values, float)})


def test_interval_of_a_mean_is_the_normal_one_for_many_users():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    low, high = interval(bootstrap_means(values[:, None], resamples=2000))[:, 0]
    expected = 1.96 * values.std() / np.sqrt(4000)
    assert high - values.mean() == pytest.approx(expected, rel=0.1)
    assert values.mean() - low == pytest.approx(expected, rel=0.1)


def test_seed_decides_the_draws():
    values = np.random.default_rng(0).random((50, 2))
    first, again, other = (bootstrap_means(values, resamples=100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_absent_values_are_left_out():
    values = np.array([[1.0, np.nan], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    means = bootstrap_means(values, resamples=200)
    assert (means[:, 0] == 1).all()
    assert np.nanmin(means[:, 1]) == np.nanmax(means[:, 1]) == 2


def test_weighted_means():
    values, weights = np.array([[1.0], [4.0]]), np.array([[3.0], [1.0]])
    assert {round(mean, 12) for mean in bootstrap_means(values, weights, 300)[:, 0]} == {1.0, 1.75, 4.0}


def test_comparison_finds_a_small_steady_gain_that_unpaired_intervals_miss():
    rng = np.random.default_rng(0)
    base = rng.random(500)
    better = base + rng.normal(0.01, 0.03, 500)
    first, second = report(better), report(base)
    assert first.ci95["ndcg_at_10"][0] < second.ci95["ndcg_at_10"][1]
    comparison = compare(first, second, "ndcg_at_10")
    assert comparison.difference == pytest.approx(better.mean() - base.mean())
    assert 0 < comparison.ci95[0] < comparison.difference < comparison.ci95[1]
    assert comparison.significant
    assert comparison.p_t < 1e-4
    assert comparison.p_wilcoxon < 1e-4


def test_comparison_of_noise_is_not_significant():
    rng = np.random.default_rng(3)
    comparison = compare(report(rng.random(400)), report(rng.random(400)), "ndcg_at_10")
    assert not comparison.significant
    assert comparison.p_t > 0.05


def test_comparison_with_itself():
    one = report([0.1, 0.5, 0.3])
    comparison = compare(one, one, "ndcg_at_10")
    assert (comparison.difference, comparison.ci95, comparison.p_wilcoxon, comparison.p_t) == (0, (0, 0), 1, 1)
    assert not comparison.significant


def test_reports_that_cannot_be_paired():
    with pytest.raises(ConfigError, match="cannot be paired"):
        compare(report([1, 2]), report([1, 2], rows=np.array([0, 3])), "ndcg_at_10")
    with pytest.raises(ConfigError, match="no metric 'recall_at_5'"):
        compare(report([1, 2]), report([1, 2]), "recall_at_5")
