"""Ratings, counts and behaviours: what is positive, its weight, and the use of negative feedback."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from lanner.config import DataConfig, RunConfig
from lanner.data.catalogue import Catalogue
from lanner.data.feedback import Feedback, FeedbackConfig
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.narrowing import rated_only
from lanner.data.sources import load
from lanner.data.splitting import global_time, leave_last_out, published, random_ratio
from lanner.errors import ConfigError
from lanner.models.item_knn import ItemKNN
from lanner.pipeline import measured_bundle, open_bundle, run
from lanner.settings import overridden


def events(*triples, **columns):
    """Interactions of (user, item, weight)."""
    user, item, weight = zip(*triples, strict=True)
    held = np.array([np.nan if one is None else one for one in weight], np.float32)
    return Interactions(np.array(user, np.int32), np.array(item, np.int32), weight=held, **columns)


def weighed(*weights):
    return events(*((place, 0, weight) for place, weight in enumerate(weights)))


def dataset(interactions, users=3, items=6):
    ids = [IdMap([f"{name}{row}" for row in range(count)]) for name, count in (("u", users), ("i", items))]
    return Dataset(interactions, *ids, Catalogue.blank(ids[1].external), Catalogue.blank(ids[0].external))


@pytest.mark.parametrize(
    ("weights", "kind", "positive"),
    [
        ([1, 2, 3, 4, 5, 4, 4], "ratings", [3, 4, 5]),
        ([0.5, 2.5, 3, 5, 4, 4, 4], "ratings", [3, 4, 5]),
        ([1, 5, 1, 5], "ratings", [5]),
        ([3, 4, 5, 4], "ratings", [3, 4, 5]),
        ([4, 5, 5], "ratings", [4, 5]),
        ([1, 6, 5, 10, 9], "ratings", [6, 9, 10]),
        ([-1, 1, 1], "ratings", [1]),
        ([-2, -1, 0, 1, 2, 2], "ratings", [0, 1, 2]),
        ([0, 1, 1], "ratings", [1]),
        ([1, 1, 1, 1, 2, 2, 3, 7], "counts", [1, 2, 3, 7]),
        ([1, 5, 423, 12, 0], "counts", [1, 5, 12, 423]),
        ([4, 4, 4], "none", [4]),
        ([1, 2, 2], "counts", [1, 2]),
    ],
)
def test_the_middle_of_a_scale_and_any_count_are_positive(weights, kind, positive):
    interactions = weighed(*weights)
    feedback = Feedback.decide(interactions)
    assert feedback.kind == kind
    found = feedback.confidences(interactions)
    found = np.ones(len(weights)) if found is None else found
    assert sorted(set(np.array(weights)[found > 0].tolist())) == positive


def test_ratings_weigh_by_their_size_counts_by_their_logarithm_and_a_missing_weight_as_the_average():
    ratings = weighed(1, 3, 4, 5, None, 5)
    feedback = Feedback.decide(ratings)
    found = feedback.confidences(ratings)
    assert found.tolist() == pytest.approx([0, 3 / 4.25, 4 / 4.25, 5 / 4.25, 1, 5 / 4.25])
    counts = weighed(1, 1, 100_000, 1)
    found = Feedback.decide(counts).confidences(counts)
    assert found[2] / found[0] == pytest.approx(1 + np.log(100_000), abs=2), "within bounds of 0.2 and 5"
    assert found.max() <= 5
    assert found.min() >= 0.2


def test_one_event_is_judged_as_it_would_be_among_all():
    interactions = events(
        *((0, 0, w) for w in (1, 3, 5, None)),
        behaviour=np.array([0, 0, 1, 0], np.uint8),
        behaviours=("rate", "Hide"),
    )
    feedback = Feedback.decide(interactions, FeedbackConfig(behaviour_weights={"rate": 2.0}))
    singly = [
        feedback.confidence(behaviour, weight)
        for behaviour, weight in (("rate", 1.0), ("rate", 3.0), ("hide", 5.0), ("rate", None))
    ]
    assert feedback.confidences(interactions).tolist() == pytest.approx(singly)
    assert singly[0] == singly[2] == 0
    assert feedback.confidence(None, None) == 1
    assert Feedback(**json.loads(json.dumps(asdict(feedback)))) == feedback


def test_the_settings_decide_otherwise():
    interactions = weighed(1, 2, 3, 4, 5)
    strict = Feedback.decide(interactions, FeedbackConfig(positive_threshold=4.0)).confidences(interactions)
    assert (strict > 0).tolist() == [False, False, False, True, True]
    assert Feedback.decide(interactions, FeedbackConfig(positive_threshold="none")).confidences(interactions) is None


def test_what_was_decided_is_said():
    interactions = weighed(0.5, 2.5, 3, 5, 4)
    assert Feedback.decide(interactions).describe(interactions) == (
        "ratings of 0.5–5: 3 or more are positive and weigh in proportion to their size; "
        "2 of 5 events are negative feedback: excluded from lists, never a reason"
    )
    unrated = weighed(0.5, 3, 5, None, None)
    assert "; 2 without a value weigh 1; 1 of 5 events" in Feedback.decide(unrated).describe(unrated)
    plain = replace(interactions, weight=None)
    assert Feedback.decide(plain).describe(plain) == "every event is positive"
    hidden = replace(plain, behaviours=("hide", "view"), behaviour=np.array([0, 1, 1, 1, 1], np.uint8))
    assert Feedback.decide(hidden).describe(hidden).startswith("'hide' is negative; 1 of 5 events are negative")


def test_negative_feedback_is_seen_but_is_no_history():
    interactions = events((0, 0, 5), (0, 1, 1), (0, 2, 3), (1, 1, 4))
    data = Feedback.decide(interactions).apply(dataset(interactions))
    assert data.histories[0].tolist() == [0, 2]
    assert data.seen[0].tolist() == [0, 1, 2]
    batch = data.user_batch(np.array([1, 0]))
    assert batch.history.values.tolist() == [1, 0, 2]
    assert batch.weights.tolist() == pytest.approx([1, 1.25, 0.75])
    assert batch.seen.values.tolist() == [1, 0, 1, 2]
    untouched = dataset(interactions).user_batch()
    assert untouched.weights is None
    assert untouched.seen is None


def test_the_latest_event_with_an_item_decides():
    interactions = events((0, 0, 5), (0, 1, 1), (0, 0, 1), (0, 1, 5))
    data = Feedback.decide(interactions).apply(dataset(interactions))
    assert data.histories[0].tolist() == [1]


def test_what_happens_after_the_training_events_does_not_change_them():
    interactions = events(
        (0, 0, 5), (0, 1, 4), (1, 1, 5), (1, 2, 5), (1, 3, 4), (0, 2, 5), (0, 1, 1), (1, 0, 5), (0, 0, 1), (0, 2, 1),
        timestamp=np.arange(10),
    )  # fmt: skip
    whole = replace(dataset(interactions), has_order=True)
    data = Feedback.decide(interactions).apply(whole)
    assert data.histories[0].tolist() == [], "every item was rated badly in the end"
    split = global_time(data, test=0.3, validation=0.3)
    assert len(split.train.interactions) == 5
    assert (split.train.interactions.confidence > 0).all()
    assert split.train.histories[0].tolist() == [0, 1]
    assert split.validation.positives[0].tolist() == [2], "of user 0, who disliked it only in the test's time"
    assert split.refit.histories[0].tolist() == [0, 2], "item 1 was rated badly before"
    assert split.test.users.history[0].tolist() == [1, 2, 3]
    assert split.test.rows.tolist() == [1]
    last = leave_last_out(data)
    assert last.refit.histories[0].tolist() == [2]
    assert last.train.histories[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"positive_threshold": "high"}, "positive_threshold must be a number, 'auto' or 'none', received 'high'"),
        ({"positive_threshold": float("nan")}, "positive_threshold must be a number"),
        ({"positive_threshold": True}, "positive_threshold must be a number"),
        ({"positive_threshold": None}, "positive_threshold must be a number"),
        ({"behaviour_weights": ["view"]}, r"behaviour_weights must name weights by behaviour, received \['view'\]"),
        ({"behaviour_weights": {1: 1.0}}, r"behaviour_weights must name weights by behaviour"),
        ({"behaviour_weights": {"view": "much"}}, "behaviour_weights.view must be at least 0 and finite"),
        ({"behaviour_weights": {"view": float("nan")}}, "behaviour_weights.view must be at least 0 and finite"),
        ({"behaviour_weights": {"view": -1}}, "behaviour_weights.view must be at least 0 and finite, received -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, problem):
    with pytest.raises(ConfigError, match=problem) as told:
        FeedbackConfig(**settings)
    assert "\n" not in str(told.value)


def test_a_threshold_of_numpy_can_be_written():
    feedback = Feedback.decide(weighed(1, 2, 5), FeedbackConfig(positive_threshold=np.float32(2)))
    assert json.loads(json.dumps(asdict(feedback)))["threshold"] == 2


def test_only_positive_hidden_events_are_asked_for():
    interactions = events(
        (0, 0, 5), (0, 1, 1), (0, 2, 5), (0, 3, 1), (0, 4, None), (1, 0, 5), (1, 5, 1),
        partition=np.array([0, 0, 1, 1, 1, 0, 1], np.uint8),
        partitions=("train", "test"),
    )  # fmt: skip
    data = Feedback.decide(interactions).apply(dataset(interactions))
    test = published(data, validation=0.0).test
    assert test.rows.tolist() == [0], "who disliked all that was hidden is not asked"
    assert test.positives[0].tolist() == [2, 4]
    assert test.excluded[0].tolist() == [0, 1, 3]
    assert test.rated_items[0].tolist() == [2, 3]
    assert test.ratings.tolist() == [5, 1]
    narrowed = rated_only(test, 4.0)
    assert narrowed.candidates[0].tolist() == [2, 3]
    assert narrowed.positives[0].tolist() == [2]
    assert narrowed.excluded[0].tolist() == [0, 1]


@pytest.fixture
def fans(tmp_path):
    """Twenty users rate horror 5 and romance 1, twenty the other way round."""
    draw = np.random.default_rng(0)
    rows = ["user,item,rating"]
    for user in range(40):
        loved, hated = ("horror", "romance") if user < 20 else ("romance", "horror")
        for genre, rating in ((loved, 5), (hated, 1)):
            rows += [f"{loved[0]}{user},{genre}{item},{rating}" for item in draw.choice(12, 6, replace=False)]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(rows) + "\n")
    return load(path)


def test_what_a_user_rated_badly_is_neither_recommended_nor_a_reason(fans):
    data = Feedback.decide(fans.interactions).apply(fans)
    model = ItemKNN().fit(random_ratio(data).refit)
    titles = np.array(data.items.external)
    for row, user in enumerate(data.users.external):
        genre = "horror" if user.startswith("h") else "romance"
        batch = model.dataset.user_batch(np.array([row]))
        best = model.recommend(batch, 3).items[0]
        assert all(titles[item].startswith(genre) for item in best if item >= 0)
        reasons = model.explain(batch, int(best[0])).parts
        named = [titles[part.row] for part in reasons if part.kind == "history" and part.row >= 0 and part.value > 0]
        assert named
        assert all(name.startswith(genre) for name in named)
        assert not np.isin(data.seen[row], model.recommend(data.user_batch(np.array([row])), 12).items[0]).any()


def test_an_event_with_an_empty_rating_is_an_event(tmp_path):
    path = tmp_path / "norating.csv"
    path.write_text("user,item,rating\na,x,4\na,y,\nb,x,NaN\nb,z, \nb,v,NULL\nb,w,None\nb,u,na\n")
    data = load(path)
    assert len(data.interactions) == 7
    assert data.rejected == {}
    assert len(Feedback.decide(data.interactions).apply(data).histories.values) == 7


def test_a_bundle_is_measured_as_its_run_was(tmp_path):
    """Half of the users rate what they liked badly in the time of the test."""
    draw = np.random.default_rng(0)
    rows = ["user,item,rating,timestamp"]
    for user in range(30):
        items = draw.choice(20, 8, replace=False)
        rows += [f"{user},{item},{draw.integers(3, 6)},{time}" for time, item in enumerate(items)]
        rows += [f"{user},{item},{1 if user % 2 else 5},{100 + item}" for item in range(0, 20, 4)]
    path = tmp_path / "late.csv"
    path.write_text("\n".join(rows) + "\n")
    settings = ["model=item-knn", "split.name=global-time", "split.test=0.385", "split.validation=0.1"]
    outcome = run(overridden(RunConfig(data=DataConfig(str(path))), settings), tmp_path / "bundle")
    again = measured_bundle(open_bundle(tmp_path / "bundle"))
    assert again.metrics == outcome.report.metrics
    assert outcome.bundle.recommender.dataset.interactions.confidence.min() > 0


def test_an_outlier_does_not_make_counts_of_ratings():
    interactions = weighed(*[1, 2, 3, 4, 5, 5] * 100, 500)
    feedback = Feedback.decide(interactions)
    assert (feedback.kind, feedback.threshold, feedback.ceiling) == ("ratings", 3, 5)
    found = feedback.confidences(interactions)
    assert found[[0, 1]].tolist() == [0, 0]
    assert found[-1] == found[4]
    assert feedback.confidence(None, 500.0) == found[4]
    assert feedback.outliers == "1 rating above 5 (up to 500) is read as 5"
    applied = feedback.apply(dataset(interactions, len(interactions))).interactions
    assert applied.weight.max() == 5
    assert feedback.describe(applied).startswith("ratings of 1–5: 3 or more are positive")
    assert feedback.outliers in feedback.describe(applied)
    assert Feedback(**json.loads(json.dumps(asdict(feedback)))) == feedback


@pytest.mark.parametrize(
    "weights",
    [
        [1] * 600 + [2] * 100 + [3] * 20 + [500],
        [0, 1, 2, 3, 5, 7] * 100 + [11],
        [1, 2, 3, 4, 5, 5] * 10 + [500],
        [0.5, 4, 9, 30] * 100,
    ],
    ids=["few plays", "a tail that goes on", "not few", "hours"],
)
def test_counts_with_a_large_one_are_counts_still(weights):
    feedback = Feedback.decide(weighed(*weights))
    assert (feedback.kind, feedback.ceiling, feedback.outliers) == ("counts", None, "")


def test_weights_of_nothing_but_0_are_said_to_be_that():
    interactions = weighed(0, 0, 0)
    assert Feedback.decide(interactions).describe(interactions).startswith("every weight is 0: none is above 0")
