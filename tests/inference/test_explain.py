"""Reasons in words."""

import pytest

from lanner.inference.explain import Explanation, ScorePart, reasons, said, sentence, short_reason

TITLES, USERS = ("Alien", "Brazil", "Cube"), ("Uma",)


def clauses(*parts):
    explained = Explanation(2, sum(part.value for part in parts), parts)
    return said(explained, TITLES.__getitem__, USERS.__getitem__)


def test_items_are_listed_once_and_what_speaks_against_is_left_out():
    parts = ScorePart("history", 1, 0.25), ScorePart("history", 0, 0.5), ScorePart("popularity", -1, -0.1)
    told = clauses(*parts)
    assert sentence("Cube", told) == "Cube is recommended because you chose Alien and Brazil."
    assert short_reason(told) == "you chose Alien and Brazil"
    named = reasons(Explanation(2, 0.65, parts), TITLES.__getitem__, USERS.__getitem__)
    assert [reason.value for reason in named] == [0.5, 0.25, -0.1]


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("friend", 0, "Uma chose it"),
        ("text", -1, "its description matches your taste"),
        ("query", -1, "it matches your search"),
        ("profile", -1, "it matches your profile"),
        ("popularity", -1, "it is popular"),
    ],
)
def test_every_kind_has_words(kind, row, words):
    assert clauses(ScorePart(kind, row, 1.0)) == [words]


def test_every_part_has_a_name():
    kinds = ("text", "query", "profile", "popularity", "head")
    parts = (
        ScorePart("history", -1, 1.0, 12),
        ScorePart("friend", -1, 1.0, 3),
        *(ScorePart(k, -1, 1.0) for k in kinds),
    )
    named = reasons(Explanation(2, 7.0, parts), TITLES.__getitem__, USERS.__getitem__)
    assert all(reason.name for reason in named)
    assert [reason.name for reason in named][:2] == ["12 other items of your history", "3 other friends"]


def test_an_item_is_no_reason_for_itself_nor_is_what_has_no_name():
    told = clauses(ScorePart("history", 2, 9.0), ScorePart("history", -1, 8.0, 7), ScorePart("head", -1, 7.0))
    assert told == []
    assert sentence("Cube", told) == "No known reason to recommend Cube to this user."
    assert short_reason(told) == ""


def test_what_holds_for_everyone_is_said_only_where_nothing_personal_speaks():
    assert clauses(ScorePart("popularity", -1, 9.0), ScorePart("history", 0, 0.5)) == ["you chose Alien"]
