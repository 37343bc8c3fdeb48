"""Measured times, interpolated and corrected."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner.errors import ConfigError
from lanner.serving.scheduler.latency_profile import FASTEST, SLOWEST, Curve, LatencyProfile, VariantId

FULL, SMALL, OTHER = VariantId("cpu", "full"), VariantId("cpu", "small"), VariantId("cuda", "full")

times = st.dictionaries(st.integers(1, 200), st.tuples(st.floats(0.01, 100), st.floats(1, 5)), min_size=1).map(
    lambda table: {size: (p50, p50 * spread) for size, (p50, spread) in table.items()}
)


def test_sizes_between_measured_ones_are_interpolated():
    curve = Curve({1: (2, 4), 3: (4, 8)})
    assert [round(1e3 * curve.p50_s(size), 9) for size in (1, 2, 3)] == [2, 3, 4]
    assert curve.p99_s(2) == pytest.approx(6e-3)


def test_the_mean_is_that_of_the_log_normal_through_both_percentiles():
    sigma = 0.4
    curve = Curve({1: (10, 10 * math.exp(2.3263478740408408 * sigma))})
    assert curve.mean_s(1) == pytest.approx(10e-3 * math.exp(sigma**2 / 2))


@given(times)
def test_a_larger_batch_is_never_predicted_to_be_faster(table):
    curve = Curve(table)
    p99 = [curve.p99_s(size) for size in range(curve.largest + 1)]
    assert p99 == sorted(p99)


@given(times, st.floats(-1, 1), st.floats(0.3, 5))
def test_the_largest_batch_within_a_time_is_that(table, seconds, observed):
    curve = Curve(table)
    curve.observe(1, curve.mean_s(1) * observed)
    size = curve.largest_within(seconds)
    assert size == 0 or curve.p99_s(size) <= seconds + 1e-12
    assert size == curve.largest or curve.p99_s(size + 1) > seconds - 1e-12


@given(times, st.floats(0, 1))
def test_the_largest_batch_by_mean_is_that(table, seconds):
    curve = Curve(table)
    size = curve.largest_mean_within(seconds)
    assert size == 0 or curve.mean_s(size) <= seconds
    assert size == curve.largest or curve.mean_s(size + 1) > seconds


def test_observations_correct_a_curve_within_bounds():
    profile = LatencyProfile({FULL: {1: (10, 10)}})
    for _ in range(200):
        profile.observe(FULL, 1, 0.02)
    assert profile.curve(FULL).p99_s(1) == pytest.approx(0.02, rel=1e-3)
    for seconds, bound in ((1e6, SLOWEST), (0.0, FASTEST)):
        for _ in range(500):
            profile.observe(FULL, 1, seconds)
        assert profile.ratios() == {FULL: pytest.approx(bound)}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "empty"),
        ({FULL: {}}, "no batch size"),
        ({FULL: {0: (1, 2)}}, "batch size 0"),
        ({FULL: {1: (0, 2)}}, "p50 is 0"),
        ({FULL: {1: (3, 2)}}, "0 < p50 <= p99"),
        ({FULL: {1: (1, math.inf)}}, "finite"),
        ({FULL: {1: (math.nan, 1)}}, "finite"),
    ],
)
def test_what_was_not_measured_properly_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        LatencyProfile(table)


def test_a_variant_last_seen_slow_recovers_with_another_of_its_backend_and_none_goes_up():
    times = {1: (1.0, 1.2)}
    profile = LatencyProfile({FULL: times, SMALL: times, OTHER: times})
    for _ in range(200):
        profile.observe(FULL, 1, 0.004)
        profile.observe(OTHER, 1, 0.004)
    assert profile.ratios()[SMALL] == 1.0
    for _ in range(200):
        profile.observe(SMALL, 1, 0.0015)
    ratios = profile.ratios()
    assert ratios[FULL] == pytest.approx(ratios[SMALL], rel=0.02)
    assert ratios[OTHER] > 3
