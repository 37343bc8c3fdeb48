"""Reasons in words."""

from dataclasses import replace

import polars as pl
import pytest

from lanner import Dataset
from lanner.inference.explain import Explanation, ScorePart
from lanner.inference.wording import Wording

TITLES, USERS = ("Alien", "Brazil", "Cube", "Wire, The (2002)"), ("Uma", "Vic")
PLAIN = Wording(TITLES.__getitem__, USERS.__getitem__)
HISTORY = ScorePart("history", 1, 0.25), ScorePart("history", 0, 0.5)


def explained(*parts, item=2):
    return Explanation(item, sum(part.value for part in parts), parts)


def test_the_strongest_items_are_listed_once_and_what_speaks_against_is_left_out():
    found = explained(*HISTORY, ScorePart("popularity", -1, -0.1))
    assert PLAIN.sentence("Cube", found) == "Cube is recommended because you chose Alien and Brazil."
    assert PLAIN.cell(found) == "you chose Alien and Brazil"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("friend", 0)], "your friend Uma chose it"),
        ([("friend", 0), ("friend", 1)], "your friends Uma and Vic chose it"),
        ([("text", -1)], "its description is close to what you chose"),
        ([("query", -1)], "it matches your search"),
        ([("profile", -1)], "it suits your profile"),
        ([("popularity", -1)], "it is popular"),
        ([("history", 0), ("friend", 1)], "you chose Alien and your friend Vic chose it"),
    ],
)
def test_every_kind_has_words(parts, words):
    assert PLAIN.cell(explained(*(ScorePart(kind, row, 1.0 / (n + 1)) for n, (kind, row) in enumerate(parts)))) == words


def test_what_is_of_one_kind_is_said_together():
    found = explained(ScorePart("history", 0, 0.9), ScorePart("friend", 0, 0.5), ScorePart("history", 1, 0.4))
    told = "you chose Alien and Brazil, and your friend Uma chose it"
    assert PLAIN.sentence("Cube", found) == f"Cube is recommended because {told}."


def test_an_item_is_no_reason_for_itself_nor_is_what_has_no_name():
    found = explained(ScorePart("history", 2, 9.0), ScorePart("history", -1, 8.0, 7), ScorePart("head", -1, 7.0))
    assert PLAIN.sentence("Cube", found) == "No known reason to recommend Cube to this user."
    assert PLAIN.cell(found) == ""


def test_what_holds_for_everyone_is_said_only_where_nothing_personal_speaks():
    assert PLAIN.cell(explained(ScorePart("popularity", -1, 9.0), ScorePart("history", 0, 0.5))) == "you chose Alien"


def test_titles_are_said_as_people_say_them():
    assert PLAIN.cell(explained(ScorePart("history", 3, 1.0))) == "you chose The Wire (2002)"
    long = replace(PLAIN, item_title=lambda row: "steel bolt, " * 20)
    assert PLAIN.sentence("Amélie, L' (2001)", explained()).startswith("No known reason to recommend L'Amélie (2001)")
    told = long.cell(explained(ScorePart("history", 0, 1.0)))
    assert told.endswith("steel bolt…")
    assert len(told) < 100


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([{"genres": ["Horror"]}] * 3, "you chose Alien and Brazil (all three are Horror)"),
        ([{"directors": ["Ann Lee"]}] * 3, "you chose Alien and Brazil (all three are by Ann Lee)"),
        ([{"actors": ["Bo", "Al"]}] * 3, "you chose Alien and Brazil (all three star Al and Bo)"),
        ([{"colour": ["red"]}] * 3, "you chose Alien and Brazil (all three have the same colour: red)"),
        ([{"genres": ["Horror"]}, {"genres": ["Horror"]}, {"genres": []}], "you chose Alien and Brazil"),
        ([{"genres": ["Drama"]}] * 3, "you chose Alien and Brazil"),
        (
            [{"genres": ["Horror"], "directors": ["Ann Lee"]}] * 3,
            "you chose Alien and Brazil (all three are by Ann Lee)",
        ),
    ],
)
def test_what_the_items_have_in_common_is_said_where_it_is_rare(held, words):
    shares = {"genres": {"Horror": 0.1, "Drama": 0.6}, "directors": {}, "actors": {}, "colour": {}}
    wording = replace(PLAIN, attributes_of=held.__getitem__, shares=shares)
    assert wording.cell(explained(*HISTORY)) == words


@pytest.mark.parametrize(
    ("columns", "verb"),
    [
        ({}, "chose"),
        ({"rating": [1.0, 5.0, 4.0]}, "liked"),
        ({"event": ["purchase", "purchase", "dislike"]}, "bought"),
        ({"event": ["Watch", "watched", "Watch"]}, "watched"),
        ({"event": ["view", "purchase", "view"]}, "chose"),
        ({"event": ["frobnicate"] * 3}, "chose"),
    ],
)
def test_the_verb_is_what_users_did(columns, verb):
    data = Dataset.from_frames(pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "y"], **columns}))
    assert Wording.of(data).verb == verb


def test_a_dataset_says_what_its_items_have_in_common():
    names = list("xyzuvw")
    items = pl.DataFrame({"item": names, "title": [name.upper() for name in names], "brand": ["A", "A", *"BCDE"]})
    items = items.with_columns(shelf=pl.Series(["1", "1", *[None] * 4]))  # too few have one for it to be told
    events = pl.DataFrame({"user": ["a", "a", "a", "b", "b", "b"], "item": names})
    data = Dataset.from_frames(events, items=items, attributes=["brand", "shelf"])
    x, y, z = data.items.rows("xyz").tolist()
    wording = Wording.of(data)
    assert wording.cell(explained(ScorePart("history", x, 1.0), item=y)) == "you chose X (both are by A)"
    assert wording.cell(explained(ScorePart("history", x, 1.0), item=z)) == "you chose X"
    assert wording.sentence("Z", explained(ScorePart("history", x, 1.0), item=z)).endswith("because you chose X.")
