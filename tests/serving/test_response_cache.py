"""Cached answers for repeated requests, and equal requests that share one computation."""

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner.serving.messages import Reason, RecommendAnswer, RecommendedItem, Served
from lanner.serving.response_cache import CacheKey, ResponseCache, SingleFlight


def answer(number: int = 3, reasons: int = 0) -> RecommendAnswer:
    why = [Reason(kind="history", name="a title", value=0.1 * one) for one in range(reasons)]
    items = [RecommendedItem(item_id=f"i{n}", title="t", score=n / 7, rank=n, reasons=why) for n in range(number)]
    return RecommendAnswer(items=items, served=Served(model="m", variant="full", backend="b", milliseconds={}))


def test_the_one_asked_for_longest_ago_goes_first():
    kept = ResponseCache(2)
    for name in (b"a", b"b"):
        kept.put(CacheKey(0, 0, name), answer())
    assert kept.get(CacheKey(0, 0, b"a")) is not None
    kept.put(CacheKey(0, 0, b"c"), answer())
    assert [kept.get(CacheKey(0, 0, name)) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_another_catalogue_makes_all_of_them_old():
    kept = ResponseCache(9)
    kept.put(CacheKey(0, 0, b"a"), answer())
    kept.put(CacheKey(0, 1, b"a"), answer())
    assert len(kept) == 2
    kept.put(CacheKey(1, 1, b"a"), answer())
    assert len(kept) == 1
    assert kept.get(CacheKey(0, 1, b"a")) is None


def test_bytes_are_bounded_too_and_a_large_answer_is_not_held():
    kept = ResponseCache(10_000, most_bytes=200_000)
    for number in range(300):
        kept.put(CacheKey(0, 0, b"%d" % number), answer(3))
        assert kept.held_bytes <= 200_000
    assert 100 < len(kept) < 200
    kept.put(CacheKey(0, 0, b"large"), answer(1000))
    assert kept.get(CacheKey(0, 0, b"large")) is None


def test_none_are_held_where_none_are_to_be():
    kept = ResponseCache(0)
    kept.put(CacheKey(0, 0, b"a"), answer())
    assert (len(kept), kept.held_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"bb", b"ccc"]), st.integers(0, 4))))
def test_bytes_are_those_of_what_is_held(steps):
    kept = ResponseCache(2)
    for catalogue, name, number in steps:
        kept.put(CacheKey(catalogue, 0, name), answer(number, reasons=number))
    anew = ResponseCache(2)
    for key, one in kept._kept.items():
        anew.put(key, one)
    assert kept.held_bytes == anew.held_bytes
    kept.clear()
    assert kept.held_bytes == 0


def test_bytes_are_roughly_what_python_takes():
    kept, one = ResponseCache(1), answer(10)
    kept.put(CacheKey(0, 0, bytes(400)), one)
    parts = [one, one.items, one.served, *one.items, *(item.score for item in one.items), bytes(400)]
    assert 0.6 < sum(map(sys.getsizeof, parts)) / kept.held_bytes < 1.2


def test_another_state_of_the_user_is_another_request():
    kept = ResponseCache(9)
    kept.put(CacheKey(0, 0, b"a"), answer())
    assert kept.get(CacheKey(0, 1, b"a")) is None


def together(number, cancelled=(), fails=False):
    """What comes of equal requests of which some are cancelled while one computes; how often it began and ended."""
    counts = {"begun": 0, "ended": 0}

    async def work():
        counts["begun"] += 1
        await asyncio.sleep(0.01)
        counts["ended"] += 1
        if fails:
            raise ValueError("no")
        return counts["begun"]

    async def whole():
        flight = SingleFlight()
        tasks = [asyncio.create_task(flight.run("key", work)) for _ in range(number)]
        await asyncio.sleep(0.002)
        for place in cancelled:
            tasks[place].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        again = asyncio.create_task(flight.run("key", work))
        await asyncio.gather(again, return_exceptions=True)
        assert not flight._flights
        return found

    return asyncio.run(whole()), counts


def test_equal_requests_share_one_computation():
    found, counts = together(3)
    assert (found, counts["begun"]) == ([1, 1, 1], 2)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_whoever_is_cancelled_leaves_the_others_waiting(gone):
    found, counts = together(3, [gone])
    assert isinstance(found.pop(gone), asyncio.CancelledError)
    begun = 2 if gone == 0 else 1  # the first did the work, which another of them does again
    assert (found, counts["begun"]) == ([begun, begun], begun + 1)


def test_what_nobody_waits_for_any_more_is_cancelled_and_an_equal_request_begins_anew():
    found, counts = together(2, [0, 1])
    assert all(isinstance(one, asyncio.CancelledError) for one in found)
    assert counts == {"begun": 2, "ended": 1}


def test_all_hear_of_a_failure():
    found, _ = together(2, fails=True)
    assert [str(one) for one in found] == ["no", "no"]


def test_an_equal_request_that_comes_while_the_last_one_is_cancelled_is_answered():
    async def whole():
        flight = SingleFlight()

        async def work():
            await asyncio.sleep(0.002)
            return "done"

        first = asyncio.create_task(flight.run("key", work))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(flight.run("key", work))
        assert await second == "done"

    asyncio.run(whole())
