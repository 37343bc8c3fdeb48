"""Arguments of the wrong type raise a one-line error that names the expected type."""

import numpy as np
import polars as pl
import pytest

import lanner
from lanner.library.functions import compare, evaluate


def refused(error, words, function, *arguments, **keywords):
    with pytest.raises(error, match=words) as told:
        function(*arguments, **keywords)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("k", ["5", 2.5, None, True, 0])
def test_k_is_a_whole_number(knn, tmp_path, k):
    for ask in (
        lambda: knn.recommend(users=[1], k=k),
        lambda: knn.similar_items([100], k=k),
        lambda: lanner.export_recommendations(knn, tmp_path / "r.csv", k=k),
    ):
        refused(lanner.RequestError, f"k must be .*at least 1, received {k!r}", ask)
    assert not any(tmp_path.iterdir())
    assert knn.recommend(users=[1], k=np.int64(2)).equals(knn.recommend(users=[1], k=2))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"users": [1], "filters": ["Drama"]}, "filters must be values by attribute, .* received list"),
        ({"users": [1], "filters": {"genres": None}}, "the attribute 'genres' must be a value .* received None"),
        ({"users": [1], "filters": {3: "Drama"}}, "unknown attribute '3'"),
        ({"texts": [3]}, "texts must be strings, received 3"),
        ({"texts": 3}, "texts must be strings, received 3"),
        ({"users": object()}, "users must be ids: a list, an array or a column, received object"),
        ({"histories": 100}, "histories must be lists of item ids, one for each user, received 100"),
        ({"histories": [None]}, "received None as a history"),
        ({"histories": [3.5]}, "received 3.5 as a history"),
    ],
)
def test_a_request_of_a_wrong_kind(knn, asked, words):
    refused(lanner.RequestError, words, knn.recommend, **asked)


def test_similar_items_and_explanations_of_nothing(knn):
    refused(lanner.RequestError, "items must be ids", knn.similar_items, None)
    refused(lanner.RequestError, "received 100 as a history", knn.explain, item=100, history=100)


@pytest.mark.parametrize("id", [" ", "\n", "\u00a0", ""])
def test_an_empty_id_is_refused(knn, tmp_path, id):
    words = ": an id must not be empty"
    for name, function, asked in (
        ("users", knn.recommend, {"users": [1, id]}),
        ("histories", knn.recommend, {"histories": [[100], [id]]}),
        ("items", knn.similar_items, {"items": id}),
        ("item", knn.explain, {"user": 1, "item": id}),
        ("user", knn.explain, {"user": id, "item": 100}),
        ("users", lanner.export_recommendations, {"model": knn, "path": tmp_path / "r.csv", "users": [id]}),
    ):
        refused(lanner.RequestError, f"^{name}{words}", function, **asked)


def test_numbers_filter_by_their_text(shop):
    years = pl.DataFrame({"item_id": range(100, 111), "year": [1999 + item % 2 for item in range(11)]})
    model = lanner.Popularity().fit(lanner.Dataset.from_frames(shop.events, items=years, attributes=["year"]))
    for year in (1999, 1999.0, "1999", [1999], np.int64(1999), pl.Series([1999])):
        found = model.recommend(users=[1], k=20, exclude_seen=False, filters={"year": year})["item_id"].to_list()
        assert sorted(found) == list(range(100, 111, 2))


@pytest.fixture(scope="module")
def split(data):
    return data.split("random", seed=1)


def test_what_is_measured_must_be_a_model_on_held_out_users(knn, data, split):
    for given in (split, data, None):
        kind = type(given).__name__
        refused(lanner.ConfigError, f"held-out users, such as split.test, received {kind}", evaluate, knn, given)
        if given is not None:
            refused(lanner.ConfigError, f"validation .* received {kind}", lanner.EASE().fit, split.train, given)
    refused(lanner.ConfigError, "takes a model, .* received str", evaluate, "knn", split.test)
    refused(lanner.ConfigError, "takes a model, .* received type", evaluate, lanner.EASE, split.test)
    refused(lanner.ConfigError, r"models by name, .* received list", compare, [knn, knn], split.test)


def test_what_is_not_fitted_is_not_exported(tmp_path):
    for model, words in (
        (lanner.EASE(), r"EASE is not fitted; call fit\(dataset\) first"),
        (3, "a model, received int"),
    ):
        refused(lanner.ConfigError, words, lanner.export_recommendations, model, tmp_path / "r.csv")
        refused(lanner.ConfigError, words, lanner.export_embeddings, model, tmp_path / "e")
    assert not any(tmp_path.iterdir())


class Scores:
    def __init__(self, shape):
        self.shape = shape

    def score(self, users):
        return np.zeros([len(users) if size is None else size for size in self.shape], np.float32)


@pytest.mark.parametrize("shape", [(None,), (3, 11), (None, 10), (None, 12), (None, 11, 1)])
def test_a_scorer_of_another_shape(split, shape):
    refused(
        lanner.ConfigError, r"the scorer returned the shape .* expected \(1, 11\)", evaluate, Scores(shape), split.test
    )


def test_a_scorer_of_texts(split):
    words = type("Words", (), {"score": lambda self, users: [["a"] * 11] * len(users)})()
    refused(lanner.ConfigError, "the scorer must return numbers", evaluate, words, split.test)
    assert evaluate(Scores((None, 11)), split.test, "recall@3")["recall@3"] >= 0


def test_metrics_are_one_or_several_that_can_be_computed(shop, split):
    knn = lanner.ItemKNN().fit(split.train)
    assert list(evaluate(knn, split.test, "ndcg@10").metrics) == ["ndcg@10"]
    assert compare({"a": knn, "b": knn}, split.test, "ndcg@3")["metric"].to_list() == ["ndcg@3"]
    for metrics in ([3], 3, []):
        refused(lanner.ConfigError, "metric", evaluate, knn, split.test, metrics)
    choice = "choose from recall, precision, ndcg, hr, mrr, map, coverage{}, auc, rmse, mae"
    for metric in ("best@3", "diversity@3"):
        unknown = f"unknown metric '{metric}'; {choice.format(', novelty')}"
        refused(lanner.ConfigError, unknown, evaluate, knn, split.test, [metric])
    refused(lanner.ConfigError, "metric 'ncdg@10'; did you mean 'ndcg@10'", evaluate, knn, split.test, "ncdg@10")
    scores = Scores((None, 11))
    refused(lanner.ConfigError, f"cannot be .* {choice.format('')}", evaluate, scores, split.test, ["novelty@3"])
    unrated = lanner.Dataset.from_frames(shop.events.drop("rating")).split("random")
    model = lanner.Popularity().fit(unrated.train)
    without = "'rmse' cannot be computed: the test events have no ratings; choose from .*novelty, auc$"
    refused(lanner.ConfigError, without, evaluate, model, unrated.test, ["rmse"])


def test_a_model_of_another_dataset_with_as_many_items(shop, knn, split, tmp_path):
    other = lanner.Dataset.from_frames(shop.events.with_columns(pl.col("item_id") + 1000))
    words = (
        "the test users' items are not those of the model; evaluate it on a split of the dataset that it was fitted on"
    )
    stranger = lanner.Popularity().fit(other)
    assert other.num_items == knn.dataset.num_items
    refused(lanner.ConfigError, words, evaluate, stranger, split.test)
    refused(lanner.ConfigError, words, evaluate, stranger, split.test.take(np.arange(3)))
    refused(lanner.ConfigError, "validation", lanner.EASE().fit, other, split.validation)
    honest = lanner.ItemKNN().fit(split.train)
    loaded = lanner.load(honest.save(tmp_path / "bundle"))
    assert evaluate(loaded, split.test, "ndcg@3").metrics == evaluate(honest, split.test, "ndcg@3").metrics


def test_a_split_of_wrong_numbers(data):
    refused(lanner.ConfigError, "seed must be a whole number of at least 0, received -1", data.split, seed=-1)
    refused(lanner.ConfigError, "seed must be .* received 'x'", data.split, "random", seed="x")
    refused(lanner.ConfigError, "test must be at least 0 and below 1, received 'a'", data.split, test="a")
    refused(lanner.ConfigError, "validation must be .* received None", data.split, "random", validation=None)
    for name in (3, ["random"]):
        refused(lanner.ConfigError, "unknown split", data.split, name)
    refused(lanner.ConfigError, "unknown among 'x'; choose one of cold, all", data.split, "cold-items", among="x")
    assert data.split("random", seed=np.int64(3), test=np.float32(0.25)).name == "random-75-25"


def test_what_is_loaded_and_written_is_a_path(shop, knn):
    words = r"load_dataset takes a name or a path, received DataFrame; for frames: lanner.Dataset.from_frames"
    refused(lanner.ConfigError, words, lanner.load_dataset, shop.events)
    refused(lanner.ConfigError, "load takes a path, received int", lanner.load, 3)
    for write in (knn.save, lambda to: lanner.export_recommendations(knn, to)):
        refused(lanner.ConfigError, "takes a path, received int", write, 3)


def test_numbers_of_numpy_are_settings():
    model = lanner.EASE(regularisation=np.float32(0.5))
    assert repr(model) == "EASE(regularisation=0.5)"
    assert type(lanner.ItemKNN(neighbours=np.int64(7)).config.item_knn.neighbours) is int
    refused(lanner.ConfigError, "expected int", lanner.ItemKNN, neighbours=np.float64(7.5))


def test_texts_for_library_users_speak_of_the_library(shop):
    plain = lanner.Dataset.from_frames(shop.events)
    with pytest.raises(lanner.ConfigError, match=r"use lanner.GNNFilter\(\), or .*Dataset.from_frames") as told:
        lanner.Language(device="cpu").fit(plain)
    assert not any(word in str(told.value) for word in ("DATASET", "--model", "recipe"))
