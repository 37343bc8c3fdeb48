"""Ids in requests: known ids are returned as in the dataset, and no id causes a traceback."""

import numpy as np
import polars as pl
import pytest

import lanner

LARGE = 99999999999999999999


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("asked", "given_back"),
    [
        ([3.0], [3]),
        (3.0, [3]),
        (np.array(3), [3]),
        ([np.float32(3)], [3]),
        (pl.Series([3.0, 2.0]), [3, 2]),
        (["3", 2], [3, 2]),
        (["999"], [999]),
        (["²"], ["²"]),
        (["--5"], ["--5"]),
        (["007", 7], ["007", "7"]),
        ([1, "q"], ["1", "q"]),
        ([LARGE], [str(LARGE)]),
        ([str(LARGE), 3], [str(LARGE), "3"]),
    ],
)
def test_users_are_called_as_in_the_dataset(knn, tmp_path, asked, given_back):
    found = knn.recommend(users=asked, k=1)
    assert found["user_id"].to_list() == given_back
    lanner.export_recommendations(knn, tmp_path / "r.parquet", k=1, users=asked)
    assert pl.read_parquet(tmp_path / "r.parquet")["user_id"].to_list() == given_back


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_notes_name_each_id_once_and_as_it_is_kept(knn):
    notes = knn.recommend(users=[1, 999.0, "999", "q"], k=1).notes
    assert notes.unknown == ("999", "q")
    assert notes.fallback == (999, 999, "q")
    assert knn.explain(None, 103, history=[101.0, 99.0]).unknown == ("99",)


def test_a_whole_number_in_a_frame_is_known_to_an_export(knn, tmp_path):
    found = lanner.export_recommendations(knn, tmp_path / "r.csv", k=2, users=pl.Series([3.0, 3.0]))
    assert (found.users, found.unknown) == (1, 0)


def test_no_users_have_the_type_of_the_ids(knn):
    assert knn.recommend(users=[], k=1).schema == knn.recommend(users=[2], k=1).schema


def test_space_around_an_id_is_ignored_as_in_files(tmp_path):
    events = pl.DataFrame({"user_id": [" a", "a", "b\t", "c", "c"], "item_id": ["x ", "y", "x", " y", "z"]})
    model = lanner.ItemKNN().fit(lanner.Dataset.from_frames(events))
    found = model.recommend(users=events["user_id"], k=1)
    assert found.notes.unknown == ()
    assert set(found["user_id"]) == {"a", "b", "c"}
    assert model.recommend(histories=[["x ", "\ty"]], k=1).equals(model.recommend(histories=[["x", "y"]], k=1))
    assert model.similar_items([" x"], k=1).equals(model.similar_items(["x"], k=1))
    assert model.explain(" b", "z\n").score == model.explain("b", "z").score
    assert lanner.export_recommendations(model, tmp_path / "r.csv", users=[" a", "a"]).users == 1
