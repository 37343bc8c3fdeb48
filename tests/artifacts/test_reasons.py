"""Reasons in words."""

import numpy as np

from lanner.artifacts.reasons import explanation_table, reasons, sentence, short_reason
from lanner.data.catalogue import FIELD_SEPARATOR, Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.models.recommender import Explanation, ScorePart

DATASET = Dataset(
    interactions=Interactions(np.array([0], np.int32), np.array([0], np.int32)),
    users=IdMap(["u"]),
    items=IdMap(["a", "b", "c"]),
    item_catalogue=Catalogue(
        ("", "", f"Cube{FIELD_SEPARATOR}a maze {'x' * 99} of rooms"),
        ("Alien", "Brazil", "Cube"),
        {"genre": Attribute(("noir",), Ragged.from_lists([[0], [], []]))},
    ),
    user_catalogue=Catalogue.blank(("Uma",)),
)


def explained(*parts):
    return Explanation(2, sum(part.value for part in parts), parts)


def test_items_are_listed_once_and_what_speaks_against_is_left_out():
    one = explained(ScorePart("history", 1, 0.25), ScorePart("history", 0, 0.5), ScorePart("popularity", -1, -0.1))
    assert sentence(one, DATASET) == "Cube is suggested because you chose Alien and Brazil."
    assert short_reason(one, DATASET) == "you chose Alien and Brazil"
    assert [reason.value for reason in reasons(one, DATASET)] == [0.5, 0.25, -0.1]
    assert np.isclose(sum(part["value"] for part in explanation_table(one, DATASET)["parts"]), one.score)


def test_every_kind_has_words():
    kinds = [("friend", 0), ("text", 0), ("profile", -1), ("popularity", -1), ("head", -1)]
    for kind, row in kinds:
        assert sentence(explained(ScorePart(kind, row, 1.0)), DATASET).startswith("Cube is suggested because ")
    assert "friends such as Uma chose it" in sentence(explained(ScorePart("friend", 0, 1.0)), DATASET)
    assert "your friends chose it" in sentence(explained(ScorePart("friend", -1, 1.0)), DATASET)


def test_passages_are_quoted_and_cut_short():
    assert "“Cube” suits you" in sentence(explained(ScorePart("text", 0, 1.0)), DATASET)
    assert "“a maze…” suits you" in sentence(explained(ScorePart("text", 1, 1.0)), DATASET)
    assert "the wording of its text suits you" in sentence(explained(ScorePart("text", 2, 1.0)), DATASET)


def test_a_short_reason_prefers_what_is_about_this_user():
    one = explained(ScorePart("popularity", -1, 9.0), ScorePart("head", -1, 8.0), ScorePart("history", 0, 0.5))
    assert short_reason(one, DATASET) == "you chose Alien and many others chose it"


def test_nothing_to_say():
    assert sentence(explained(), DATASET) == "Nothing known of this user speaks for Cube."
    assert short_reason(explained(), DATASET) == ""


def test_a_short_reason_joins_what_was_done_and_what_the_text_says():
    one = explained(ScorePart("text", 2, 3.0), ScorePart("text", 1, 2.0), ScorePart("history", 0, 0.5))
    assert short_reason(one, DATASET) == "you chose Alien and the wording of its text suits you"
