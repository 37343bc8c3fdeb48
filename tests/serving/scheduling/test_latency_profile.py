"""Measured times, interpolated and corrected."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner.errors import ConfigError
from lanner.serving.scheduling import LatencyProfile
from lanner.serving.scheduling.profile import FASTEST, SLOWEST, Curve

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


def test_observations_correct_a_curve_within_bounds():
    profile = LatencyProfile({"cpu": {"full": {1: (10, 10)}}})
    for _ in range(200):
        profile.observe("cpu", "full", 1, 0.02)
    assert profile.curve("cpu", "full").p99_s(1) == pytest.approx(0.02, rel=1e-3)
    for _ in range(500):
        slowest = profile.observe("cpu", "full", 1, 1e6)
    for _ in range(500):
        fastest = profile.observe("cpu", "full", 1, 0.0)
    assert (slowest, fastest) == (pytest.approx(SLOWEST), pytest.approx(FASTEST))


def test_json_and_back():
    table = {"cpu": {"full": {"1": [2.0, 4.0], "8": [9.0, 9.5]}}, "cuda": {"int8": {"64": [1.0, 1.0]}}}
    profile = LatencyProfile.from_dict(json.loads(json.dumps(table)))
    profile.observe("cpu", "full", 1, 1.0)
    assert profile.to_dict() == table
    assert profile.curve("cuda", "full") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "empty"),
        ({"cpu": {"full": {}}}, "no batch size"),
        ({"cpu": {"full": {"0": [1, 2]}}}, "batch size 0"),
        ({"cpu": {"full": {"1": [0, 2]}}}, "p50 is 0"),
        ({"cpu": {"full": {"1": [3, 2]}}}, "0 < p50 <= p99"),
        ({"cpu": {"full": {"1": [1, math.inf]}}}, "finite"),
        ({"cpu": {"full": {"1": [math.nan, 1]}}}, "finite"),
        ({"cpu": {"full": {"one": [1, 1]}}}, "not of the form"),
        ({"cpu": {"full": {"1": 3}}}, "not of the form"),
        ({"cpu": [1]}, "not of the form"),
    ],
)
def test_what_was_not_measured_properly_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        LatencyProfile.from_dict(table)


def test_a_variant_last_seen_slow_comes_down_with_another_of_its_backend_and_none_goes_up():
    times = {1: (1.0, 1.2)}
    profile = LatencyProfile({"cpu": {"full": times, "small": times}, "cuda": {"full": times}})
    for _ in range(200):
        profile.observe("cpu", "full", 1, 0.004)
        profile.observe("cuda", "full", 1, 0.004)
    assert profile.ratios()["cpu", "small"] == 1.0
    for _ in range(200):
        profile.observe("cpu", "small", 1, 0.0015)
    ratios = profile.ratios()
    assert ratios["cpu", "full"] == pytest.approx(ratios["cpu", "small"], rel=0.02)
    assert ratios["cuda", "full"] > 3
