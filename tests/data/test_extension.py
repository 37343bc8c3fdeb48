"""Extending a dataset with more events: known rows keep their positions, new ones follow."""

import numpy as np
import polars as pl
import pytest

from lanner import Dataset
from lanner.data.extension import extended
from lanner.errors import DataError

ITEMS = pl.DataFrame({"item": ["x", "y"], "title": ["X", "Y"], "genre": ["noir", "war"]})


def dataset(rows, items=ITEMS, columns=("user", "item", "time", "rating"), **more) -> Dataset:
    return Dataset.from_frames(
        pl.DataFrame(rows, schema=list(columns), orient="row"), items=items, attributes="genre", **more
    )


@pytest.fixture
def known() -> Dataset:
    return dataset([("b", "x", 10, 5.0), ("b", "y", 20, 1.0), ("a", "x", 30, 4.0)])


@pytest.fixture
def later() -> Dataset:
    items = pl.DataFrame({"item": ["q", "x"], "title": ["Q", "Another X"], "genre": ["war", "western"]})
    return dataset([("c", "q", 40, 2.0), ("b", "x", 15, 1.0), ("a", "q", 50, 5.0), ("a", "x", 30, 4.0)], items)


def named(data: Dataset) -> list[tuple]:
    events = data.interactions
    users, items = data.user_ids, data.item_ids
    times = (events.timestamp // 10**9).tolist()
    return [
        (users[user], items[item], time, weight)
        for user, item, time, weight in zip(events.user, events.item, times, events.weight.tolist(), strict=True)
    ]


def test_known_rows_keep_their_places_and_events_lie_in_time(known, later):
    whole = extended(known, later)
    assert whole.item_ids[:2] == known.item_ids
    assert whole.user_ids[:2] == known.user_ids
    assert (whole.item_ids[2:], whole.user_ids[2:]) == (["q"], ["c"])
    assert named(whole) == [
        *(("b", "x", 10, 5.0), ("b", "x", 15, 1.0), ("b", "y", 20, 1.0)),
        *(("a", "x", 30, 4.0), ("c", "q", 40, 2.0), ("a", "q", 50, 5.0)),
    ]


def test_known_items_keep_what_is_known_of_them_and_new_ones_bring_it(known, later):
    catalogue = extended(known, later).item_catalogue
    assert catalogue.titles == ("X", "Y", "Q")
    assert catalogue.attributes_of(2) == {"genre": ["war"]}
    assert catalogue.attributes_of(0) == {"genre": ["noir"]}
    assert catalogue.texts[2] == "Q"


def test_numbers_of_new_users_fall_into_the_known_ranges():
    first, more = (
        Dataset.from_frames(
            pl.DataFrame({"user": list(names), "item": ["x"] * len(names)}),
            users=pl.DataFrame({"user": list(names), "age": ages, "club": clubs}),
            attributes="club",
            numbers="age",
        )
        for names, ages, clubs in (
            ("abc", [20, 30, 40], ["p", "q", "q"]),
            ("cdef", [99, 35, 50, 5], ["r", "q", "s", None]),
        )
    )
    people = extended(first, more).user_catalogue
    assert people.attributes["age"].edges == (20.0, 30.0, 40.0)
    assert people.attributes["age"].names == ("20", "30", "40")
    assert [people.attributes_of(row) for row in range(2, 6)] == [
        {"club": ["q"], "age": ["40"]},
        {"club": ["q"], "age": ["30"]},
        {"club": ["s"], "age": ["40"]},
        {"club": [], "age": ["20"]},
    ]
    blank = Dataset.from_frames(pl.DataFrame({"user": ["a"], "item": ["x"]}))
    grown = extended(blank, more).user_catalogue.attributes["age"]
    assert grown.edges == more.user_catalogue.attributes["age"].edges
    assert [grown.codes[row].tolist() for row in range(2)] == [[], [3]]


def test_ratings_are_read_as_they_were_and_the_latest_decides(known, later):
    whole = extended(known, later)
    assert whole.feedback is known.feedback
    # b liked x first and did not later; c's rating is low on the scale of the known ratings
    assert [whole.histories[row].tolist() for row in whole.users.rows("abc")] == [[0, 2], [], []]


def test_the_same_events_again_change_nothing(known, later):
    once = extended(known, later)
    again = extended(once, later)
    np.testing.assert_array_equal(again.interactions.timestamp, once.interactions.timestamp)
    assert again.item_ids == once.item_ids


def test_behaviours_and_ratings_that_only_one_side_has():
    first = dataset([("a", "x", "view"), ("a", "y", "buy")], columns=("user", "item", "event"))
    more = dataset([("a", "x", "hide"), ("b", "y", "buy"), ("a", "y", "buy")], columns=("user", "item", "event"))
    whole = extended(first, more)
    assert len(whole.interactions) == 4
    assert [whole.interactions.behaviours[code] for code in whole.interactions.behaviour[2:]] == ["hide", "buy"]
    assert whole.histories[whole.users.row("a")].tolist() == [whole.items.row("y")]
    plain = dataset([("b", "x")], columns=("user", "item"))
    assert extended(first, plain).interactions.behaviours[-1] == "interaction"
    rated = dataset([("a", "x", 1.0), ("a", "y", 5.0)], columns=("user", "item", "rating"))
    assert np.isnan(extended(rated, plain).interactions.weight[-1])


def test_friends_of_both_sides_are_known():
    ties = pl.DataFrame({"user": ["a"], "friend": ["b"]})
    first = dataset([("a", "x"), ("b", "x")], columns=("user", "item"), ties=ties)
    more = dataset([("a", "y"), ("c", "y")], columns=("user", "item"), ties=ties.with_columns(friend=pl.lit("c")))
    whole = extended(first, more)
    assert sorted(whole.ties[whole.users.row("a")].tolist()) == sorted(whole.users.rows("bc").tolist())
    assert len(whole.ties) == 3


def test_links_of_both_sides_are_known():
    links = pl.DataFrame({"item": ["x"], "related": ["y"]})
    first = dataset([("a", "x"), ("b", "y")], columns=("user", "item"), links=links)
    more = dataset([("a", "z"), ("a", "x")], columns=("user", "item"), links=links.with_columns(related=pl.lit("z")))
    whole = extended(first, more)
    assert sorted(whole.links[whole.items.row("x")].tolist()) == sorted(whole.items.rows("yz").tolist())
    assert len(whole.links) == 3


def test_events_without_times_are_refused_where_times_are_known(known):
    with pytest.raises(DataError, match="have no times"):
        extended(known, dataset([("a", "y")], columns=("user", "item")))
