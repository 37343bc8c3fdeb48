"""The third-party protocols that ``benchmarks.quality`` follows."""

import polars as pl

from benchmarks._protocols import split_of
from lanner.config import SplitConfig
from lanner.data.interactions import Dataset


def test_last_events_are_asked_for_in_the_order_of_the_times_that_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("LANNER_DATA", str(tmp_path))
    (tmp_path / "ml-1m").mkdir()
    events = [(7, 2, 30), (7, 1, None), (7, 5, 99), (7, 4, 20), (7, 3, 10), (8, 1, None), (8, 2, None), (8, 3, 50)]
    ratings = pl.DataFrame(events, ["user_id", "movie_id", "timestamp"], orient="row")
    ratings.write_parquet(tmp_path / "ml-1m" / "ratings.parquet")
    asked = [(7, 5, [6, 1]), (8, 3, [4, 99])]  # nobody rated 6 and 99
    pl.DataFrame(asked, ["user_id", "movie_id", "negatives"], orient="row").write_parquet(
        tmp_path / "ml-1m" / "ncf_leave_one_out_test.parquet"
    )
    data = Dataset.from_frames(ratings.select("user_id", "movie_id"), user="user_id", item="movie_id")
    split = split_of(data, "ncf", SplitConfig(name="published"))

    def items(rows):
        return [data.item_ids[row] for row in rows]

    seven, eight = data.users.rows(["7", "8"])
    assert split.train.has_order
    assert items(split.train.histories[seven]) == [1, 3, 4]
    assert [(row, items(split.validation.positives[0])) for row in split.validation.rows] == [(seven, [2])]
    assert split.test.rows.tolist() == [seven, eight]
    assert [items(split.test.positives[place]) for place in (0, 1)] == [[5], [3]]
    assert [items(split.test.candidates[place]) for place in (0, 1)] == [[5, 1], [3, 4]]
