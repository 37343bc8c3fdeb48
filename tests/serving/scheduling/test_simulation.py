"""The simulator against textbook queues, and the policy against overload."""

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.serving.scheduling import LatencyProfile, Policy, SchedulerConfig
from lanner.serving.scheduling.arrivals import like_timestamps, poisson
from lanner.serving.scheduling.fixed_window import FixedWindow
from lanner.serving.scheduling.simulation import ANSWERED, Outcomes, Shell, log_normal, simulate

LADDER = ("full", "int8", "pruned", "distilled", "popularity")
ALONE_MS = {"full": 10.0, "int8": 5.0, "pruned": 3.5, "distilled": 1.5, "popularity": 0.2}
WORKERS = {"cpu": 2}
WITHIN_S = 0.1
FULL_PER_S, INT8_PER_S = 408, 911
"""What two workers carry of the two best variants, with batches that take half of the deadline at most."""


def measured() -> LatencyProfile:
    """A fixed part and one by request; the 99th percentile 35 % above the median."""
    medians = {variant: {size: ms * (0.6 + 0.4 * size) for size in (1, 8, 32, 64)} for variant, ms in ALONE_MS.items()}
    times = {variant: {size: (ms, 1.35 * ms) for size, ms in table.items()} for variant, table in medians.items()}
    return LatencyProfile({"cpu": times})


def elastic(ladder=LADDER) -> Policy:
    return Policy(measured(), ladder, WORKERS)


def window() -> FixedWindow:
    return FixedWindow(measured(), "full", WORKERS, window_s=0.005, batch=16, queue_limit=64)


def run(replicas, arrivals, balance="least") -> Outcomes:
    return simulate(replicas, 2 * len(replicas), arrivals, WITHIN_S, log_normal(measured()), 3, balance)


def mean_wait(service, load: float, requests: int, seed: int) -> float:
    """Mean seconds in the queue of one server that serves one request a second, one at a time."""
    profile = LatencyProfile({"cpu": {"full": {1: (1000, 1000)}}})
    server = Policy(profile, ("full",), {"cpu": 1}, SchedulerConfig(queue_limit=10**6))
    outcomes = simulate([server], 1, poisson([(load, requests / load)], seed), 1e9, service, seed)
    assert (outcomes.fates == ANSWERED).all()
    assert outcomes.report().utilisation == pytest.approx(load, rel=0.03)
    return float((outcomes.ends - outcomes.arrivals).mean()) - 1


def test_mean_wait_with_exponential_service_is_that_of_m_m_1():
    wait = mean_wait(lambda _, random: random.exponential(1.0), load=0.5, requests=60_000, seed=2)
    assert wait == pytest.approx(0.5 / (1 - 0.5), rel=0.05)


def test_mean_wait_with_constant_service_is_that_of_m_d_1():
    wait = mean_wait(lambda _, __: 1.0, load=0.7, requests=40_000, seed=1)
    assert wait == pytest.approx(0.7 / (2 * (1 - 0.7)), rel=0.05)


def test_mean_wait_for_the_shell_is_that_of_m_d_1():
    load, seconds = 0.8, 0.001
    arrivals = poisson([(load / seconds, 60.0)], 4)
    profile = LatencyProfile({"cpu": {"full": {1: (10.0, 10.0)}}})
    shell, too_soon_s = Shell(seconds, 0.0, "popularity"), seconds / 2
    server = Policy(profile, ("full",), {"cpu": 1})
    outcomes = simulate([server], 1, arrivals, too_soon_s, lambda _, __: 1e-9, 1, shell=shell)
    assert set(outcomes.variants) == {"popularity"}
    wait_s = float((outcomes.ends - outcomes.arrivals).mean()) - seconds
    assert wait_s == pytest.approx(seconds * load / (2 * (1 - load)), rel=0.1)


def test_a_replica_hears_how_busy_its_shell_is_and_answers_wait_for_it(monkeypatch):
    heard: list[float] = []
    monkeypatch.setattr(Policy, "set_busy", lambda self, share: heard.append(share))
    outcomes = simulate(
        [elastic()], 2, np.arange(0, 4, 0.01), WITHIN_S, lambda _, __: 0.004, 1, shell=Shell(0.001, 0.002)
    )
    assert heard[1:-1] == pytest.approx([0.3] * len(heard[1:-1]), abs=0.02)
    assert len(heard) == pytest.approx(4 / 0.25, abs=1)
    np.testing.assert_allclose(outcomes.ends - outcomes.arrivals, 0.001 + 0.004 + 0.002, atol=1e-6)


def test_workers_with_interpreters_of_their_own_leave_the_shell_alone(monkeypatch):
    heard: list[float] = []
    monkeypatch.setattr(Policy, "set_busy", lambda self, share: heard.append(share))
    shell = Shell(0.001, 0.002, is_alone=True)
    simulate([elastic()], 2, np.arange(0, 2, 0.01), WITHIN_S, lambda _, __: 0.004, 1, shell=shell)
    assert set(heard) == {0.0}


def test_whom_a_batch_keeps_too_long_the_spare_variant_answers():
    server = Policy(measured(), ("full",), WORKERS, sheds=True)
    found = simulate([server], 1, np.array([0.0]), 1.0, lambda batch, random: 5.0, 0, shell=Shell(0.0, 0.01, "spare"))
    assert (found.ends.tolist(), found.variants) == ([0.76], ["spare"])


def test_service_times_have_the_percentiles_that_were_measured():
    seen, true = (LatencyProfile({"cpu": {"full": {1: (10, 30)}}}) for _ in range(2))
    server = Policy(seen, ("full",), {"cpu": 1})
    report = simulate([server], 1, np.arange(20_000.0), 0.9, log_normal(true), seed=5).report()
    assert report.p50_ms == pytest.approx(10, rel=0.03)
    assert report.p99_ms == pytest.approx(30, rel=0.05)


def test_the_same_seed_gives_the_same_outcomes():
    arrivals = poisson([(600, 2), (2000, 2), (300, 2)], seed=4)
    first, second = (run([elastic(), elastic()], arrivals, "two") for _ in range(2))
    assert first.report() == second.report()
    np.testing.assert_array_equal(first.ends, second.ends)


OVERLOAD = poisson([(0.5 * FULL_PER_S, 5), (3 * FULL_PER_S, 60), (0.5 * FULL_PER_S, 10)], seed=1)


@pytest.fixture(scope="module")
def ladder_overloaded() -> Outcomes:
    return run([elastic()], OVERLOAD)


def test_three_times_the_load_of_the_top_rung_is_answered_in_time(ladder_overloaded):
    report = ladder_overloaded.report()
    assert report.in_time >= 0.99 * report.offered
    assert report.p99_ms <= 1e3 * WITHIN_S
    assert len(report.variant_shares) > 1
    assert report.p50_ms <= 1e3 * WITHIN_S / 4, "the queue is drained, not held at the edge of its deadlines"


def test_the_top_rung_serves_again_within_five_seconds(ladder_overloaded):
    assert 0 < ladder_overloaded.recovered_s(65, "full") <= 5


def test_twice_as_many_are_in_time_as_with_a_fixed_window(ladder_overloaded):
    fixed = run([window()], OVERLOAD).report()
    assert ladder_overloaded.report().in_time >= 2 * fixed.in_time
    alone = run([elastic(("full",))], OVERLOAD).report()
    assert alone.in_time >= 2 * fixed.in_time, "deadlines alone do that much, without a ladder"
    assert ladder_overloaded.report().in_time >= 2 * alone.in_time, "and the ladder as much again"


def test_beyond_the_lowest_rung_accepted_requests_are_in_time_and_goodput_is_kept():
    ladder = ("full", "int8")
    saturated = max(
        run([elastic(ladder)], poisson([(share * INT8_PER_S, 10)], 2)).report().goodput_per_s
        for share in (0.8, 0.9, 1.0)
    )
    report = run([elastic(ladder)], poisson([(3 * INT8_PER_S, 60)], 2)).report()
    accepted = report.offered - report.rejected
    assert report.rejected > 0
    assert report.p99_ms <= 1e3 * WITHIN_S
    assert report.missed + report.late <= 0.01 * accepted
    assert report.goodput_per_s >= 0.8 * saturated


def test_a_light_load_is_served_from_the_top_only():
    report = run([elastic()], poisson([(0.6 * FULL_PER_S, 20)], 5)).report()
    assert report.variant_shares == {"full": 1.0}
    assert report.in_time == report.offered


def test_a_load_that_the_better_rung_just_carries_does_not_bring_it_back():
    burst = np.arange(0, 2, 1 / (3 * FULL_PER_S))
    just_carried = np.arange(2, 12, 1 / (0.88 * FULL_PER_S))
    outcomes = run([elastic()], np.concatenate([burst, just_carried]))
    assert set(outcomes.variants[-2000:]) == {"int8"}


@pytest.mark.parametrize("balance", ["least", "two"])
def test_replicas_share_the_load(balance):
    arrivals = poisson([(0.7 * 4 * FULL_PER_S, 10)], 6)
    outcomes = run([elastic() for _ in range(4)], arrivals, balance)
    report = outcomes.report()
    assert report.in_time >= 0.99 * report.offered
    assert report.utilisation < 1
    alone = run([elastic()], arrivals).report()
    assert report.variant_shares["full"] > alone.variant_shares.get("full", 0)


def test_256_replicas():
    report = run([elastic() for _ in range(256)], poisson([(20_000, 1)], 7), "two").report()
    assert report.in_time == report.offered


def test_a_fixed_window_waits_for_its_window_or_its_batch():
    early = run([window()], np.array([0.0, 0.004, 0.2])).report()
    assert early.p50_ms >= 10
    full = simulate([window()], 2, np.zeros(16), WITHIN_S, lambda _, __: 0.001, 1)
    np.testing.assert_allclose(full.ends, 0.001)
    crowded = simulate([window()], 2, np.zeros(200), WITHIN_S, lambda _, __: 0.001, 1).report()
    assert (crowded.rejected, crowded.in_time) == (200 - 64 - 32, 64 + 32)


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
