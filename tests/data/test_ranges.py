"""Numbers and dates as attributes, and values by name."""

import numpy as np
import polars as pl
import pytest

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.data.ranges import MOST_RANGES, ranged
from lanner.data.sources import load
from lanner.errors import ConfigError


def test_few_numbers_are_a_range_each_and_what_is_missing_has_none():
    found, unread = ranged(pl.Series(["7", None, "3.5", " 7 ", ""]), "")
    assert (found.names, found.edges, unread) == (("3.5", "7"), (3.5, 7.0), None)
    assert [found.codes[row].tolist() for row in range(5)] == [[1], [], [0], [1], []]
    assert [found.code(text) for text in ("3.5", "-1", "6.9", "7", "1e9")] == [0, 0, 0, 1, 1]
    assert found.code("young") is None
    assert found.code("nan") is None


def test_many_numbers_share_ranges_of_about_as_many_each():
    numbers = np.random.default_rng(0).exponential(size=10_000)
    found, _ = ranged(pl.Series(numbers), "")
    sizes = np.bincount(found.codes.values)
    assert len(found.names) == len(found.edges) == len(sizes) == MOST_RANGES
    assert sizes.min() > 0.5 * sizes.mean()
    assert [found.code(str(one)) for one in numbers[:50]] == found.codes.values[:50].tolist()


def test_dates_are_read_as_they_are_written():
    found, unread = ranged(pl.Series(["1/6/2013", "31/12/2012", "2013-06-01", None]), "%d/%m/%Y")
    assert found.names == ("2012-12-31", "2013-06-01")
    assert unread == "2013-06-01"
    assert [found.code(text) for text in ("2013-01-15", "2014-01-01", "1999-01-01T10:00:00+02:00")] == [0, 1, 0]
    dates = pl.Series(["2012-12-31", "2013-06-01"]).str.to_date()
    assert ranged(dates, "")[0].names == ("2012-12-31", "2013-06-01")


def test_a_column_without_numbers_has_no_ranges():
    found, unread = ranged(pl.Series(["x", None], dtype=pl.String), "")
    assert (found.names, found.edges, unread) == ((), (), "x")
    assert found.code("3") is None


def test_a_recipe_names_its_numbers(tmp_path):
    (tmp_path / "e.csv").write_text("who,what\nann,x\nbob,y\ncid,x\n")
    (tmp_path / "u.csv").write_text("who,born,joined,kind\nann,1990,2/1/2020,a\nbob,?,3/1/2020,b\ncid,1980,,a\n")
    recipe = tmp_path / "shop.toml"
    text = (
        'name = "shop"\n[interactions]\nfile = "e.csv"\nuser = "who"\nitem = "what"\n'
        '[users]\nfile = "u.csv"\nid = "who"\nattributes = { kind = "" }\n'
    )
    recipe.write_text(text + 'numbers = { born = "", joined = "%d/%m/%Y" }\n')
    data = load(recipe)
    people = data.user_catalogue
    assert {name: one.names for name, one in people.attributes.items()} == {
        "kind": ("a", "b"),
        "born": ("1980", "1990"),
        "joined": ("2020-01-02", "2020-01-03"),
    }
    assert data.warnings == ("u.csv: '?' in the column 'born' is not a number; it has no effect",)
    assert people.kinds.tolist() == [0, 0, 1, 1, 2, 2]
    assert [people.values[row].tolist() for row in range(3)] == [[0, 3, 4], [1, 5], [0, 2]]
    assert data.user_batch(np.array([1])).attributes[0].tolist() == [1, 5]
    recipe.write_text(text + 'numbers = { kind = "" }\n')
    with pytest.raises(ConfigError, match="'kind' is named in both attributes and numbers"):
        load(recipe)


def test_frames_name_theirs():
    events = pl.DataFrame({"user": [1, 2, 3], "item": [7, 8, 7]})
    users = pl.DataFrame({"user": [1, 2, 3], "age": [30, None, 50], "sex": ["f", "m", "f"]})
    made = Dataset.from_frames(events, users=users, attributes="sex", numbers="age")
    assert made.user_catalogue.attributes["age"].edges == (30.0, 50.0)
    values, unknown = made.user_catalogue.find({"age": ["41"], "sex": ["m", "x"], "shoes": ["44"]})
    assert values.tolist() == [1, 2]
    assert unknown == ["sex: x", "shoes: 44"]


def test_a_catalogue_without_attributes_has_no_values():
    blank = Catalogue.blank(("a", "b"))
    assert len(blank.values) == 2
    assert not len(blank.kinds)
    assert blank.find({"sex": ["f"]})[1] == ["sex: f"]
    empty = Catalogue(("", ""), ("", ""), {"none": Attribute((), Ragged.empty(2))})
    assert empty.values.lengths.tolist() == [0, 0]
