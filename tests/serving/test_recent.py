import math
import random
import sys
import time

import pytest

from lanner.errors import ConfigError
from lanner.serving.recent import Recent


def fed(began=100.0, until=110.0, per_s=50, milliseconds=2.0):
    recent = Recent(began)
    for n in range(int((until - began) * per_s)):
        recent.answered(began + n / per_s, milliseconds, "int8" if n % 4 else "full", "onnx", n % 2 == 0)
    return recent


def test_rates_and_shares_are_those_of_the_window():
    figures = fed().figures(110.0)
    assert figures.requests_per_s == pytest.approx(50, rel=0.05)
    assert figures.goodput_per_s == pytest.approx(25, rel=0.05)
    assert figures.by_variant == pytest.approx({"full": 0.25, "int8": 0.75}, abs=0.02)
    assert figures.by_backend == {"onnx": 1.0}
    assert (figures.refused_per_s, 4.5 <= figures.window_s <= 5.0) == (0, True)


def test_what_is_older_than_the_window_is_forgotten():
    recent = fed(until=105.0)
    assert recent.figures(107.5).requests_per_s == pytest.approx(25, rel=0.15)
    late = recent.figures(130.0)
    assert (late.requests_per_s, late.p50_ms, late.p99_ms, late.by_variant, late.by_backend) == (0, None, None, {}, {})
    recent.answered(131.0, 9.0, "full", "onnx", True)
    assert recent.figures(131.0).p50_ms == pytest.approx(9.0, rel=0.03)


def test_a_server_that_has_only_begun_is_measured_over_its_life():
    recent = fed(until=101.0)
    assert recent.figures(101.0).requests_per_s == pytest.approx(50, rel=0.05)
    assert recent.figures(101.0).window_s == pytest.approx(1.0)
    one = Recent(0.0)
    one.refused(0.0)
    assert one.figures(0.0).refused_per_s == 2.0


def test_refusals_are_requests_but_no_answers():
    recent = Recent(0.0)
    for n in range(100):
        recent.refused(n / 20)
    figures = recent.figures(4.99)
    assert figures.refused_per_s == figures.requests_per_s == pytest.approx(20, rel=0.05)
    assert (figures.goodput_per_s, figures.p99_ms) == (0, None)


def test_quantiles_are_near_the_true_ones():
    chance, recent = random.Random(1), Recent(0.0)
    values = sorted(math.exp(chance.gauss(1, 1)) for _ in range(5000))
    for value in values:
        recent.answered(1.0, value, "full", "onnx", True)
    figures = recent.figures(1.0)
    assert figures.p50_ms == pytest.approx(values[2500], rel=0.04)
    assert figures.p99_ms == pytest.approx(values[4950], rel=0.04)


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, math.nan, 1e-9, 1e12, math.inf])
def test_no_latency_makes_it_fail(milliseconds):
    recent = Recent(0.0)
    recent.answered(0.1, milliseconds, "full", "onnx", False)
    assert 0 < recent.figures(0.2).p99_ms < 300_000


def test_a_time_that_falls_back_is_counted_now():
    recent = Recent(100.0)
    recent.answered(104.0, 1.0, "full", "onnx", True)
    recent.answered(101.0, 1.0, "full", "onnx", True)
    assert recent.figures(104.0).requests_per_s == pytest.approx(0.5)


def test_memory_is_bounded():
    recent = Recent(0.0)
    for n in range(5000):
        recent.answered(n * 0.7, 1.0, "full", "onnx", True)
    assert sum(sys.getsizeof(one.latencies) for one in recent._slots) < 40_000
    assert len(recent._slots) == 10


def test_counting_costs_little():
    recent = Recent(0.0)

    def seconds_each(times=2000):
        began = time.perf_counter()
        for n in range(times):
            recent.answered(n * 0.001, 1.7, "int8", "onnx", True)
        return (time.perf_counter() - began) / times

    best = min(seconds_each() for _ in range(20))
    assert best < 2e-6, f"{best * 1e6:.2f} µs"


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_window_that_cannot_be_is_refused(seconds):
    with pytest.raises(ConfigError, match="window"):
        Recent(0.0, seconds)
