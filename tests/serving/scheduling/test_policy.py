"""What the policy decides, case by case and in whatever order things happen."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.errors import ConfigError
from lanner.serving.scheduling import (
    Admitted,
    Batch,
    Idle,
    LatencyProfile,
    Policy,
    Rejected,
    Request,
    SchedulerConfig,
    WaitUntil,
)
from lanner.serving.scheduling.simulation import simulate

LADDER = ("full", "int8", "popularity")
TIMES = {
    "cpu": {"full": {1: (10, 12), 8: (40, 48)}, "int8": {1: (5, 6), 8: (20, 24)}, "popularity": {1: (1, 1), 8: (1, 1)}}
}
CUDA = {"full": {1: (4, 5), 64: (8, 10)}, "int8": {1: (3, 4), 64: (5, 6)}, "popularity": {1: (1, 1), 64: (2, 2)}}
SLOWEST_ALONE = 0.012 * 8


def make(workers=None, config=None, times=TIMES, ladder=LADDER, sheds=False) -> Policy:
    return Policy(LatencyProfile(times), ladder, workers or {"cpu": 1}, config, sheds)


def ask(policy, number, within, now=0.0, lowest=None):
    return policy.admit(Request(number, now, now + within, lowest), now)


def numbers(batch: Batch) -> list[int]:
    return [request.number for request in batch.requests]


def test_nothing_to_do():
    assert isinstance(make().next(0.0), Idle)


def test_a_lone_request_starts_at_once_on_the_top_rung():
    policy = make()
    assert ask(policy, 1, 0.1) == Admitted(pytest.approx(0.001)), "by the swiftest rung, if need be"
    batch = policy.next(0.0)
    assert isinstance(batch, Batch)
    assert (batch.backend, batch.variant, numbers(batch)) == ("cpu", "full", [1])
    assert batch.predicted_completion == pytest.approx(0.012)
    assert policy.completed(batch, 0.01) == ()
    assert isinstance(policy.next(0.01), Idle)


def test_asking_before_the_first_request_changes_nothing():
    policy = make()
    assert (policy.next(0.0), policy.backlog_s(0.0)) == (Idle(), 0.0)
    ask(policy, 1, 0.05)
    assert policy.next(0.0).variant == "full"


def test_what_one_request_more_takes_is_weighed_at_the_best_rung_by_all_workers():
    alone, two = make(), make({"cpu": 2})
    for policy in (alone, two):
        ask(policy, 1, 1.0)
    assert alone.request_s(0.0) == pytest.approx(2 * two.request_s(0.0))
    assert 0.005 <= alone.request_s(0.0) <= 0.012
    assert alone.backlog_s(0.0) == pytest.approx(alone.request_s(0.0))


def test_the_earliest_deadline_goes_first():
    policy = make()
    ask(policy, 0, 0.5)
    running = policy.next(0.0)
    for number, within in ((1, 0.4), (2, 0.2), (3, 0.3)):
        ask(policy, number, within)
    assert isinstance(policy.next(0.0), WaitUntil)
    policy.completed(running, 0.01)
    assert numbers(policy.next(0.01)) == [2, 3, 1]


def test_what_cannot_be_in_time_is_rejected_at_once():
    assert ask(make(), 1, 0.0005) == Rejected(pytest.approx(0.0005))


def test_a_full_queue_rejects():
    policy = make(config=SchedulerConfig(queue_limit=3))
    answers = [ask(policy, number, 100.0) for number in range(5)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 3 + [False] * 2
    assert all(answer.retry_after_s > 0 for answer in answers[3:])


def test_who_retries_after_the_time_named_is_admitted():
    policy = make(ladder=("full",))
    running, number, answer = [], 0, None
    while not isinstance(answer, Rejected):
        number += 1
        answer = ask(policy, number, 0.1)
        if isinstance(batch := policy.next(0.0), Batch):
            running.append(batch)
    until = answer.retry_after_s
    while running and (now := running[0].predicted_completion) <= until:
        policy.completed(running.pop(0), now)
        if isinstance(batch := policy.next(now), Batch):
            running.append(batch)
    assert isinstance(ask(policy, 0, 0.1, until), Admitted)


def test_short_slack_is_served_further_down():
    policy = make()
    ask(policy, 1, 0.008)
    assert policy.next(0.0).variant == "int8"


def test_the_lowest_rung_accepted_is_kept():
    policy = make()
    assert isinstance(ask(policy, 1, 0.008, lowest="full"), Rejected)
    ask(policy, 2, 0.008, lowest="int8")
    assert policy.next(0.0).variant == "int8"


def test_a_long_queue_moves_everyone_down_but_those_who_refuse():
    policy = make()
    for number in range(60):
        ask(policy, number, 0.1, lowest="full" if number == 1 else None)
    assert policy.variant == "full"
    batch = policy.next(0.0)
    assert policy.variant == "popularity"
    assert (batch.variant, len(batch.requests)) == ("popularity", 8)
    policy.completed(batch, 0.001)
    assert (policy.next(0.001).variant) == "full"


@pytest.mark.parametrize(("sheds", "seconds", "falls"), [(False, 0.0, True), (True, 0.2, False), (True, 1.0, True)])
def test_where_others_are_answered_elsewhere_only_lasting_load_lowers_the_rung(sheds, seconds, falls):
    policy = make(sheds=sheds)
    now, number = 0.0, 0
    while now <= seconds:
        for _ in range(20 if seconds else 60):
            number += 1
            ask(policy, number, 0.2, now)
        batch = policy.next(now)
        now += 0.02
        if isinstance(batch, Batch):
            policy.completed(batch, now)
    assert (policy.variant != "full") == falls


def test_it_climbs_back_one_rung_at_a_time_when_quiet_has_lasted():
    policy = make(config=SchedulerConfig(climb_after_s=1.0))
    for number in range(60):
        ask(policy, number, 0.1)
    now = 0.0
    while isinstance(batch := policy.next(now), Batch):
        now += 0.001
        policy.completed(batch, now)
    seen = []
    for tick in range(1, 60):
        policy.next(0.1 * tick)
        seen.append(policy.variant)
    assert [variant for place, variant in enumerate(seen) if variant not in seen[:place]] == list(reversed(LADDER))
    assert 5 <= seen.count("int8") <= 15


def test_a_request_past_hope_is_dropped_and_never_computed():
    policy = make()
    ask(policy, 1, 5.0)
    running = policy.next(0.0)
    ask(policy, 2, 0.05)
    wait = policy.next(0.0)
    assert wait == WaitUntil(pytest.approx(0.049))
    assert isinstance(policy.next(0.06), Idle)
    assert policy.take_missed() == (2,)
    assert policy.take_missed() == ()
    assert policy.completed(running, 6.0) == (1,)


def served(patience: float) -> list[Batch]:
    """What one worker starts while a request arrives every 8 ms, which batches of one cannot keep up with."""
    batches: list[Batch] = []
    policy = make(ladder=("full",), config=SchedulerConfig(patience=patience))
    keep = lambda batch, _: batches.append(batch) or 0.01 + 0.03 * (len(batch.requests) - 1) / 7
    simulate([policy], 1, np.arange(0, 20, 0.008), 0.2, keep, seed=1)
    return batches


def test_a_batch_waits_to_grow_only_while_there_is_slack():
    greedy, patient = served(0.0), served(1.0)
    assert len(patient) < len(greedy)
    for batch in patient:
        assert batch.predicted_completion <= batch.requests[0].deadline


def test_the_backend_with_the_earliest_predicted_completion_is_chosen():
    policy = make({"cpu": 1, "cuda": 1}, times=TIMES | {"cuda": CUDA})
    ask(policy, 1, 0.5)
    first = policy.next(0.0)
    assert first.backend == "cuda"
    ask(policy, 2, 0.5)
    assert policy.next(0.0) == WaitUntil(pytest.approx(0.005)), "the quicker one is free sooner than the slower is done"
    ask(policy, 3, 0.011, lowest="full")
    policy.completed(first, 0.004)
    assert policy.next(0.004).backend == "cuda"


def test_a_backend_that_overruns_is_not_waited_for():
    policy = make({"cpu": 1, "cuda": 1}, times=TIMES | {"cuda": CUDA})
    ask(policy, 1, 0.5)
    policy.next(0.0)
    ask(policy, 2, 0.5, 0.006)
    assert policy.next(0.006).backend == "cpu"


def test_what_takes_longer_than_measured_is_learned():
    policy = make()
    for number in range(100):
        ask(policy, number, 1.0, float(number))
        batch = policy.next(float(number))
        policy.completed(batch, number + 0.03)
    assert batch.predicted_completion - batch.started > 0.03


def test_workers_can_be_added_and_taken_away():
    policy = make(ladder=("full",), config=SchedulerConfig(patience=0.0))
    for number in range(12):
        ask(policy, number, 0.5)
    assert isinstance(policy.next(0.0), Batch)
    assert isinstance(policy.next(0.0), WaitUntil)
    policy.set_workers({"cpu": 2})
    second = policy.next(0.0)
    assert isinstance(second, Batch)
    policy.set_workers({"cpu": 1})
    policy.completed(second, 0.01)
    ask(policy, 50, 0.5, 0.01)
    assert isinstance(policy.next(0.01), WaitUntil)
    assert (policy.running, policy.depth) == (1, 1)


def test_a_backend_without_workers_counts_for_nothing():
    times = {"cpu": {"full": TIMES["cpu"]["full"]}, "cuda": {"popularity": CUDA["popularity"]}}
    policy = make({"cpu": 1, "cuda": 0}, times=times, ladder=("full", "popularity"))
    answers = [ask(policy, number, 0.1) for number in range(60)]
    assert 8 <= sum(isinstance(answer, Admitted) for answer in answers) < 30
    assert policy.next(0.0).variant == "full", "the lower rung would be quicker, but nobody runs it"
    policy.set_workers({"cuda": 1})
    policy.set_workers({"cpu": 0})
    assert policy.next(0.01).variant == "popularity"
    assert ask(policy, 99, 0.1, lowest="full") == Rejected(math.inf)


def test_misuse_is_refused():
    policy = make()
    ask(policy, 1, 1.0)
    with pytest.raises(ValueError, match="waits already"):
        ask(policy, 1, 1.0)
    with pytest.raises(ConfigError, match="no variant 'huge'"):
        ask(policy, 2, 1.0, lowest="huge")
    batch = policy.next(0.0)
    policy.completed(batch, 0.01)
    with pytest.raises(ValueError, match="does not run"):
        policy.completed(batch, 0.01)
    with pytest.raises(ConfigError, match="no backend 'tpu'"):
        policy.set_workers({"tpu": 1})
    with pytest.raises(ConfigError, match="workers are"):
        policy.set_workers({"cpu": 0})
    with pytest.raises(ConfigError, match="no variant 'huge'"):
        make(ladder=("huge",))
    with pytest.raises(ConfigError, match="name each once"):
        make(ladder=("full", "full"))


@pytest.mark.parametrize(
    "changes",
    [{"queue_limit": 0}, {"climb_below": 0.99}, {"full_at": 1.5}, {"patience": -1.0}, {"plan_every_s": math.inf}],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"scheduler\.(.*){next(iter(changes))}"):
        SchedulerConfig(**changes)


class Witness:
    """Drives a policy, keeps its own books, and checks every batch against them."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.now = policy, 0.0
        self.waiting: dict[int, Request] = {}
        self.running: list[Batch] = []
        self.fates: dict[int, str] = {}
        self.asked = 0

    def end(self, number: int, fate: str) -> None:
        assert number not in self.fates, f"request {number} ended twice"
        self.fates[number] = fate

    def admit(self, within: float, lowest: str | None) -> None:
        self.asked += 1
        request = Request(self.asked, self.now, self.now + within, lowest)
        answer = self.policy.admit(request, self.now)
        if isinstance(answer, Admitted):
            assert answer.predicted_completion <= request.deadline
            self.waiting[request.number] = request
        else:
            assert answer.retry_after_s > 0
            self.end(request.number, "rejected")
        assert self.policy.depth == len(self.waiting) <= self.policy.config.queue_limit

    def pump(self) -> WaitUntil | Idle:
        while isinstance(decision := self.next(), Batch):
            self.check(decision)
            self.running.append(decision)
        assert isinstance(decision, Idle) == (not self.waiting)
        assert isinstance(decision, Idle) or decision.time > self.now
        return decision

    def next(self) -> Batch | WaitUntil | Idle:
        decision = self.policy.next(self.now)
        for number in self.policy.take_missed():
            assert self.waiting.pop(number).deadline < self.now + SLOWEST_ALONE
            self.end(number, "missed")
        return decision

    def check(self, batch: Batch) -> None:
        taken = [self.waiting.pop(request.number) for request in batch.requests]
        deadlines = [request.deadline for request in taken]
        assert deadlines == sorted(deadlines)
        assert batch.predicted_completion <= deadlines[0] + 1e-9
        for request in taken:
            assert LADDER.index(batch.variant) <= LADDER.index(request.lowest or LADDER[-1])
            left = [other.deadline for other in self.waiting.values() if other.lowest == request.lowest]
            assert min(left, default=math.inf) >= request.deadline

    def complete(self, which: int) -> None:
        if self.running:
            batch = self.running.pop(which % len(self.running))
            self.policy.completed(batch, self.now)
            for request in batch.requests:
                self.end(request.number, "answered")

    def cancel(self, which: int) -> None:
        number = which % (self.asked + 1)
        cancelled = self.policy.cancel(number)
        assert cancelled == (number in self.waiting)
        if cancelled:
            del self.waiting[number]
            self.end(number, "cancelled")


moments = st.tuples(st.just("wait"), st.floats(0, 0.05))
arrivals = st.tuples(st.just("admit"), st.floats(0.0001, 0.3), st.sampled_from([None, *LADDER]))
others = st.tuples(st.sampled_from(["complete", "cancel", "workers"]), st.integers(0, 40))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(moments, arrivals, arrivals, arrivals, others), max_size=80), st.booleans(), st.booleans())
def test_every_request_ends_once_whatever_happens(steps, with_cuda, eager):
    workers = {"cpu": 2, "cuda": 1} if with_cuda else {"cpu": 1}
    config = SchedulerConfig(queue_limit=30, patience=0.0 if eager else 1.0, climb_after_s=0.1)
    witness = Witness(make(workers, config, TIMES | {"cuda": CUDA}))
    for kind, *details in steps:
        if kind == "wait":
            witness.now += details[0]
        elif kind == "workers":
            witness.policy.set_workers({"cpu": 1 + details[0] % 3})
        else:
            getattr(witness, kind)(*details)
        witness.pump()
    while witness.waiting or witness.running:
        witness.now += 0.003
        witness.complete(0)
        witness.pump()
    assert sorted(witness.fates) == list(range(1, witness.asked + 1))
    assert isinstance(witness.pump(), Idle)


def test_a_correction_that_is_not_renewed_fades():
    policy = make()
    for number in range(100):
        ask(policy, number, 1.0, float(number))
        policy.completed(policy.next(float(number)), number + 0.03)
    slow = policy._profile.curve("cpu", "full").ratio
    for step in range(60):
        policy.backlog_s(100 + step * 0.1)
    assert 1.0 < policy._profile.curve("cpu", "full").ratio < 1 + 0.2 * (slow - 1)


@pytest.mark.parametrize(("busy", "climbs"), [(0.0, True), (0.5, True), (0.98, False), (7.0, False)])
def test_a_better_rung_is_trusted_with_what_the_shell_leaves(busy, climbs):
    policy, now = make(), 0.0
    for number in range(60):
        ask(policy, number, 0.1)
    while isinstance(batch := policy.next(now), Batch):
        now += 0.001
        policy.completed(batch, now)
    assert policy.variant == "popularity"
    policy.set_busy(busy)
    for number in range(100, 300):
        now += 0.05
        ask(policy, number, 0.1, now)
        policy.completed(policy.next(now), now + 0.001)
    assert (policy.variant == "full") == climbs


def crowded_whenever_it_climbs(policy, seconds: float) -> list[float]:
    """Load that the top rung would just carry, but for the crowd that comes whenever it serves; when it was tried."""
    now, number, tried = 0.0, 0, []
    while now < seconds:
        if policy.variant == "full":
            tried.append(now)
        for _ in range(60 if policy.variant == "full" else 2):
            ask(policy, number, 0.1, now)
            number += 1
        while isinstance(batch := policy.next(now), Batch):
            policy.completed(batch, now + 0.001)
        now += 0.02
    return tried


def test_a_rung_that_was_left_again_soon_is_tried_ever_more_seldom():
    tried = np.array(crowded_whenever_it_climbs(make(), 100.0))
    assert np.count_nonzero(tried < 10) >= 3
    assert np.count_nonzero(tried > 50) <= 3


def test_when_the_load_has_gone_a_rung_is_tried_at_once():
    policy, now = make(), 50.0
    crowded_whenever_it_climbs(policy, now)
    assert policy.variant != "full"
    for number in range(10**6, 10**6 + 50):
        now += 0.1
        ask(policy, number, 0.1, now)
        while isinstance(batch := policy.next(now), Batch):
            policy.completed(batch, now + 0.001)
    assert policy.variant == "full"
