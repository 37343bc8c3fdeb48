"""Recipes: their keys, and each on the real dataset against the figures of its README."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lanner.data.sources import load
from lanner.data.sources.recipe import data_folder, read_recipe, recipe_reference
from lanner.errors import ConfigError, DataError

RECIPES = Path(__file__).parents[2] / "recipes"
DATA = os.environ.get("LANNER_DATA")

# users, items, interactions, ties, ordered, sizes of the published parts
FIGURES = {
    "ml-1m": (6040, 3706, 1_000_209, None, False, []),
    "ml-1m-colakg": (6040, 3260, 998_539, None, False, [801_218, 197_321]),
    "gowalla-lightgcn": (29_858, 40_981, 1_027_370, None, False, [810_128, 217_242]),
    "lastfm-hetrec2011": (1892, 17_632, 92_834, 25_434, False, []),
    "lastfm-hetrec2011-no-tags": (1892, 17_632, 92_834, 25_434, False, []),
    "lastfm-hetrec2011-colakg": (1859, 2813, 71_294, 24_976, False, [57_786, 13_508]),
    "lastfm-hetrec2011-lightgcn": (1880, 4489, 52_668, 25_226, False, [42_135, 10_533]),
    "yelp-p5": (30_431, 20_033, 316_354, None, True, []),
    "yelp-social-diffnet": (17_235, 37_378, 207_945, 143_752, False, [185_869, 3497, 18_579]),
    "amazon-beauty-2014-5core": (22_363, 12_101, 198_502, None, True, []),
    "amazon-toys-2014-5core": (19_412, 11_924, 167_597, None, False, []),
    "amazon-scientific-2018-unisrec": (8442, 4385, 59_427, None, True, []),
    "zimnat-insurance": (29_132, 21, 66_353, None, False, []),
    "far-trans-metadata": (29_090, 806, 0, None, False, []),
}
TEXTS = {
    "ml-1m",
    "yelp-p5",
    "amazon-scientific-2018-unisrec",
    "lastfm-hetrec2011",
    "far-trans-metadata",
}


def test_every_recipe_has_its_figures_here():
    assert {path.stem for path in RECIPES.glob("*.toml")} == set(FIGURES)


@pytest.mark.skipif(not DATA, reason="LANNER_DATA does not name the folder of the real datasets")
@pytest.mark.parametrize("name", FIGURES)
def test_recipe_gives_the_published_figures(name):
    users, items, count, ties, ordered, parts = FIGURES[name]
    data = load(RECIPES / f"{name}.toml")
    assert (data.num_users, data.num_items, len(data.interactions)) == (users, items, count)
    assert (None if data.ties is None else len(data.ties.values)) == ties
    assert data.has_order is ordered
    partition = data.interactions.partition
    assert (np.bincount(partition).tolist() if partition is not None else []) == parts
    if name in TEXTS:
        assert all(data.item_catalogue.texts)


def test_every_key_is_documented_with_an_example():
    reference = recipe_reference()
    assert (RECIPES.parent / "docs" / "recipes.md").read_text() == reference, "run python -m benchmarks.readme"
    rows = [line.split(" | ") for line in reference.splitlines() if line.startswith("| `")]
    assert len(rows) > 35
    assert all(len(row[3]) > 10 and row[4].startswith("`") for row in rows)


def recipe(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "r"\nfoldr = "x"', "unknown setting 'foldr'; did you mean 'folder'"),
        (
            'name = "r"\n[interactions]\nuser = "u"\nitem = "i"\nfile = "f"\ntimestmap = "t"',
            "did you mean 'interactions.timestamp'",
        ),
        ('name = "r"\n[interactions]\nitem = "i"\nfile = "f"', r"the setting 'interactions\.user' is missing"),
        ('name = "r"\n[interactions]\nuser = "u"\nitem = "i"', r"interactions\.file is missing"),
        ('name = "r"\n[interactions]\nuser = "u"\nfile = "f"', "either item or wide"),
        (
            'name = "r"\n[interactions]\nuser = "u"\nitem = "i"\nfile = "f"\nformat = "%H:%M %Z"',
            r"interactions\.format: '%H:%M %Z' would skip the zone's name \(%Z\); write offsets and %z",
        ),
        ('name = "r"\n[items]\nfile = "f"\nid = 3', r"items\.id: received 3 \(int\), expected str"),
        ('name = "r"\n[items]\nfile = "f"\nid = "i"\nkeep = "all"', r"keep: received 'all' .* 'interacting', 'listed'"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe(tmp_path, text))


def test_a_recipe_that_is_no_toml(tmp_path):
    with pytest.raises(DataError, match=r"r\.toml: not TOML"):
        read_recipe(recipe(tmp_path, "name = "))


def test_where_the_data_lies(tmp_path, monkeypatch):
    beside, shared = (
        read_recipe(recipe(tmp_path, 'name = "r"')),
        read_recipe(recipe(tmp_path, 'name = "r"\nfolder = "set"')),
    )
    monkeypatch.setenv("LANNER_DATA", "/data")
    assert data_folder(beside, tmp_path / "r.toml") == tmp_path
    assert data_folder(shared, tmp_path / "r.toml") == Path("/data/set")
    monkeypatch.delenv("LANNER_DATA")
    assert data_folder(shared, tmp_path / "r.toml").name == "set"
    with pytest.raises(DataError, match="set LANNER_DATA"):
        load(tmp_path / "r.toml")


def test_a_folder_is_read_by_the_recipe_in_it_or_by_one_given(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "e.csv").write_text("who;what;stars\nann;7;5\nbob;8;1\n")
    path = recipe(
        tmp_path,
        'name = "r"\n[layout]\nseparator = ";"\n'
        '[interactions]\nfile = "e.csv"\nuser = "who"\nitem = "what"\nweight = "stars"\nminimum_weight = 3',
    )
    data = load(folder, str(path))
    assert data.users.external == ("ann",)
    assert data.rejected == {"weight below 3": 1}
    path.rename(folder / "r.toml")
    assert load(folder).users.external == ("ann",)


def test_wide_files_and_listed_entities(tmp_path):
    pl.DataFrame({"who": ["a", "b"], "p": [1, 0], "q": [1, 0], "sex": ["F", None]}).write_parquet(
        tmp_path / "w.parquet"
    )
    data = load(
        recipe(
            tmp_path,
            'name = "r"\n[interactions]\nfile = "w.parquet"\nuser = "who"\nwide = ["p", "q"]\n'
            '[users]\nfile = "w.parquet"\nid = "who"\nkeep = "listed"\ntext = ["Sex: {sex}."]\n',
        )
    )
    assert data.items.external == ("p", "q")
    assert data.users.external == ("a", "b")
    assert data.user_catalogue.texts == ("Sex: F.", "")
    assert data.histories.lengths.tolist() == [2, 0]


def test_parts_of_a_split_have_three_names(tmp_path):
    (tmp_path / "e.csv").write_text("user,item,partition\n1,2,test\n1,3,valid\n1,4,train\n")
    data = load(tmp_path / "e.csv")
    assert data.interactions.partitions == ("train", "validation", "test")
    assert data.interactions.partition.tolist() == [2, 1, 0]
    (tmp_path / "e.csv").write_text("user,item,partition\n1,2,later\n")
    with pytest.raises(DataError, match="unknown part 'later'"):
        load(tmp_path / "e.csv")


def test_order_inside_users(tmp_path):
    (tmp_path / "e.csv").write_text("user,item,order\n1,10,2\n1,11,0\n2,10,0\n1,12,1\n")
    data = load(tmp_path / "e.csv")
    assert data.has_order
    assert [data.items.external[item] for item in data.histories[0]] == ["11", "12", "10"]
