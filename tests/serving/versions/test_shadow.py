"""The challenger is asked beside the way of the champion's callers, and judged rightly."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lanner.errors import ConfigError
from lanner.serving.versions.shadow import Shadow, overlap, rank_correlation


def wait_for(condition) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def shadows():
    made: list[Shadow] = []

    def make(*arguments, **named) -> Shadow:
        made.append(Shadow(*arguments, **named))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_answers_are_compared(shadows):
    answers = {"same": ["a", "b", "c", "d"], "turned": ["d", "c", "b", "a"], "other": ["a", "x", "y", "z"]}
    shadow = shadows(answers.__getitem__, share=1.0)
    for request in answers:
        assert shadow.offer(request, ["a", "b", "c", "d"], 2.0)
    wait_for(lambda: shadow.summary().compared == 3)
    found = shadow.summary()
    assert (found.dropped, found.failed) == (0, 0)
    assert found.overlap == pytest.approx((1 + 1 + 0.25) / 3)
    assert found.rank_correlation == pytest.approx(0)
    assert found.champion_p50_ms == found.champion_p99_ms == 2.0
    assert 0 < found.challenger_p50_ms <= found.challenger_p99_ms < 1000


def test_latency_is_that_of_the_challenger(shadows):
    shadow = shadows(lambda request: time.sleep(0.02) or ["a"], share=1.0)
    shadow.offer("one", ["a"], 1.0)
    wait_for(lambda: shadow.summary().compared == 1)
    assert shadow.summary().challenger_p50_ms >= 20


def test_a_slow_challenger_holds_up_nobody(shadows):
    go_on = threading.Event()
    shadow = shadows(lambda request: go_on.wait(5) and ["a"], share=1.0, most_waiting=4)
    started = time.perf_counter()
    taken = sum(shadow.offer(number, ["a"], 1.0) for number in range(100))
    assert time.perf_counter() - started < 0.5
    assert taken in (4, 5), "those that wait, and the one it is at"
    assert shadow.summary().dropped == 100 - taken
    go_on.set()
    wait_for(lambda: shadow.summary().compared == taken)


def test_a_challenger_that_fails_is_counted_and_its_problem_said_until_it_answers(shadows):
    shadow = shadows({"good": ["a"]}.__getitem__, share=1.0)
    shadow.offer("bad", ["a"], 1.0)
    wait_for(lambda: shadow.summary().failed == 1)
    assert shadow.summary().problem == "'bad'"
    shadow.offer("good", ["a"], 1.0)
    wait_for(lambda: shadow.summary().compared == 1)
    found = shadow.summary()
    assert (found.failed, found.problem) == (1, "")


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_its_share_of_the_requests_is_sampled(shadows, share):
    shadow = shadows(lambda request: ["a"], share, most_waiting=5_000, seed=1)
    taken = sum(shadow.offer(number, ["a"], 1.0) for number in range(4_000))
    assert abs(taken - share * 4_000) <= 5 * np.sqrt(4_000 * share * (1 - share))


def test_before_anything_was_compared_there_are_no_figures(shadows):
    found = shadows(lambda request: ["a"], share=0.0).summary()
    assert (found.compared, found.problem) == (0, "")
    assert np.isnan([found.overlap, found.rank_correlation, found.champion_p50_ms, found.challenger_p99_ms]).all()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="shadow share is"):
        Shadow(lambda request: ["a"], share)


@given(st.permutations(range(8)), st.permutations(range(8)), st.integers(2, 8), st.integers(2, 8))
def test_rank_correlation_is_spearmans_over_what_both_have(first, second, k, other_k):
    first, second = [str(one) for one in first[:k]], [str(one) for one in second[:other_k]]
    both = [one for one in first if one in second]
    found = rank_correlation(first, second)
    if len(both) < 2:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr([first.index(x) for x in both], [second.index(x) for x in both])[0])


def test_overlap_of_lists_of_unlike_length():
    assert overlap([], []) == 1.0
    assert overlap(["a"], []) == 0.0
    assert overlap(["a", "b", "c", "d"], ["d", "a"]) == 0.5
