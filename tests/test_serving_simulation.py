"""The simulator against textbook queues, and the policy against overload."""

import numpy as np
import pytest

from benchmarks._serving_arrivals import like_timestamps, poisson
from benchmarks._serving_simulation import Loop, fixed_window, log_normal, simulate
from lanner.errors import ConfigError
from lanner.serving.scheduler import LatencyProfile, Scheduler, SchedulerConfig, VariantId

BEST, *OTHERS, POPULAR = (VariantId("cpu", name) for name in ("full", "int8", "distilled", "popularity"))
PERSONAL = (BEST, *OTHERS)
ALONE_MS = {BEST: 0.9, OTHERS[0]: 0.7, OTHERS[1]: 0.4, POPULAR: 0.07}
WITHIN_S = 0.02
LOOP = Loop(0.00017, 0.00013)
WORKERS = 2
BEST_PER_S = 1_900
"""What the workers carry by the best variant."""


def measured() -> LatencyProfile:
    """A fixed part and one by request; the 99th percentile 50 % above the median."""
    medians = {name: {size: ms * (0.4 + 0.6 * size) for size in (1, 16)} for name, ms in ALONE_MS.items()}
    return LatencyProfile({name: {n: (ms, 1.5 * ms) for n, ms in table.items()} for name, table in medians.items()})


def scheduler(variants=PERSONAL, fallback=POPULAR) -> Scheduler:
    return Scheduler(measured(), variants, None, fallback)


def run(arrivals, make=scheduler, workers=WORKERS, loop=LOOP):
    return simulate([make() for _ in range(workers)], arrivals, WITHIN_S, log_normal(measured()), 3, loop)


def mean_wait(service, load: float, requests: int, seed: int) -> float:
    """Mean seconds in the queue of one worker that serves one request a second, one at a time."""
    profile = LatencyProfile({BEST: {1: (1000, 1000)}})
    worker = Scheduler(profile, [BEST], SchedulerConfig(queue_limit=10**6))
    outcomes = simulate([worker], poisson([(load, requests / load)], seed), 1e9, service, seed)
    assert not np.isnan(outcomes.ends).any()
    assert outcomes.report().utilisation == pytest.approx(load, rel=0.03)
    return float((outcomes.ends - outcomes.arrivals).mean()) - 1


def test_mean_wait_with_exponential_service_is_that_of_m_m_1():
    wait = mean_wait(lambda name, size, random: random.exponential(1.0), load=0.5, requests=60_000, seed=2)
    assert wait == pytest.approx(0.5 / (1 - 0.5), rel=0.05)


def test_mean_wait_with_constant_service_is_that_of_m_d_1():
    wait = mean_wait(lambda name, size, random: 1.0, load=0.7, requests=40_000, seed=1)
    assert wait == pytest.approx(0.7 / (2 * (1 - 0.7)), rel=0.05)


def test_a_lone_request_takes_what_it_is_read_ranked_and_written_in():
    outcomes = simulate([scheduler()], np.arange(0, 4, 0.01), WITHIN_S, lambda name, size, _: 0.004, 1, LOOP)
    np.testing.assert_allclose(outcomes.ends - outcomes.arrivals, 0.00017 + 0.004 + 0.00013, atol=1e-9)


def test_what_arrives_during_a_turn_waits_for_it_and_is_ranked_together():
    outcomes = simulate([scheduler()], np.array([0, 0.001, 0.002]), WITHIN_S, lambda name, size, _: 0.004, 1, LOOP)
    first, *later = (outcomes.ends - outcomes.arrivals).tolist()
    assert first == pytest.approx(0.0043)
    assert later == pytest.approx([0.0033 + 2 * 0.00017 + 0.004 + 0.00013, 0.0023 + 2 * 0.00017 + 0.004 + 0.00026])


def test_service_times_have_the_percentiles_that_were_calibrated():
    learned, true = (LatencyProfile({BEST: {1: (10, 30)}}) for _ in range(2))
    report = simulate([Scheduler(learned, [BEST])], np.arange(20_000.0), 0.9, log_normal(true), seed=5).report()
    assert report.p50_ms == pytest.approx(10, rel=0.03)
    assert report.p99_ms == pytest.approx(30, rel=0.05)


def test_the_same_seed_gives_the_same_outcomes():
    arrivals = poisson([(600, 2), (4000, 2), (300, 2)], seed=4)
    first, second = run(arrivals), run(arrivals)
    assert first.report() == second.report()
    np.testing.assert_array_equal(first.ends, second.ends)


OVERLOAD = poisson([(0.5 * BEST_PER_S, 3), (2 * BEST_PER_S, 20), (0.5 * BEST_PER_S, 3)], seed=1)


def test_twice_the_load_of_the_best_variant_is_answered_in_time_mostly_personally():
    outcomes = run(OVERLOAD)
    report = outcomes.report()
    assert report.in_time >= 0.99 * report.offered
    assert report.p99_ms <= 1e3 * WITHIN_S
    assert report.variant_shares["popularity"] <= 0.5
    assert outcomes.recovered_s(23, "full") <= 1, "the best serves again at once"


def test_deadlines_alone_and_the_variants_too_keep_more_in_time_than_a_fixed_window():
    fixed = run(OVERLOAD, lambda: fixed_window(measured(), BEST)).report()
    alone = run(OVERLOAD, lambda: scheduler([BEST], None)).report()
    assert alone.in_time >= 1.3 * fixed.in_time
    assert run(OVERLOAD).report().in_time >= 1.3 * alone.in_time


def test_beyond_the_fastest_personal_variant_goodput_is_kept_and_the_rest_refused():
    make = lambda: scheduler([BEST], None)
    saturated = max(run(poisson([(x * BEST_PER_S, 5)], 2), make).report().goodput_per_s for x in (0.8, 0.9, 1.0))
    report = run(poisson([(2 * BEST_PER_S, 20)], 2), make).report()
    assert report.refused > 0
    assert report.p99_ms <= 1e3 * WITHIN_S
    assert report.late <= 0.01 * (report.offered - report.refused)
    assert report.goodput_per_s >= 0.5 * saturated, "to refuse takes the loop as long as to read and write an answer"


def test_a_light_load_is_served_by_the_best_alone_without_waiting():
    report = run(poisson([(0.3 * BEST_PER_S, 20)], 5)).report()
    assert report.variant_shares["full"] > 0.99
    assert report.in_time == report.offered
    assert report.p50_ms < 2
    assert report.p99_ms < 5


def test_many_workers_share_the_load():
    report = run(poisson([(0.5 * BEST_PER_S / 2 * 64, 1)], 7), workers=64).report()
    assert report.in_time == report.offered
    assert 0.3 < report.utilisation < 0.7


def test_a_fixed_window_waits_for_its_window_or_its_batch():
    def at(arrivals):
        make = fixed_window(measured(), BEST, window_s=0.005, batch=16)
        return simulate([make], arrivals, WITHIN_S, lambda name, size, _: 0.001, 1)

    np.testing.assert_allclose(at(np.array([0.0, 0.004, 0.2])).ends, [0.006, 0.006, 0.206])
    np.testing.assert_allclose(at(np.zeros(16)).ends, 0.001)
    assert at(np.zeros(200)).report().refused == 200 - 64
    with pytest.raises(ConfigError, match="batch size 32"):
        fixed_window(measured(), BEST, batch=32)


def test_timestamps_keep_their_pattern_at_another_rate():
    stretched = like_timestamps([1_000, 1_010, 1_011, 1_100], rate=3.0)
    np.testing.assert_allclose(stretched, [0, 0.1, 0.11, 1.0])
    for broken in ([], [1.0], [2.0, 2.0], [1.0, float("nan")]):
        with pytest.raises(ConfigError, match="cannot stretch"):
            like_timestamps(broken, 1.0)


def test_phases_have_their_rates():
    times = poisson([(1000, 3), (0, 2), (4000, 1)], seed=1)
    counts = np.histogram(times, [0, 3, 5, 6])[0]
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2]], [3000, 4000], rtol=0.1)
    assert (np.diff(times) >= 0).all()
    with pytest.raises(ConfigError, match="a phase of"):
        poisson([(-1, 1)], seed=1)
