"""Answers held for requests that come again: which, how many, and what they take."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from lanner.serving.kept_answers import KeptAnswers
from lanner.serving.messages import Reason, RecommendAnswer, RecommendedItem, Served


def answer(number: int = 3, reasons: int = 0) -> RecommendAnswer:
    why = [Reason(kind="history", name="a title", value=0.1 * one) for one in range(reasons)]
    items = [RecommendedItem(item_id=f"i{n}", title="t", score=n / 7, rank=n, reasons=why) for n in range(number)]
    return RecommendAnswer(items=items, served=Served(model="m", variant="full", backend="b", milliseconds={}))


def test_the_one_asked_for_longest_ago_goes_first():
    kept = KeptAnswers(2)
    for name in (b"a", b"b"):
        kept.keep((0, 0, name), answer())
    assert kept.get((0, 0, b"a")) is not None
    kept.keep((0, 0, b"c"), answer())
    assert [kept.get((0, 0, name)) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_another_catalogue_makes_all_of_them_old():
    kept = KeptAnswers(9)
    kept.keep((0, 0, b"a"), answer())
    kept.keep((0, 1, b"a"), answer())
    assert len(kept) == 2
    kept.keep((1, 1, b"a"), answer())
    assert len(kept) == 1
    assert kept.get((0, 1, b"a")) is None


def test_none_are_held_where_none_are_to_be():
    kept = KeptAnswers(0)
    kept.keep((0, 0, b"a"), answer())
    assert (len(kept), kept.held_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"bb", b"ccc"]), st.integers(0, 4))))
def test_bytes_are_those_of_what_is_held(steps):
    kept = KeptAnswers(2)
    for catalogue, name, number in steps:
        kept.keep((catalogue, 0, name), answer(number, reasons=number))
    anew = KeptAnswers(2)
    for key, one in kept._kept.items():
        anew.keep(key, one)
    assert kept.held_bytes == anew.held_bytes
    kept.clear()
    assert kept.held_bytes == 0


def test_bytes_are_roughly_what_python_takes():
    kept, one = KeptAnswers(1), answer(10)
    kept.keep((0, 0, bytes(400)), one)
    parts = [one, one.items, one.served, *one.items, *(item.score for item in one.items), bytes(400)]
    assert 0.6 < sum(map(sys.getsizeof, parts)) / kept.held_bytes < 1.2
