"""Model classes: settings by keyword, requests by id, results in frames that render themselves."""

import inspect
import pickle
import re

import polars as pl
import pytest

import lanner
from lanner.config import DataConfig, RunConfig, SplitConfig
from lanner.inference.explain import Reason
from lanner.inference.ranker import Query
from lanner.library.requests import Questions
from lanner.library.results import ItemExplanation
from lanner.pipeline import run
from lanner.registry import MODELS as REGISTERED

SMALL = {
    "dimensions": 6,
    "language_dimensions": 6,
    "word_dimensions": 6,
    "filter_rank": 4,
    "epochs": 2,
    "batch_users": 12,
}


def items_of(frame):
    return frame["item_id"].to_list()


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_model_of_the_registry_has_a_class_that_says_what_can_be_set():
    from lanner.library.models import MODELS

    assert list(MODELS) == list(REGISTERED)
    assert [getattr(lanner, model.__name__) for model in MODELS.values()] == list(MODELS.values())
    settings = inspect.signature(lanner.Hybrid).parameters
    assert settings["dimensions"].default == 128
    assert {"parts", "views", "learning_rate", "encoder_model", "seed", "device"} <= settings.keys()
    assert "fusion" in inspect.signature(lanner.Fusion).parameters
    assert "fusion_learning_rate" in inspect.signature(lanner.Fusion).parameters
    assert "fusion_learning_rate" not in settings, "the hybrid has no head"
    assert "fusion" not in settings  # its weights take the place of a head
    assert "dimensions: Embedding size of the graph or relational view. (int, default 128)" in lanner.Hybrid.__doc__
    assert (
        not {"views", "dimensions", "objective", "encoder_model"} & inspect.signature(lanner.LightGCN).parameters.keys()
    )
    assert not {"filter_rank", "language_dimensions"} & inspect.signature(lanner.GNN).parameters.keys()
    assert list(inspect.signature(lanner.Popularity).parameters) == []


def test_settings_are_checked_and_a_typo_is_answered_with_the_nearest():
    with pytest.raises(
        lanner.ConfigError, match=r"^EASE has no setting 'regularization'; did you mean 'regularisation'\?$"
    ):
        lanner.EASE(regularization=1)
    with pytest.raises(lanner.ConfigError, match="expected float"):
        lanner.EASE(regularisation="much")
    with pytest.raises(lanner.ConfigError, match="at least 1"):
        lanner.ItemKNN(neighbours=0)
    with pytest.raises(lanner.ConfigError, match="Model is what the models have in common"):
        lanner.Model()
    model = lanner.Hybrid(dimensions=64, seed=3, device="cpu", encoder_max_tokens=16, views=("graph", "filter"))
    assert (model.config.neural.dimensions, model.config.neural.encoder.max_tokens) == (64, 16)
    assert model.config.neural.seed == model.config.training.seed == 3
    assert model.config.training.device == model.config.neural.encoder.device == "cpu"
    assert eval(repr(model), vars(lanner) | {"Hybrid": lanner.Hybrid}).config == model.config


def test_what_is_not_fitted_or_no_dataset_is_said(shop):
    with pytest.raises(lanner.ConfigError, match=r"ItemKNN is not fitted; call fit\(dataset\) first"):
        lanner.ItemKNN().recommend(users=[1])
    with pytest.raises(lanner.ConfigError, match="fit takes a Dataset, received DataFrame; make one with"):
        lanner.ItemKNN().fit(shop.events)


# --- recommend -------------------------------------------------------------------------------------------------------


def test_recommendations_are_a_frame_with_titles_and_reasons(knn):
    found = knn.recommend(users=[2, "3"], k=3)
    assert isinstance(found, pl.DataFrame)
    assert found.columns == ["user_id", "item_id", "rank", "score", "title", "because"]
    assert found.filter(pl.col("user_id") == 2)["rank"].to_list() == list(
        range(1, found["user_id"].to_list().count(2) + 1)
    )
    seen = knn.dataset.seen[knn.dataset.users.row(2)].tolist()
    assert not {knn.dataset.items.row(one) for one in items_of(found.filter(pl.col("user_id") == 2))} & set(seen)
    alone = knn.recommend(users=2, k=3)
    assert alone.equals(found.filter(pl.col("user_id") == 2))
    assert knn.recommend(users=pl.Series([2]), k=3, because=False).equals(alone.drop("because"))
    everything = knn.recommend(users=[2], k=20, exclude_seen=False)
    assert len(everything) == knn.dataset.num_items
    assert len(knn.recommend(users=knn.dataset.user_ids, k=1)) == knn.dataset.num_users


def test_anonymous_users_are_numbered_and_filters_hold(knn):
    found = knn.recommend(histories=[[100], ["102", 104]], k=2)
    assert found["user_id"].to_list() == [0, 0, 1, 1]
    assert found["because"][0].startswith("you liked Film <0>")
    horror = knn.recommend(histories=[[100]], k=20, filters={"genres": ["Horror"]})
    assert set(items_of(horror)) == {102, 103, 106, 107, 110}
    assert items_of(knn.recommend(histories=[[100]], k=20, filters={"genres": "Horror"})) == items_of(horror)
    none = knn.recommend(histories=[[100]], filters={"genres": ["Comedy"]})
    assert none.height == 0
    assert none.schema == horror.schema


def test_negative_feedback_is_no_reason_and_is_not_recommended(knn):
    found = knn.recommend(users=[0], k=20)
    assert all(title not in " ".join(found["because"]) for title in ("<1>", "<3>", "<7>"))
    assert {part.name for part in knn.explain(0, 102).parts if part.kind == "history"} <= {
        f"Film <{item}>" for item in range(0, 11, 2)
    }


def test_what_had_no_effect_is_a_warning_and_in_the_notes(knn):
    with (
        pytest.warns(UserWarning, match="unknown ids or attributes were ignored: 999"),
        pytest.warns(UserWarning, match="popular items"),
    ):
        found = knn.recommend(users=[2, 999], k=2)
    assert found.notes.unknown == ("999",)
    assert found.notes.fallback == (999,)
    assert items_of(found)[-2] == 110, "popular items"
    with pytest.warns(UserWarning, match="unknown ids or attributes were ignored: shoes: 44"):
        assert knn.recommend(histories=[[100]], attributes=[{"shoes": 44}]).notes.unknown == ("shoes: 44",)
    with pytest.warns(UserWarning, match="the model does not use texts"):
        assert knn.recommend(histories=[[100]], texts=["anything"]).notes.text_ignored
    with pytest.warns(UserWarning, match="popular items"):
        assert knn.recommend(histories=[[]], k=1).notes.fallback == (0,)
    everyone = lanner.Popularity().fit(knn.dataset).recommend(users=[2], k=1)
    assert everyone.notes.fallback == (), "from a model for everyone popular items are no fallback"


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({}, "one of users, histories, texts or attributes is required"),
        ({"users": [1], "histories": [[100]]}, "exclude each other"),
        ({"users": [1, 2], "texts": ["a"]}, "received 1 texts for 2 users"),
        ({"users": [1, 2], "attributes": [{}]}, "received 1 attributes for 2 users"),
        ({"attributes": {"sex": "f"}}, "attributes must be mappings from names to values, one for each user"),
        ({"attributes": [{"sex": None}]}, "the attribute 'sex' must be a value or a list of values"),
        ({"histories": ["100", "101"]}, "histories must be lists of item ids"),
        ({"users": [1], "k": 0}, "k must be at least 1, received 0"),
        ({"users": [1], "filters": {"genre": ["Drama"]}}, r"unknown attribute 'genre'; did you mean 'genres'\?"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(knn, request_, problem):
    with pytest.raises(lanner.RequestError, match=problem):
        knn.recommend(**request_)


# --- similar items, explanations -------------------------------------------------------------------------------------


def test_similar_items_name_their_target(knn):
    found = knn.similar_items([100, 101], k=2)
    assert found.columns == ["target_item_id", "item_id", "rank", "score", "title"]
    assert found["target_item_id"].to_list() == [100, 100, 101, 101]
    with pytest.raises(lanner.UnknownIdError, match="unknown id 'x'"):
        knn.similar_items("x")


def test_an_update_takes_new_events_users_and_items(shop, tmp_path):
    def scores(model):
        found = model.recommend(users=[1, 5], k=12)
        return {(user, item): score for user, item, _, score, *_ in found.rows()}

    is_old = (pl.col("user_id") < 4) & (pl.col("item_id") < 105)
    old, new = shop.events.filter(is_old), shop.events.filter(~is_old)
    first = lanner.EASE().fit(lanner.Dataset.from_frames(old))
    loaded = lanner.load(first.save(tmp_path / "bundle"))
    expected = scores(lanner.EASE().fit(lanner.Dataset.from_frames(shop.events)))
    for updated in (first.update(new), loaded.update(lanner.Dataset.from_frames(new))):
        assert updated.dataset.num_items > len(old["item_id"].unique())
        assert scores(updated) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    again = lanner.load(loaded.save(tmp_path / "updated")).update(new)
    assert len(again.dataset.interactions) == len(shop.events)
    assert again.update(new) is again


def test_what_no_update_can_be_made_of_is_said(shop):
    with pytest.raises(lanner.ConfigError, match="not fitted"):
        lanner.EASE().update(shop.events)
    fitted = lanner.EASE().fit(lanner.Dataset.from_frames(shop.events))
    with pytest.raises(lanner.ConfigError, match="events: received list, expected a pandas, Polars or Arrow frame"):
        fitted.update([1, 2])
    with pytest.raises(lanner.DataError, match="no column looks like the item"):
        fitted.update(shop.events.select("user_id"))


def test_what_rounds_to_zero_is_shown_without_a_minus():
    found = ItemExplanation("a", "A", -1e-6, (Reason("item", "b", -1e-6),), "why")
    shown = re.sub(r"<[^>]*>", " ", found._repr_html_())
    assert "score 0.0000" in shown
    assert "+0.0000" in shown


def test_an_explanation_adds_up_and_shows_itself_with_escaped_titles(knn):
    found = knn.explain(2, 103)
    assert sum(part.value for part in found.parts) == pytest.approx(found.score, abs=1e-6)
    assert found.to_frame()["value"].sum() == pytest.approx(found.score, abs=1e-6)
    assert str(found) == found.sentence
    assert found.to_dict()["item_id"] == 103
    with pytest.raises(lanner.UnknownIdError):
        knn.explain(2, 99)
    with pytest.raises(lanner.RequestError, match="an item is required"):
        knn.explain(2)
    assert knn.explain(None, 103, history=[101, 99]).unknown == ("99",)
    for shown in (found._repr_html_(), knn.recommend(users=[2], k=3)._repr_html_()):
        assert "Film &lt;" in shown
        assert "Film <" not in shown
        assert "background:#4c78a8" in shown, "bars"
    plain = knn.recommend(users=[2], k=3).select("title")
    assert "dataframe" in plain._repr_html_(), "what is made of the frame shows itself as usual"


def test_a_frame_of_pandas_shows_itself_too(shop):
    pd = pytest.importorskip("pandas")
    made = lanner.Dataset.from_frames(pd.DataFrame(shop.events.to_dict(as_series=False)))
    found = lanner.ItemKNN().fit(made).recommend(users=pd.Series([2]), k=2)
    assert isinstance(found, pd.DataFrame)
    assert "background:#4c78a8" in found._repr_html_()
    assert type(found.head(1)) is type(pickle.loads(pickle.dumps(found))) is pd.DataFrame
    assert found.notes.unknown == ()


def test_contributions_belong_to_their_rows_or_are_not_shown(shop):
    pd = pytest.importorskip("pandas")
    made = lanner.Dataset.from_frames(pd.DataFrame(shop.events.to_dict(as_series=False)))
    model = lanner.ItemKNN().fit(made)
    changes = (
        lambda frame: frame.sort_values("score", inplace=True),
        lambda frame: frame.drop(index=0, inplace=True),
        lambda frame: frame.drop(columns="item_id", inplace=True),
        lambda frame: frame.rename(columns={"score": "points"}, inplace=True),
    )
    for change in changes:
        found = model.recommend(users=[2, 3], k=2)
        change(found)
        assert "background:#" not in found._repr_html_()
    found = model.recommend(users=[2, 3], k=2)
    found["price"] = 3
    assert "background:#4c78a8" in found._repr_html_(), "another column changes no row"


def test_contributions_of_polars_belong_to_their_rows_too(knn):
    found = knn.recommend(users=[2, 3], k=2)
    found[0, "item_id"] = 1
    assert "background:#" not in found._repr_html_()
    found = knn.recommend(users=[2, 3], k=2)
    found.drop_in_place("score")
    assert "background:#" not in found._repr_html_()


def test_a_filter_value_that_no_item_has_is_a_warning(knn, tmp_path):
    filters = {"genres": ["Zed", "Drama", *(f"Z{number}" for number in range(6))]}
    for ask in (
        lambda: knn.recommend(users=[2], filters=filters),
        lambda: knn.similar_items([100], filters=filters),
        lambda: lanner.export_recommendations(knn, tmp_path / "r.csv", filters=filters),
    ):
        with pytest.warns(UserWarning, match="^no item has genres=Z0, Z1, Z2, Z3, Z4 and 2 more$") as told:
            ask()
        assert len(told) == 1


# --- evaluate, compare, trained models -------------------------------------------------------------------------------


def test_models_are_evaluated_and_compared_on_one_split(data):
    split = data.split("random", seed=1)
    knn, popular = lanner.ItemKNN().fit(split.train, validation=split.validation), lanner.Popularity().fit(split.train)
    report = lanner.evaluate(knn, split.test, metrics=["ndcg@3", "recall@5", "coverage@5", "novelty@3"])
    assert list(report.metrics) == ["ndcg@3", "recall@5", "novelty@3", "coverage@5"]
    assert report.ci95["ndcg@3"][0] <= report["ndcg@3"] <= report.ci95["ndcg@3"][1]
    found = lanner.compare({"knn": knn, "popular": popular, "again": knn}, split.test, metrics=["ndcg@3"])
    assert found.select("first", "second").rows() == [("knn", "popular"), ("knn", "again"), ("popular", "again")]
    first = found.row(0, named=True)
    assert first["difference"] == pytest.approx(first["first_mean"] - first["second_mean"])
    assert first["ci95_low"] <= first["difference"] <= first["ci95_high"]
    assert not found.row(1, named=True)["significant"]
    few = lanner.Dataset.from_frames(pl.DataFrame({"user_id": [1, 2], "item_id": [100, 101]}))
    with pytest.raises(lanner.ConfigError, match="evaluate it on a split of the dataset that it was fitted on"):
        lanner.evaluate(lanner.Popularity().fit(few), split.test)
    for metric in ("ndcg", "ndcg@0", "auc@3", "best@3"):
        with pytest.raises(lanner.ConfigError, match="metric"):
            lanner.evaluate(knn, split.test, metrics=[metric])


def test_a_model_that_was_fitted_on_test_events_is_not_evaluated(data, shop, tmp_path):
    split = data.split("random", seed=0)
    whole = lanner.EASE().fit(data)
    elsewhere = lanner.EASE().fit(data.split("random", seed=1).refit)
    updated = lanner.EASE().fit(split.refit).update(data)
    for model in (whole, elsewhere, updated, lanner.load(whole.save(tmp_path / "whole"))):
        with pytest.raises(lanner.ConfigError, match=r"the model was fitted on \d+ of the \d+ test events; evaluate"):
            lanner.evaluate(model, split.test)
    with pytest.raises(lanner.ConfigError, match="test events"):
        lanner.evaluate(lanner.EASE().fit(split.refit), split.validation)
    assert lanner.evaluate(whole.scorer, split.test, "ndcg@3")["ndcg@3"] > 0


def test_repeats_of_earlier_events_are_evaluated():
    events = pl.DataFrame(
        {"user_id": [1, 1, 1, 2, 2], "item_id": [5, 6, 5, 6, 5], "timestamp": [1e9 + place for place in range(5)]}
    )
    split = lanner.Dataset.from_frames(events).split("leave-last-out", exclude="nothing")
    assert split.test.positives[0].tolist() == split.refit.histories[0][:1].tolist()
    assert lanner.evaluate(lanner.EASE().fit(split.refit), split.test, "ndcg@1")["ndcg@1"] >= 0


def test_the_bundle_of_a_run_is_evaluated_on_what_the_run_withheld(tmp_path):
    config = RunConfig(model="ease", data=DataConfig("ml-latest-small"), split=SplitConfig("random"))
    outcome = run(config, tmp_path / "bundle")
    split = lanner.load_dataset("ml-latest-small").split("random")
    found = lanner.evaluate(lanner.load(tmp_path / "bundle"), split.test, "ndcg@10")
    assert found["ndcg@10"] == pytest.approx(outcome.report["ndcg_at_10"])


@pytest.mark.parametrize("name", ["random", "leave-last-out", "global-time", "cold-items", "auto"])
def test_a_dataset_is_split_by_name(data, name):
    split = data.split(name, test=0.25)
    assert len(split.test)
    assert split.name.startswith("global-time" if name == "auto" else name)
    with pytest.raises(lanner.ConfigError, match="unknown split 'randomly'; choose one of auto, random"):
        data.split("randomly")


def test_a_hybrid_reads_texts_and_is_loaded_with_its_answers(hashed_words, data):
    split = data.split("random", seed=0)
    model = lanner.Hybrid(**SMALL, device="cpu", encoder_cache=False).fit(split.train, validation=split.validation)
    lists = [items_of(model.recommend(texts=[f"kind{kind} story"], k=4)) for kind in (0, 1)]
    assert lists[0] != lists[1]
    both = model.recommend(histories=[[100, 104]], texts=["kind0 story"], k=3, filters={"genres": ["Drama"]})
    assert not both.notes.text_ignored
    assert any(part.kind == "query" for part in model.explain(3, 103, text="kind1 story").parts)
    assert 0 <= lanner.evaluate(model, split.test, metrics=["ndcg@3"])["ndcg@3"] <= 1


def test_a_hybrid_without_texts_says_what_it_leaves_out_and_is_saved(shop, tmp_path):
    data = lanner.Dataset.from_frames(shop.events, positive_threshold="none")
    with pytest.warns(UserWarning, match="training without texts"):
        model = lanner.Hybrid(**SMALL, device="cpu").fit(data)
    loaded = lanner.load(model.save(tmp_path / "bundle"))
    assert type(loaded) is lanner.Hybrid
    assert loaded.config.split.name == "none"
    assert loaded.config.neural.dimensions == 6
    assert items_of(loaded.recommend(users=[1, 2], k=5)) == items_of(model.recommend(users=[1, 2], k=5))


def test_a_model_that_too_few_events_cannot_train_is_a_warning():
    data = lanner.Dataset.from_frames(pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]}))
    for model in (lanner.LightGCN(device="cpu"), lanner.Hybrid(**SMALL, device="cpu", views=("graph",))):
        with pytest.warns(UserWarning, match="too few events to train on: no user can spare an item for validation"):
            model.fit(data)


def test_a_bundled_dataset_is_read_by_name():
    data = lanner.load_dataset("ml-latest-small")
    assert repr(data) == "Dataset(671 users, 9,066 items, 100,004 events)"
    assert data.feedback.kind == "ratings"
    assert data.user_ids[0] == "1"


def test_attributes_stand_in_place_of_those_that_are_known():
    events = pl.DataFrame({"user": [1, 1, 2], "item": [7, 8, 7]})
    users = pl.DataFrame({"user": [1, 2], "sex": ["f", "m"], "age": [30, 50]})
    data = lanner.Dataset.from_frames(events, users=users, attributes="sex", numbers="age")

    def asked(users=None, attributes=None) -> list[list[int]]:
        questions = Questions.of(data, users, None, None, attributes)
        (queries,) = questions.blocks(9, Query(), exclude_seen=True)
        return [query.attributes.tolist() for query in queries]

    assert asked(users=[1, 2, 3]) == [[0, 2], [1, 3], []]
    assert asked(users=[1, 3], attributes=[{"sex": "m"}, {"age": 45, "sex": ["f", "x"]}]) == [[1], [0, 2]]
    assert asked(attributes=[{"age": 99}]) == [[3]]
