"""The challenger is called off the critical path of the champion, and compared correctly."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lanner.errors import ConfigError
from lanner.serving.messages import RecommendRequest
from lanner.serving.versions.shadow import Shadow, overlap, rank_correlation


def request(user_id: str = "u") -> RecommendRequest:
    return RecommendRequest(user_id=user_id)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_answers_are_compared():
    answers = {"same": ["a", "b", "c", "d"], "turned": ["d", "c", "b", "a"], "other": ["a", "x", "y", "z"]}

    async def ask(asked: RecommendRequest) -> list[str]:
        await asyncio.sleep(0.02)
        return answers[asked.user_id]

    shadow = Shadow(ask, share=1.0)
    shadow.start()
    for user_id in answers:
        assert shadow.offer(request(user_id), ["a", "b", "c", "d"], 2.0)
    await until(lambda: shadow.figures().compared == 3)
    found = shadow.figures()
    assert (found.dropped, found.failed) == (0, 0)
    assert found.overlap == pytest.approx((1 + 1 + 0.25) / 3)
    assert found.rank_correlation == pytest.approx(0)
    assert found.champion_p50_ms == found.champion_p99_ms == 2.0
    assert 20 <= found.challenger_p50_ms <= found.challenger_p99_ms < 1000
    await shadow.close()


async def test_a_slow_challenger_holds_up_nobody():
    go_on = asyncio.Event()

    async def ask(_) -> list[str]:
        await go_on.wait()
        return ["a"]

    shadow = Shadow(ask, share=1.0, most_waiting=4)
    shadow.start()
    assert [shadow.offer(request(), ["a"], 1.0) for _ in range(100)] == [True] * 4 + [False] * 96
    assert shadow.figures().dropped == 96
    go_on.set()
    await until(lambda: shadow.figures().compared == 4)
    await shadow.close()


async def test_a_challenger_that_fails_is_counted_and_its_problem_said_until_it_answers():
    async def ask(asked: RecommendRequest) -> list[str]:
        return {"good": ["a"]}[asked.user_id]

    shadow = Shadow(ask, share=1.0)
    shadow.start()
    shadow.offer(request("bad"), ["a"], 1.0)
    await until(lambda: shadow.figures().failed == 1)
    assert shadow.figures().problem == "'bad'"
    shadow.offer(request("good"), ["a"], 1.0)
    await until(lambda: shadow.figures().compared == 1)
    found = shadow.figures()
    assert (found.failed, found.problem) == (1, "")
    await shadow.close()


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
async def test_its_share_of_the_requests_is_sampled(share):
    shadow = Shadow(lambda _: pytest.fail("asked"), share, most_waiting=5_000, seed=1)
    taken = sum(shadow.offer(request(), ["a"], 1.0) for _ in range(4_000))
    assert abs(taken - share * 4_000) <= 5 * np.sqrt(4_000 * share * (1 - share))


async def test_before_anything_was_compared_there_are_no_figures():
    found = Shadow(lambda _: pytest.fail("asked"), share=0.0).figures()
    assert (found.compared, found.problem) == (0, "")
    assert {found.overlap, found.rank_correlation, found.champion_p50_ms, found.challenger_p99_ms} == {None}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ConfigError, match="shadow share is"):
        Shadow(lambda _: pytest.fail("asked"), share)


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
