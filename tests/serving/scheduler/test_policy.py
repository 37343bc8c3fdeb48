"""The policy's decisions, case by case and in any order of events."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.errors import ConfigError, OverloadedError
from lanner.serving.scheduler import LatencyProfile, Request, Scheduler, SchedulerConfig, VariantId

FULL, INT8, SMALL, POPULAR = (VariantId("cpu", name) for name in ("full", "int8", "small", "popularity"))
VARIANTS = (FULL, INT8, SMALL)
TIMES = {
    FULL: {1: (1.0, 1.2), 16: (8.5, 10.2)},
    INT8: {1: (0.6, 0.7), 16: (5.1, 6.0)},
    SMALL: {1: (0.3, 0.36), 16: (2.4, 2.9)},
    POPULAR: {1: (0.05, 0.06), 64: (1.0, 1.2)},
}
DEADLINE_S = 0.02


def make(config=None, variants=VARIANTS, fallback=POPULAR, overhead_s=0.0) -> Scheduler:
    scheduler = Scheduler(LatencyProfile(TIMES), variants, config, fallback)
    scheduler.overhead_s = overhead_s
    return scheduler


def ask(scheduler, number, within=DEADLINE_S, now=0.0, arrival=None):
    arrival = now if arrival is None else arrival
    request = Request(arrival + within, number, arrival)
    scheduler.admit(request, now)
    return request


def taken_at_once():
    """How many requests of one moment are taken where there is no fallback."""
    number, other = 0, make(fallback=None)
    with contextlib.suppress(OverloadedError):
        while True:
            ask(other, number)
            number += 1
    return number


def numbers(batch):
    return [request.number for request in batch.requests]


def all_batches(scheduler, now):
    """What is given one after another, each as long as its median takes."""
    found = []
    while (batch := scheduler.next(now)) is not None:
        found.append(batch)
        if batch.variant is not None:
            now += scheduler.profile.curve(batch.variant).p50_s(len(batch.requests))
    return found


def test_nothing_to_do():
    assert make().next(0.0) is None


def test_a_lone_request_is_ranked_at_once_by_the_best_variant():
    scheduler = make()
    request = ask(scheduler, 1)
    assert scheduler.next(0.0) == (FULL, (request,))
    assert (scheduler.next(0.0), scheduler.depth) == (None, 0)


def test_requests_of_one_turn_are_ranked_together_earliest_deadline_first():
    scheduler = make()
    for number, within in ((1, 0.04), (2, 0.02), (3, 0.03)):
        ask(scheduler, number, within)
    assert numbers(scheduler.next(0.0)) == [2, 3, 1]


def test_a_batch_does_not_occupy_the_loop_for_longer_than_configured():
    scheduler = make(SchedulerConfig(most_inline_ms=2.0))
    for number in range(6):
        ask(scheduler, number, 1.0)
    batch = scheduler.next(0.0)
    assert (batch.variant, len(batch.requests)) == (FULL, 2)


def test_where_one_request_takes_longer_than_that_it_goes_alone():
    scheduler = make(SchedulerConfig(most_inline_ms=0.1))
    for number in range(3):
        ask(scheduler, number, 1.0)
    assert [len(batch.requests) for batch in all_batches(scheduler, 0.0)] == [1, 1, 1]


@pytest.mark.parametrize(("age_s", "variant"), [(0.0, FULL), (0.0187, FULL), (0.0192, INT8), (0.0195, SMALL)])
def test_little_time_left_is_answered_by_a_faster_variant(age_s, variant):
    scheduler = make()
    ask(scheduler, 1, arrival=-age_s)
    assert scheduler.next(0.0).variant == variant


def test_an_answer_must_also_be_written():
    scheduler = make(overhead_s=0.001)
    ask(scheduler, 1, within=0.002)
    assert scheduler.next(0.0).variant == INT8


def test_whom_no_personal_variant_can_answer_in_time_popular_items_can():
    scheduler = make()
    ask(scheduler, 1, within=0.0002)
    assert scheduler.next(0.0).variant == POPULAR


def test_without_a_fallback_they_are_refused_with_the_time_after_which_to_ask_again():
    with pytest.raises(OverloadedError) as raised:
        ask(make(fallback=None), 1, within=0.0001)
    assert raised.value.retry_after_s == pytest.approx(0.001)
    scheduler = make(fallback=None)
    for number in range(taken_at_once()):
        ask(scheduler, number)
    with pytest.raises(OverloadedError) as raised:
        ask(scheduler, 1000)
    later = raised.value.retry_after_s
    assert 0 < later < DEADLINE_S
    now = 0.0
    while (batch := scheduler.next(now)) is not None and now < later:
        now += scheduler.profile.curve(batch.variant).p50_s(len(batch.requests))
    ask(scheduler, 9999, now=now)


def test_only_what_not_even_popular_items_can_do_in_time_is_refused():
    scheduler = make()
    with pytest.raises(OverloadedError):
        ask(scheduler, 1, within=0.00001)
    for number in range(2, 302):
        ask(scheduler, number)
    batches = all_batches(scheduler, 0.0)
    assert batches[0].variant == POPULAR
    assert sum(len(batch.requests) for batch in batches) == 300
    assert all(batch.variant is not None for batch in batches)


def test_a_long_queue_is_answered_by_a_faster_variant_and_a_short_one_by_the_best_again():
    scheduler = make()
    for number in range(20):
        ask(scheduler, number)
    variants = [batch.variant for batch in all_batches(scheduler, 0.0)]
    assert variants[0] in (INT8, SMALL)
    assert variants[-1] == FULL
    assert POPULAR not in variants


def test_a_queue_without_hurry_is_left_to_the_best():
    scheduler = make()
    for number in range(40):
        ask(scheduler, number, within=10.0)
    assert {batch.variant for batch in all_batches(scheduler, 0.0)} == {FULL}


def test_arrivals_that_the_best_cannot_bear_are_answered_by_one_that_can():
    def at(rate):
        scheduler, found = make(overhead_s=0.0002), []
        for number in range(int(rate)):
            now = number / rate
            ask(scheduler, number, now=now)
            found += [batch.variant for batch in all_batches(scheduler, now)]
        return found[len(found) // 2 :]

    assert set(at(800)) == {FULL}
    assert set(at(1500)) == {INT8}
    assert set(at(2300)) == {SMALL}


def test_the_more_of_the_loop_requests_take_the_sooner_they_fall_back_and_the_smaller_batches_are():
    def batches(overhead_s):
        scheduler = make(overhead_s=overhead_s)
        for number in range(1000):
            ask(scheduler, number, within=0.5, now=number / 1000)
            last = scheduler.next(number / 1000)
            assert last is not None
        for number in range(1000, 1060):
            ask(scheduler, number, now=1.0)
        return all_batches(scheduler, 1.0)

    def personal(found):
        return [len(batch.requests) for batch in found if batch.variant != POPULAR]

    light, heavy = (personal(batches(overhead_s)) for overhead_s in (0.0, 0.0008))
    assert sum(heavy) < sum(light) / 2
    assert max(heavy) < max(light)


def test_who_waited_longer_than_predicted_is_answered_by_the_fallback_and_then_refused():
    scheduler = make()
    for number, within in ((1, 0.02), (2, 0.01), (3, 0.1)):
        ask(scheduler, number, within)
    refused, fallen, ranked = all_batches(scheduler, 0.0198)
    assert (refused.variant, numbers(refused)) == (None, [2])
    assert (fallen.variant, numbers(fallen)) == (POPULAR, [1])
    assert numbers(ranked) == [3]


def test_a_full_queue_falls_back():
    scheduler = make(SchedulerConfig(queue_limit=3))
    for number in range(5):
        ask(scheduler, number, within=100.0)
    assert [len(batch.requests) for batch in all_batches(scheduler, 0.0)] == [2, 3]
    without = make(SchedulerConfig(queue_limit=3), fallback=None)
    for number in range(3):
        ask(without, number, within=100.0)
    with pytest.raises(OverloadedError):
        ask(without, 4, within=100.0)


def test_a_cancelled_request_is_not_ranked():
    scheduler = make()
    first, second = ask(scheduler, 1), ask(scheduler, 2)
    fallen = ask(scheduler, 3, within=0.0002)
    assert scheduler.cancel(first)
    assert scheduler.cancel(fallen)
    assert not scheduler.cancel(first)
    assert [batch.requests for batch in all_batches(scheduler, 0.0)] == [(second,)]


def test_what_takes_longer_than_calibrated_is_learned_and_forgotten_again():
    scheduler = make()
    for number in range(60):
        ask(scheduler, number, 1.0, now=float(number) / 100)
        scheduler.completed(scheduler.next(number / 100), 0.004)
    ratio = scheduler.profile.ratios()[FULL]
    assert ratio > 3
    for step in range(300):
        scheduler.next(1 + step / 100)
    assert scheduler.profile.ratios()[FULL] < 1 + 0.2 * (ratio - 1)


def test_misuse_is_refused():
    with pytest.raises(ConfigError, match="no variant 'huge'"):
        make(variants=(VariantId("cpu", "huge"),))
    with pytest.raises(ConfigError, match="list each once"):
        make(variants=(FULL, FULL))
    with pytest.raises(ConfigError, match="missing"):
        make(variants=())


@pytest.mark.parametrize(
    "changes", [{"queue_limit": 0}, {"most_inline_ms": math.inf}, {"faster_at": 0.6}, {"fallback_at": 1.5}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"scheduler\.(.*){next(iter(changes))}"):
        SchedulerConfig(**changes)


moments = st.tuples(st.just("wait"), st.floats(0, 0.01))
arrivals = st.tuples(st.just("ask"), st.floats(0.00001, 0.05), st.floats(0, 0.03))
others = st.tuples(st.sampled_from(["cancel", "rank"]), st.integers(0, 40))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(moments, arrivals, arrivals, arrivals, others), max_size=80),
    st.sampled_from([None, POPULAR]),
    st.floats(0, 0.001),
)
def test_every_request_ends_once_in_order_whatever_happens(steps, fallback, overhead_s):
    scheduler, now, asked, waiting = make(SchedulerConfig(queue_limit=20), VARIANTS, fallback, overhead_s), 0.0, 0, {}

    def rank(slower=0):
        nonlocal now
        batch = scheduler.next(now)
        assert (batch is None) == (not waiting)
        if batch is None:
            return
        taken = [waiting.pop(request.number) for request in batch.requests]
        if batch.variant is None:
            assert all(request.deadline - overhead_s < now + 0.01 for request in taken), "given up too soon"
            return
        seconds = TIMES[batch.variant][1][0] / 1e3
        if batch.variant != POPULAR:
            assert taken == sorted(taken)
            first = taken[0].deadline
            assert now + scheduler.profile.curve(batch.variant).p99_s(len(taken)) <= first + 1e-9
            assert (
                all(request.deadline <= other.deadline for request in taken for other in waiting.values()) or fallback
            )
        now += seconds * (0.5 + slower / 5)
        scheduler.completed(batch, seconds * (0.5 + slower / 5))

    def taken_or_refused(number, within, age_s):
        try:
            return ask(scheduler, number, within, now, now - age_s)
        except OverloadedError:
            popular_s = 8 * (0.0002 + 0.00006 * len(waiting))
            assert fallback is None or popular_s > within - age_s - overhead_s, "popular items were in time"

    for kind, *details in steps:
        if kind == "wait":
            now += details[0]
        elif kind == "ask":
            asked += 1
            if (request := taken_or_refused(asked, *details)) is not None:
                waiting[asked] = request
        elif kind == "cancel" and details[0] in waiting:
            assert scheduler.cancel(waiting.pop(details[0]))
        elif kind == "rank":
            rank(*details)
        assert scheduler.depth == len(waiting)
    while waiting:
        rank()
    assert scheduler.next(now) is None
