"""Reasons in words."""

import numpy as np

from lanner.artifact.reasons import explanation_table, reasons, sentence, short_reason
from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.models.recommender import Explanation, ScorePart

DATASET = Dataset(
    interactions=Interactions(np.array([0], np.int32), np.array([0], np.int32)),
    users=IdMap(["u"]),
    items=IdMap(["a", "b", "c"]),
    item_catalogue=Catalogue(
        ("", "", ""), ("Alien", "Brazil", "Cube"), {"genre": Attribute(("noir",), Ragged.from_lists([[0], [], []]))}
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
    kinds = [("friend", 0), ("text", 0), ("profile", -1), ("attribute", 0), ("popularity", -1), ("head", -1)]
    for kind, row in kinds:
        assert sentence(explained(ScorePart(kind, row, 1.0)), DATASET).startswith("Cube is suggested because ")
    assert "Uma" in sentence(explained(ScorePart("friend", 0, 1.0)), DATASET)
    assert "genre noir" in sentence(explained(ScorePart("attribute", 0, 1.0)), DATASET)


def test_nothing_to_say():
    assert sentence(explained(), DATASET) == "Nothing known of this user speaks for Cube."
    assert short_reason(explained(), DATASET) == ""
