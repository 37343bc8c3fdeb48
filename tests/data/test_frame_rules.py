"""Frames are read by the same rules as files."""

import pandas as pd
import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.data.sources import load
from lanner.errors import ConfigError, DataError

SHOP = {
    "user_id": ["u", "v", "u", "w"],
    "item_id": ["a", "a", "b", "a"],
    "title": ["Old", "<b>New</b> &amp; shiny\x07", None, ""],
    "description": ["first", None, "<p>only</p>", None],
}


@pytest.mark.parametrize("frame", [pl.DataFrame, pd.DataFrame])
def test_titles_and_texts_of_events_are_those_that_a_file_gives(tmp_path, frame):
    pl.DataFrame(SHOP).write_csv(tmp_path / "shop.csv")
    read, made = load(tmp_path / "shop.csv").item_catalogue, Dataset.from_frames(frame(SHOP)).item_catalogue
    assert made.titles == read.titles == ("New & shiny", "b")
    assert made.texts == ("New & shiny\n", "\nonly")


def test_lists_and_titles_of_items_are_plain():
    items = {"item_id": ["a", "b"], "title": ["<i>A</i>", "B\x00"], "tags": [["x &amp; y", " <b>z</b> "], None]}
    made = Dataset.from_frames(pl.DataFrame(SHOP).select("user_id", "item_id"), items=pl.DataFrame(items),
                               text=["title", "tags"], attributes="tags")  # fmt: skip
    assert made.item_catalogue.titles == ("A", "B")
    assert made.item_catalogue.texts == ("A\nx & y, z", "B\n")
    assert made.item_catalogue.attributes["tags"].names == ("x & y", "z")


@pytest.mark.parametrize("year", [[1999, None], pd.array([1999, None], "Int64")])
def test_a_year_with_a_gap_is_a_whole_number(year):
    items = pd.DataFrame({"item_id": ["a", "b"], "year": year})
    events = pd.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"]})
    made = Dataset.from_frames(events, items=items, text="year", attributes=["year"])
    assert made.item_catalogue.attributes["year"].names == ("1999",)
    assert made.item_catalogue.texts == ("1999", "")


def test_columns_may_have_numbers_for_names():
    events = pd.DataFrame([[7, "a", 5], [8, "b", 4]])
    made = Dataset.from_frames(events, user=0, item=1, rating=2)
    assert made.user_ids == [7, 8]
    assert made.interactions.weight.tolist() == [5, 4]
    described = Dataset.from_frames(
        pd.DataFrame([["a", 7, "red"], ["b", 8, "blue"]]), user=1, item=0, title=2, text=2, attributes=[2]
    )
    assert described.item_catalogue.titles == described.item_catalogue.texts == ("red", "blue")
    assert described.item_catalogue.attributes["2"].names == ("blue", "red")


def test_one_name_is_one_column():
    users = pl.DataFrame({"user_id": ["u", "v", "w"], "likes": ["x", "y", "z"]})
    made = Dataset.from_frames(pl.DataFrame(SHOP), users=users, text="title", attributes="description", profile="likes")
    assert made.item_catalogue.texts == ("New & shiny", "")
    assert made.item_catalogue.attributes["description"].names == ("first", "only")
    assert made.user_catalogue.texts == ("x", "y", "z")


@pytest.mark.parametrize(
    ("frame", "options", "problem"),
    [
        (pd.DataFrame([[1, 2, 3]], columns=["user", "item", "item"]), {}, "events.*'item'.*rename one"),
        (pd.DataFrame([[1, 2, 3]], columns=[0, "0", "item"]), {"user": 0}, "events.*'0'.*rename one"),
        (pl.DataFrame({"user": [1], "item": [2], "id": [3]}), {"attributes": "id"}, "items.*'id'.*rename the column"),
        (
            pl.DataFrame({"user": [1, 2], "item": [2, 3], "time": ["x", "y"]}),
            {},
            r"events, row 0, field 'time': unreadable timestamp 'x'",
        ),
        (
            pl.DataFrame({"user": [1, 2], "item": [2, 3], "time": [1_600_000_000, 1_600_000_000_000]}),
            {},
            r"events, row 1, field 'time': .* but row 0 has 1600000000",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_said_of_its_row_in_one_line(frame, options, problem):
    with pytest.raises((DataError, ConfigError), match=problem) as told:
        Dataset.from_frames(frame, **options)
    assert "\n" not in str(told.value)


def test_rejected_rows_of_a_frame_are_rows():
    events = pl.DataFrame({"user": ["x", None, "y"], "item": ["a", "b", "a"]})
    with pytest.warns(UserWarning, match=r"1 missing user id \(events, row 1\)"):
        Dataset.from_frames(events)
