import math
import random
import sys
import time

import pytest

from lanner.serving.rolling_stats import RollingStats


def fed(began=100.0, until=110.0, per_s=50, milliseconds=2.0):
    stats = RollingStats(began)
    for n in range(int((until - began) * per_s)):
        stats.answered(began + n / per_s, milliseconds, "int8" if n % 4 else "full", "onnx", n % 2 == 0)
    return stats


def test_rates_and_shares_are_those_of_the_window():
    figures = fed().figures(110.0)
    assert figures.requests_per_s == pytest.approx(50, rel=0.05)
    assert figures.goodput_per_s == pytest.approx(25, rel=0.05)
    assert figures.by_variant == pytest.approx({"full": 0.25, "int8": 0.75}, abs=0.02)
    assert figures.by_backend == {"onnx": 1.0}
    assert (figures.refused_per_s, 4.5 <= figures.window_s <= 5.0) == (0, True)


def test_what_is_older_than_the_window_is_forgotten():
    stats = fed(until=105.0)
    assert stats.figures(107.5).requests_per_s == pytest.approx(25, rel=0.15)
    late = stats.figures(130.0)
    assert (late.requests_per_s, late.p50_ms, late.p99_ms, late.by_variant, late.by_backend) == (0, None, None, {}, {})
    stats.answered(131.0, 9.0, "full", "onnx", True)
    assert stats.figures(131.0).p50_ms == pytest.approx(9.0, rel=0.03)


def test_a_server_that_has_only_begun_is_measured_over_its_life():
    stats = fed(until=101.0)
    assert stats.figures(101.0).requests_per_s == pytest.approx(50, rel=0.05)
    assert stats.figures(101.0).window_s == pytest.approx(1.0)
    one = RollingStats(0.0)
    one.refused(0.0)
    assert one.figures(0.0).refused_per_s == 2.0


def test_refusals_are_requests_but_no_answers():
    stats = RollingStats(0.0)
    for n in range(100):
        stats.refused(n / 20)
    figures = stats.figures(4.99)
    assert figures.refused_per_s == figures.requests_per_s == pytest.approx(20, rel=0.05)
    assert (figures.goodput_per_s, figures.p99_ms) == (0, None)


def test_quantiles_are_near_the_true_ones():
    chance, stats = random.Random(1), RollingStats(0.0)
    values = sorted(math.exp(chance.gauss(1, 1)) for _ in range(5000))
    for value in values:
        stats.answered(1.0, value, "full", "onnx", True)
    figures = stats.figures(1.0)
    assert figures.p50_ms == pytest.approx(values[2500], rel=0.04)
    assert figures.p99_ms == pytest.approx(values[4950], rel=0.04)


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, math.nan, 1e-9, 1e12, math.inf])
def test_no_latency_makes_it_fail(milliseconds):
    stats = RollingStats(0.0)
    stats.answered(0.1, milliseconds, "full", "onnx", False)
    assert 0 < stats.figures(0.2).p99_ms < 300_000


def test_a_time_that_falls_back_is_counted_now():
    stats = RollingStats(100.0)
    stats.answered(104.0, 1.0, "full", "onnx", True)
    stats.answered(101.0, 1.0, "full", "onnx", True)
    assert stats.figures(104.0).requests_per_s == pytest.approx(0.5)


def test_memory_is_bounded():
    stats = RollingStats(0.0)
    for n in range(5000):
        stats.answered(n * 0.7, 1.0, "full", "onnx", True)
    assert sum(sys.getsizeof(one.latencies) for one in stats._slots) < 40_000
    assert len(stats._slots) == 10


def test_counting_costs_little():
    stats = RollingStats(0.0)

    def seconds_each(times=2000):
        began = time.perf_counter()
        for n in range(times):
            stats.answered(n * 0.001, 1.7, "int8", "onnx", True)
        return (time.perf_counter() - began) / times

    best = min(seconds_each() for _ in range(20))
    assert best < 2e-6, f"{best * 1e6:.2f} µs"
