"""Frames of three libraries are read by the same rules as files and returned as the same kind."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

import lanner
from lanner.data.frames import kind_of, to_frame

EVENTS = {"user_id": [1, 1, 2, 2, 3], "item_id": ["a", "b", "a", "c", "b"]}


def native(frame: pl.DataFrame, kind: str):
    if kind == "arrow":
        pytest.importorskip("pyarrow")
    return to_frame(frame.to_dict(as_series=False), kind)


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrow"])
def test_frames_come_out_as_the_kind_that_went_in_with_ids_of_the_type_that_went_in(shop, data, knn, kind, tmp_path):
    made = lanner.Dataset.from_frames(
        native(shop.events, kind),
        items=native(shop.items, kind),
        users=native(shop.users, kind),
        ties=native(shop.ties, kind),
        time="ts",
        text=["title", "plot"],
        profile=["likes"],
        attributes=["genres"],
    )
    assert made.user_ids == data.user_ids == list(range(24))
    assert made.item_ids == data.item_ids == list(range(100, 111))
    assert made.item_catalogue.texts == data.item_catalogue.texts
    assert made.item_catalogue.attributes["genres"].names == ("Drama", "Horror")
    assert made.user_catalogue.texts == data.user_catalogue.texts
    assert np.array_equal(made.ties.values, data.ties.values)
    for name in ("user", "item", "timestamp", "weight", "confidence"):
        assert np.array_equal(getattr(made.interactions, name), getattr(data.interactions, name)), name
    found = lanner.ItemKNN().fit(made).recommend(users=[2, "3"], k=3)
    assert kind_of(found) == kind
    as_dict = (
        found.to_pydict()
        if kind == "arrow"
        else pl.DataFrame(dict(found.items())).to_dict(as_series=False)
        if kind == "pandas"
        else found.to_dict(as_series=False)
    )
    assert as_dict == knn.recommend(users=[2, 3], k=3).to_dict(as_series=False)
    assert all(isinstance(one, int) for one in as_dict["user_id"] + as_dict["item_id"])


def test_ids_keep_their_type_in_a_bundle(knn, tmp_path):
    loaded = lanner.load(knn.save(tmp_path / "bundle"))
    assert loaded.dataset.item_ids == knn.dataset.item_ids
    assert loaded.recommend(users=[2, 5], k=4).equals(knn.recommend(users=[2, 5], k=4))
    again = lanner.load(loaded.save(tmp_path / "copy"))
    assert again.similar_items([100], k=3).equals(knn.similar_items([100], k=3))


def test_columns_are_found_by_their_usual_names_and_ratings_count():
    made = lanner.Dataset.from_frames(
        pl.DataFrame({"userId": ["x", "x", "y"], "movieId": ["a", "b", "a"], "rating": [5, 1, 4]})
    )
    assert made.user_ids == ["x", "y"]
    assert made.interactions.confidence.tolist()[1] == 0
    assert len(made.histories.values) == 2
    everything = lanner.Dataset.from_frames(
        pl.DataFrame({"u": ["x", "y"], "i": ["a", "b"], "stars": [1, 5]}), user="u", item="i", positive_threshold="none"
    )
    assert len(everything.histories.values) == 2


@pytest.mark.parametrize(
    ("events", "options", "problem"),
    [
        ({"who": [1], "item_id": [1]}, {}, r"events: no column looks like the user \(who, item_id\); name it: user=…"),
        (EVENTS, {"user": "uid"}, r"events, field 'uid': no such column; the frame has user_id, item_id"),
        (EVENTS, {"text": ["plot"]}, r"items, field 'plot': no such column"),
        ({**EVENTS, "userid": EVENTS["user_id"], "uid": [1] * 5}, {"item": "item_id", "user": None}, None),
        ({"userid": [1], "uid": [1], "item": [2]}, {}, r"'userid' and 'uid' both look like the user; choose: user=…"),
        ({"user_id": [], "item_id": []}, {}, "has no usable interactions"),
        (
            {**EVENTS, "rating": [1.0, 1, 2, 1, 1]},
            {"positive_threshold": 4.0},
            r"no event is positive .*set positive_threshold",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_said_in_one_line(events, options, problem):
    if problem is None:
        assert lanner.Dataset.from_frames(pl.DataFrame(events), **options).num_users == 3
        return
    with pytest.raises(lanner.DataError, match=problem) as told:
        lanner.Dataset.from_frames(pl.DataFrame(events), **options)
    assert "\n" not in str(told.value)


def test_what_is_no_frame_is_refused():
    with pytest.raises(lanner.ConfigError, match="events: received list, expected a pandas, Polars or Arrow frame"):
        lanner.Dataset.from_frames([1, 2])


def test_rejected_rows_are_a_warning():
    events = pl.DataFrame({"user_id": ["x", None, "y"], "item_id": ["a", "b", "a"]})
    with pytest.warns(UserWarning, match="1 of 3 events were rejected: 1 missing user id"):
        made = lanner.Dataset.from_frames(events)
    assert made.rejected == {"missing user id": 1}


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_times_are_read_as_they_come(kind):
    times = [datetime(2020, 1, 1, 12, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)]
    frame = {"user": ["x", "y"], "item": ["a", "b"], "when": times}
    events = pl.DataFrame(frame) if kind == "polars" else pd.DataFrame(frame)
    read = lanner.Dataset.from_frames(events, time="when").interactions.timestamp
    assert read.tolist() == [int(time.timestamp()) * 10**9 for time in times]


def test_a_column_of_pandas_with_a_gap_holds_integers_still():
    events = pd.DataFrame({"user": [1, 2, None], "item": ["a", "b", "a"], "brand": ["x|y", None, "x"]})
    with pytest.warns(UserWarning, match="rejected"):
        made = lanner.Dataset.from_frames(events, attributes={"brand": "|"})
    assert made.user_ids == [1, 2]
    assert made.item_catalogue.attributes["brand"].names == ("x", "y")
    assert 1.0 in made.users
    assert np.int64(2) in made.users


def test_a_misspelt_column_of_a_frame_is_a_warning():
    events = pl.DataFrame({"user_id": ["x"], "item_id": ["a"], "timestmap": [1], "brand": ["b"], "city": ["Graz"]})
    with pytest.warns(UserWarning, match="events: column 'timestmap' is not read; did you mean 'timestamp'?"):
        made = lanner.Dataset.from_frames(events, attributes="brand")
    assert made.unread == ("timestmap", "city")


def test_descriptions_beside_events_are_unread_where_a_frame_of_items_has_its_own(recwarn):
    events = pl.DataFrame({"user_id": ["x"], "item_id": ["a"], "title": ["A"]})
    made = lanner.Dataset.from_frames(events, items=pl.DataFrame({"item_id": ["a"], "title": ["The A"]}))
    assert made.unread == ("title",)
    assert not recwarn


def test_different_values_of_an_attribute_in_the_rows_of_an_item_are_a_warning(recwarn):
    items = ["a", "a", "b", "b", "c", "c", "c"]
    columns = {
        "brand": ["x", "y", "x", "x", None, "z", ""],
        "tags": [["s", "t"], ["t", "s"], ["s"], [], ["s"], ["t"], ["t"]],
        "price": [1.0, 1.0, float("nan"), 2.0, 3.0, 3.0, 4.0],
        "kind": ["k"] * 7,
    }
    events = pl.DataFrame({"user_id": list("uvuvuvw"), "item_id": items, **columns})
    made = lanner.Dataset.from_frames(events, attributes=["brand", "tags", "kind"], numbers="price")
    assert made.warnings == tuple(str(one.message) for one in recwarn)
    assert made.warnings == tuple(
        f"events: 1 item has different values of '{name}' in different rows; the first counts"
        for name in ("brand", "tags", "price")
    )
    attributes = made.item_catalogue.attributes
    assert attributes["price"].names == ("1", "2", "3")
    assert [attributes["brand"].names[code] for code in attributes["brand"].codes.values] == ["x", "x", "z"]
    again = lanner.Dataset.from_frames(pl.concat([events, events.with_columns(brand=pl.lit("w"))]), attributes="brand")
    assert again.warnings[0].startswith("events: 3 items have different values of 'brand'")


def test_a_frame_of_which_no_column_is_named_is_a_warning():
    people = pl.DataFrame({"user_id": ["x", "z"], "city": ["Graz", "Wien"]})
    events = pl.DataFrame({"user_id": ["x"], "item_id": ["a"]})
    with pytest.warns(UserWarning, match="the frame 'users' is not read; .*profile=…, attributes=… or numbers=…"):
        lanner.Dataset.from_frames(events, users=people)
    with pytest.warns(UserWarning, match="the frame 'items' is not read"):
        lanner.Dataset.from_frames(events, items=pl.DataFrame({"item_id": ["a"], "brand": ["b"]}))
    made = lanner.Dataset.from_frames(events, users=people, attributes="city")
    assert made.rejected == {"user listed but in no interaction": 1}
    assert not made.warnings


@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_space_around_an_id_of_a_frame_is_no_part_of_it(kind):
    events = kind({"user_id": ["x", "y ", " ", "x"], "item_id": ["p2\n", "p2", "p2", "\u00a0"], "title": list("abcd")})
    with pytest.warns(UserWarning, match="2 of 4 events were rejected"):
        made = lanner.Dataset.from_frames(events)
    assert (made.user_ids, made.item_ids) == (["x", "y"], ["p2"])
    assert made.rejected == {"missing item id": 1, "missing user id": 1}


def test_a_rating_beyond_the_scale_is_a_warning():
    ratings = [1, 2, 3, 4, 5] * 100
    events = pl.DataFrame({"user_id": ["x", "y"] * 250 + ["z"], "item_id": range(501), "rating": [*ratings, 500]})
    with pytest.warns(UserWarning, match=r"1 rating above 5 \(up to 500\) is read as 5"):
        made = lanner.Dataset.from_frames(events)
    assert made.interactions.weight.max() == 5


def test_weights_of_behaviours_that_no_event_has_are_a_warning():
    events = pl.DataFrame({"user_id": [1, 2], "item_id": [5, 6], "event": ["buy", "view"]})
    with pytest.warns(UserWarning, match="^behaviour_weights: no event has the behaviour 'byu'; did you mean") as one:
        lanner.Dataset.from_frames(events, behaviour_weights={"byu": 3.0, "View": 0.5})
    assert len(one) == 1
    with pytest.warns(UserWarning, match="no event has the behaviour 'x'; they have buy, view"):
        lanner.Dataset.from_frames(events, behaviour_weights={"x": 3.0})


def test_a_frame_without_columns_is_refused():
    with pytest.raises(lanner.DataError, match=r"^events: the frame has no columns$"):
        lanner.Dataset.from_frames(pl.DataFrame())
