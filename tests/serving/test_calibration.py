"""Batch latency calibration at worker start."""

import time

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.serving.calibration import BATCH_SIZES, measure_profile, typical_and_slow
from lanner.serving.scheduler import VariantId

FULL, SMALL = VariantId("here", "full"), VariantId("here", "small")


def ranker(seconds, worked):
    def rank(variant, queries):
        worked.append((variant, len(queries)))
        time.sleep(seconds * len(queries))
        return queries

    return rank


def test_every_variant_and_size_is_timed_within_the_budget():
    worked, begun = [], time.perf_counter()
    profile = measure_profile(ranker(0.0005, worked), (FULL, SMALL), [1, 2, 3], budget_s=0.2)
    assert time.perf_counter() - begun < 0.8
    for variant in (FULL, SMALL):
        assert tuple(profile.measured[variant]) == BATCH_SIZES
        assert profile.curve(variant).p50_s(1) >= 0.0005
        assert profile.curve(variant).p50_s(16) >= 0.008


def test_what_takes_longer_than_the_budget_is_timed_a_few_times_in_small_batches():
    worked = []
    profile = measure_profile(ranker(0.02, worked), (FULL,), [1], budget_s=0.05)
    assert worked == [(FULL, 1)] * 4
    assert profile.curve(FULL).largest == 1


def test_a_query_that_fails_ends_the_calibration():
    with pytest.raises(ConfigError, match="no"):
        measure_profile(lambda variant, queries: [ConfigError("no")] * len(queries), (FULL,), [1])


def test_a_moment_in_which_the_machine_stood_still_is_no_time_of_a_batch():
    milliseconds = np.linspace(1, 2, 40)
    p50, p99 = typical_and_slow(np.append(milliseconds, 6_000))
    assert p99 == pytest.approx(np.percentile(milliseconds, 99))
    assert p50 == pytest.approx(1.51, abs=0.01)


def test_what_varies_is_slow_now_and_then():
    assert typical_and_slow(np.array([1.0] * 90 + [7.0] * 10)) == (1, 7)


def test_a_pause_among_three_times_leaves_the_slow_time_no_shorter_than_the_typical_one():
    assert typical_and_slow(np.array([0.2, 0.3, 5.0])) == (0.3, 0.3)
