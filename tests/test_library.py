"""Questions by external ids: what is not known is named, what has no effect is said."""

from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import small_world

from lanner.data.catalogue import Catalogue
from lanner.data.feedback import Feedback
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.errors import RequestError, UnknownIdError
from lanner.library import BundleRanker
from lanner.models.baselines import PopularityRecommender
from lanner.models.item_knn import ItemKNN
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training.loop import Trainer, TrainingConfig


def ranker_of(recommender):
    """Over a bundle of ratings: item 5 is everybody's, who likes even items dislikes odd ones."""
    pairs = [(user, item) for user in range(12) for item in range(6) if item == 5 or (user + item) % 5]
    user, item = np.array(pairs, np.int32).T
    liked = (item % 2 == user % 2) | (item == 5)
    ids = [IdMap([f"{name}{row}" for row in range(count)]) for name, count in (("u", 12), ("i", 7))]
    catalogues = Catalogue(("",) * 7, tuple(f"Item {row}" for row in range(7))), Catalogue.blank(ids[0].external)
    events = Interactions(user, item, weight=np.where(liked, 5, 1).astype(np.float32))
    dataset = Feedback.decide(events).apply(Dataset(events, *ids, *catalogues))
    full = SimpleNamespace(model=recommender.fit(dataset).scoring_model)
    return BundleRanker(SimpleNamespace(dataset=dataset, text_files=None, variant=lambda: full))


@pytest.fixture(scope="module")
def knn():
    return ranker_of(ItemKNN())


def test_items_come_with_titles_and_reasons_and_are_new_to_the_user(knn):
    answer = knn.recommend(user="u2", k=3)
    seen = {f"i{item}" for item in range(6) if item == 5 or (2 + item) % 5}
    assert not seen & {one["item"] for one in answer.items}
    assert [one["rank"] for one in answer.items] == list(range(1, len(answer.items) + 1))
    anonymous = knn.recommend(history=["i0"], k=1)
    assert anonymous.items[0].keys() == {"rank", "item", "title", "score", "reason"}
    assert anonymous.items[0]["reason"] == "you chose Item 0"
    assert (anonymous.unknown, anonymous.fallback, anonymous.text_ignored) == ([], False, False)


def test_unknown_ids_are_named_and_have_no_effect(knn):
    answer = knn.recommend(history=["i0", "nothing", "i2"])
    assert answer.unknown == ["nothing"]
    assert answer.items == knn.recommend(history=["i0", "i2"]).items
    nobody = knn.recommend(user="nobody", k=2)
    assert nobody.unknown == ["nobody"]
    assert nobody.fallback
    assert nobody.items[0]["item"] == "i5"
    found = knn.explain("i2", history=["i0", "nothing"])
    assert (found["unknown"], found["fallback"]) == (["nothing"], False)
    for ask in (lambda: knn.similar("x"), lambda: knn.explain("x", user="u0")):
        with pytest.raises(UnknownIdError, match="unknown id 'x'"):
            ask()


def test_without_a_signal_the_items_are_popular_ones_and_the_answer_says_so(knn):
    empty = knn.recommend(history=[], k=3)
    assert empty.fallback
    assert empty.items[0]["item"] == "i5"
    assert [one["score"] for one in empty.items] == sorted((one["score"] for one in empty.items), reverse=True)
    assert all(one["reason"] in ("it is popular", "") for one in empty.items)
    unseen = knn.similar("i6", k=3)
    assert unseen.items[0]["item"] == "i5"
    assert "i6" not in {one["item"] for one in unseen.items}
    everyone = ranker_of(PopularityRecommender()).recommend(user="u1")
    assert not everyone.fallback, "from a model for everyone popular items are no fallback"


def test_a_text_that_no_one_reads_is_said_to_have_no_effect(knn):
    answer = knn.recommend(text="anything")
    assert answer.text_ignored
    assert answer.fallback
    assert knn.explain("i0", history=["i2"], text="anything")["text_ignored"]


def test_an_explanation_adds_up_and_names_no_negative_feedback(knn):
    found = knn.explain("i6", user="u2")
    assert sum(part["value"] for part in found["parts"]) == pytest.approx(found["score"], abs=1e-6)
    found = knn.explain("i4", user="u2")
    assert {part["name"] for part in found["parts"]} <= {"popularity", "Item 0", "Item 2", "Item 4", "Item 5"}
    assert found["sentence"].endswith(".")


def test_a_question_says_for_whom_it_is(knn):
    with pytest.raises(RequestError, match="one of user, history or text is required"):
        knn.recommend()
    with pytest.raises(RequestError, match="exclude each other"):
        knn.recommend(user="u1", history=["i1"])


def test_a_text_acts_on_the_list_and_on_the_reasons(hashed_words, monkeypatch):
    model = NeuralRecommender(
        NeuralConfig(views=("language",), language_dimensions=6, word_dimensions=6),
        Trainer(TrainingConfig(epochs=2, batch_users=12, device="cpu"), progress=False),
    ).fit(small_world())
    monkeypatch.setattr("lanner.library.open_text_reader", lambda *_: model.reader)
    full = SimpleNamespace(model=model.scoring_model)
    ranker = BundleRanker(SimpleNamespace(dataset=model.dataset, text_files=object(), variant=lambda: full))
    lists = [ranker.recommend(text=f"kind{group} sort", k=5) for group in range(3)]
    assert len({tuple(item["item"] for item in answer.items) for answer in lists}) == 3
    assert not any(answer.text_ignored or answer.fallback for answer in lists)
    parts = ranker.explain("i3", user="u1", text="kind0 sort")["parts"]
    assert any(part["kind"] == "query" and part["value"] != 0 for part in parts)
