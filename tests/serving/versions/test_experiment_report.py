"""The report against handmade logs and simulated experiments with known truth."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.serving.messages import Event
from lanner.serving.store import Exposure, StoredEvent, open_store
from lanner.serving.versions.experiments import Experiment
from lanner.serving.versions.report import (
    PER_EXPOSURE,
    PER_USER,
    ExperimentReport,
    experiment_report,
    sample_ratio_p,
)

HALVES = {"champion": 0.5, "challenger": 0.5}
HOUR = 3600.0
RUNS = 200


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "events.db"))
    yield opened
    opened.close()


def show(store, user: str, arm: str, timestamp: float, *items: str, experiment: str = "ladder") -> None:
    store.expose([Exposure(experiment, arm, user, timestamp, list(items))])


def meet(store, user: str, item: str, timestamp: float) -> None:
    store.append([Event(user_id=user, item_id=item, timestamp=timestamp)], 1e9)


def counts(report: ExperimentReport) -> dict[str, tuple[int, int, int]]:
    return {arm.arm: (arm.users, arm.exposures, arm.conversions) for arm in report.arms}


def test_what_counts_as_a_conversion(store):
    show(store, "anna", "champion", 1000, "a", "b", "c", "d")
    show(store, "anna", "champion", 9000, "a", "e")
    meet(store, "anna", "a", 1001)
    meet(store, "anna", "a", 1002)  # once is enough
    meet(store, "anna", "b", 999)  # before it was shown
    meet(store, "anna", "c", 1000 + HOUR)  # the last moment
    meet(store, "anna", "d", 1001 + HOUR)  # too late
    meet(store, "anna", "x", 1001)  # was not shown
    meet(store, "bert", "a", 1001)  # was shown nothing
    show(store, "carl", "champion", 5000, "a")
    report = experiment_report(store, "ladder", HOUR)
    assert counts(report) == {"champion": (2, 6, 2)}
    (arm,) = report.arms
    assert (arm.per_user, arm.per_exposure) == (1.0, pytest.approx(1 / 3))
    assert report.differences == ()
    assert report.sample_ratio_p is None
    assert not report.sample_ratio_mismatch


def test_the_first_exposure_of_an_item_starts_its_horizon(store):
    show(store, "anna", "champion", 9000, "a")  # logged before an earlier one, by another server
    show(store, "anna", "champion", 1000, "a")
    meet(store, "anna", "a", 9001)
    assert counts(experiment_report(store, "ladder", HOUR)) == {"champion": (1, 1, 0)}


def test_who_saw_two_arms_counts_in_the_first_and_other_experiments_do_not(store):
    show(store, "anna", "challenger", 1000, "a")
    show(store, "anna", "champion", 2000, "b", "c")
    show(store, "bert", "champion", 1000, "a")
    show(store, "bert", "champion", 1000, "a", "b", experiment="colours")
    meet(store, "anna", "b", 2001)
    report = experiment_report(store, "ladder", HOUR, HALVES)
    assert counts(report) == {"champion": (1, 1, 0), "challenger": (1, 1, 0)}
    assert report.users_in_several_arms == 1


def test_a_difference_by_hand(store):
    taken = {"champion": [0, 1, 1, 2], "challenger": [2, 3, 3, 4]}
    for arm, users in taken.items():
        for number, count in enumerate(users):
            user, items = f"{arm}{number}", [f"i{place}" for place in range(5)]
            show(store, user, arm, 1000, *items)
            for item in items[:count]:
                meet(store, user, item, 1001)
    per_user, per_exposure = experiment_report(store, "ladder", HOUR, HALVES).differences
    assert (per_user.metric, per_user.arm, per_user.control) == (PER_USER, "challenger", "champion")
    error = np.sqrt(2 * np.var([0, 1, 1, 2], ddof=1) / 4)
    assert per_user.difference == 2.0
    assert per_user.ci95 == pytest.approx((2 - 1.959964 * error, 2 + 1.959964 * error))
    assert per_user.p == pytest.approx(0.000532, rel=1e-2)
    assert per_user.significant
    # All were shown five items, so that the ratio is the mean over five.
    assert per_exposure.metric == PER_EXPOSURE
    assert np.multiply(per_exposure.ci95, 5) == pytest.approx(per_user.ci95)
    assert per_exposure.p == pytest.approx(per_user.p)


def test_too_few_users_for_an_interval(store):
    show(store, "anna", "champion", 1000, "a")
    report = experiment_report(store, "ladder", HOUR, HALVES)
    assert counts(report) == {"champion": (1, 1, 0), "challenger": (0, 0, 0)}
    assert all(np.isnan([one.difference, *one.ci95, one.p]).all() for one in report.differences)
    assert not any(one.significant for one in report.differences)


@pytest.mark.parametrize(
    ("name", "horizon", "shares", "said"),
    [
        ("colours", HOUR, None, "no exposures of an experiment 'colours'"),
        ("ladder", 0.0, None, "horizon is 0.0 s"),
        ("ladder", float("nan"), None, "horizon is nan s"),
        ("ladder", HOUR, {"champion": 0.5, "challenger": 0.6}, "shares sum to 1.1"),
    ],
)
def test_what_cannot_be_reported_is_said(store, name, horizon, shares, said):
    show(store, "anna", "champion", 1000, "a")
    with pytest.raises(ConfigError, match=said):
        experiment_report(store, name, horizon, shares)


class Simulated:
    """As much of a store as a report reads: users with rates of their own, who are shown 1 to 8 items each."""

    def __init__(self, seed: int, sizes: dict[str, int], spread: dict[str, float]) -> None:
        random = np.random.default_rng(seed)
        self.log: list[Exposure] = []
        self.met: dict[str, list[StoredEvent]] = {}
        for arm, size in sizes.items():
            shown = random.integers(1, 9, size)
            rates = random.beta(0.5, spread[arm], size) * np.where(shown > 4, 0.5, 1.0)
            for number, (count, rate) in enumerate(zip(shown.tolist(), rates, strict=True)):
                user, items = f"{arm}{number}", [str(place) for place in range(count)]
                self.log.append(Exposure("ladder", arm, user, 0.0, items))
                taken = random.random(count) < rate
                self.met[user] = [
                    StoredEvent(0, item, "view", None, 1.0) for item, one in zip(items, taken, strict=True) if one
                ]

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        return iter(self.log)

    def histories(self, user_ids: Sequence[str], limit: int) -> list[list[StoredEvent]]:
        return [self.met[user] for user in user_ids]


def truth(spread: float) -> dict[str, float]:
    """Of ``Simulated``: conversions per user and per exposure."""
    shown = np.arange(1, 9)
    taken = (shown * np.where(shown > 4, 0.5, 1.0)).mean() * 0.5 / (0.5 + spread)
    return {PER_USER: taken, PER_EXPOSURE: taken / shown.mean()}


@pytest.mark.parametrize("spread", [2.0, 1.2], ids=["A/A", "A/B"])
def test_the_interval_holds_the_truth_as_often_as_it_says(spread):
    held = {PER_USER: 0, PER_EXPOSURE: 0}
    significant = dict(held)
    sizes = {"champion": 150, "challenger": 120}
    for seed in range(RUNS):
        simulated = Simulated(seed, sizes, {"champion": 2.0, "challenger": spread})
        for one in experiment_report(simulated, "ladder", HOUR).differences:
            low, high = one.ci95
            held[one.metric] += low <= truth(spread)[one.metric] - truth(2.0)[one.metric] <= high
            significant[one.metric] += one.p < 0.05
            assert one.significant == (one.p < 0.05)
    # 95 % of 200, and four standard deviations of such a count.
    assert all(0.89 <= count / RUNS <= 1.0 for count in held.values()), held
    if spread == 2.0:
        assert all(count / RUNS <= 0.11 for count in significant.values()), significant
    else:
        assert all(count / RUNS >= 0.5 for count in significant.values()), significant


def test_a_mismatch_of_shares_is_found_and_a_fair_draw_is_not():
    sizes = lambda shares: np.random.default_rng(1).multinomial(2_000, list(shares), size=RUNS)
    p = lambda row: sample_ratio_p({"champion": int(row[0]), "challenger": int(row[1])}, HALVES)
    fair = np.array([p(row) for row in sizes([0.5, 0.5])])
    assert (fair < 0.001).sum() <= 2
    assert 0.4 < fair.mean() < 0.6
    lost = np.array([p(row) for row in sizes([0.56, 0.44])])
    assert (lost < 0.001).mean() > 0.95


def test_a_report_tells_of_a_mismatch_and_of_arms_that_were_never_configured():
    spread = {"champion": 2.0, "challenger": 2.0, "third": 2.0}
    report = lambda **sizes: experiment_report(Simulated(0, sizes, spread), "ladder", HOUR, HALVES)
    assert not report(champion=500, challenger=480).sample_ratio_mismatch
    assert report(champion=600, challenger=400).sample_ratio_mismatch
    assert report(champion=500, challenger=500, third=1).sample_ratio_p == 0.0
    assert report(champion=40).sample_ratio_mismatch, "an arm that nobody saw is missing altogether"


def test_the_assignment_fits_its_own_check():
    experiment = Experiment("ladder", {"champion": 0.9, "challenger": 0.1})
    users: dict[str, int] = {}
    for number in range(5_000):
        arm = experiment.arm_of(f"u{number}")
        users[arm] = users.get(arm, 0) + 1
    assert sample_ratio_p(users, experiment.arms) > 0.001


def test_memory_holds_a_part_of_the_users_at_a_time(monkeypatch):
    from lanner.serving.versions import report as module

    sizes: list[int] = []
    whole = module._exposures_by_user
    monkeypatch.setattr(module, "_exposures_by_user", lambda part: sizes.append(len(found := whole(part))) or found)
    simulated = Simulated(0, {"champion": 3_000, "challenger": 3_000}, {"champion": 2.0, "challenger": 2.0})
    found = experiment_report(SimpleNamespace(exposures=simulated.exposures, histories=simulated.histories), "x", HOUR)
    assert sum(arm.users for arm in found.arms) == sum(sizes) == 6_000
    assert max(sizes) < 200
