"""The trained recommenders behind the contract: explanations that are true, not merely additive."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import COLD, ITEMS_PER_GROUP, NUM_ITEMS, WORDLESS, encode_words, small_world

from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError, DataError
from lanner.models.fusion import FUSIONS
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")

CONFIG = NeuralConfig(
    views=("graph", "filter", "language"),
    dimensions=6,
    layers=1,
    filter_rank=5,
    filter_ridge=5.0,
    language_dimensions=6,
    word_dimensions=6,
    cold_neighbours=3,
)
TRAINING = TrainingConfig(epochs=4, batch_users=12, learning_rate=0.02, device="cpu")
STRANGER = UserBatch(Ragged.from_lists([[0, 2, 5]]), ("likes kind0",), Ragged.from_lists([[1, 2]]))


def untrained(config: NeuralConfig = CONFIG) -> NeuralRecommender:
    return NeuralRecommender(config, Trainer(TRAINING, progress=False))


@pytest.fixture(scope="module")
def world() -> Dataset:
    return small_world()


def shaken(model: NeuralRecommender) -> NeuralRecommender:
    """With every learnt number moved, so that no part of a score is nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.load_state(*model.state(), model.dataset)


@pytest.fixture(scope="module", params=FUSIONS)
def hybrid(request, world, hashed_words) -> NeuralRecommender:
    return shaken(untrained(replace(CONFIG, fusion=request.param)).fit(world))


@pytest.mark.parametrize("item", [3, WORDLESS, COLD, 12])
def test_reasons_are_what_each_part_of_the_network_says(hybrid, item):
    explanation = hybrid.explain(STRANGER, item)
    score = hybrid.score(STRANGER)[0, item]
    assert explanation.score == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert sum(part.value for part in explanation.parts) == pytest.approx(score, rel=1e-4, abs=1e-4)
    network = hybrid.network
    side = network.item_side()
    told = {(part.kind, part.row): part.value for part in explanation.parts}
    with torch.no_grad():
        users = network.user_side(network.inputs(STRANGER), side)
        pair = network.pairs(users, side.own, side.is_cold_I)
        weights = network.fusion.view_weights(side.is_cold_I)[item]
        head = network.fusion.correction(pair)[0, item].item()
        target = [tables.target_ID[item] for tables in side.own]
        bias = sum(weight * tables.bias_I[item] for weight, tables in zip(weights, side.own, strict=True)).item()
        history = {
            row: sum((weights[v] * (side.own[v].source_ID[row] @ target[v]) / 3).item() for v in (0, 1))
            for row in (0, 2, 5)
        }
        alone = network.views["graph"].user_vectors(network.inputs(replace(STRANGER, friends=None)), side.own[0])
        friends = (weights[0] * ((users[0] - alone)[0] @ target[0])).item()
        read = network.views["language"].user_vectors(network.inputs(replace(STRANGER, profiles=None)), side.own[2])[0]
        text = (weights[2] * (read @ target[2])).item()
        profile = (weights[2] * ((users[2][0] - read) @ target[2])).item()
    assert told.get(("head", -1), 0.0) == pytest.approx(head, abs=1e-4)
    assert told["popularity", -1] == pytest.approx(bias, abs=1e-4)
    for row, value in history.items():
        assert told["history", row] == pytest.approx(value, abs=1e-4)
    assert sum(value for (kind, _), value in told.items() if kind == "friend") == pytest.approx(friends, abs=1e-4)
    assert sum(value for (kind, _), value in told.items() if kind == "text") == pytest.approx(text, abs=1e-4)
    assert told["profile", -1] == pytest.approx(profile, abs=1e-4)
    wanted = {"history", "friend", "text", "profile", "popularity", "head"}
    silent = {"text"} if item == WORDLESS else set()
    silent |= {"head"} if hybrid.config.fusion == "sum" else set()
    assert {kind for kind, _ in told} == wanted - silent


@pytest.mark.parametrize("views", [("graph",), ("filter",), ("language",), ("graph", "filter", "language")])
def test_state_comes_back_without_reading_the_items_again(views, world, monkeypatch):
    model = untrained(replace(CONFIG, views=views)).fit(small_world(profiles=False))
    arrays, settings = model.state()
    expected = model.score(replace(STRANGER, profiles=None))
    read = []
    monkeypatch.setattr(NeuralRecommender, "_encode", lambda self, texts: read.append(texts) or encode_words(texts))
    loaded = NeuralRecommender().load_state(arrays, json.loads(json.dumps(settings)), model.dataset)
    assert read == []
    np.testing.assert_array_equal(loaded.score(replace(STRANGER, profiles=None)), expected)
    again, settings_again = loaded.state()
    assert settings_again == settings
    assert arrays.keys() == again.keys()
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_profiles_and_friends_move_the_scores_of_a_stranger(hybrid):
    plain = hybrid.score(UserBatch(STRANGER.history))
    told = hybrid.score(replace(STRANGER, friends=None))
    tied = hybrid.score(replace(STRANGER, profiles=None))
    assert not np.allclose(plain, told)
    assert not np.allclose(plain, tied)
    nothing = UserBatch(STRANGER.history, ("",), Ragged.empty(1))
    np.testing.assert_allclose(hybrid.score(nothing), plain, rtol=1e-4, atol=1e-5)


def test_an_unseen_item_is_found_by_its_text(world):
    model = untrained().fit(world)
    lovers = UserBatch(Ragged.from_lists([[2 * ITEMS_PER_GROUP + i for i in range(3)]]))
    others = UserBatch(Ragged.from_lists([[0, 2, 3]]))
    ahead = [int((scores[0] > scores[0, COLD]).sum()) for scores in (model.score(lovers), model.score(others))]
    assert ahead[0] < ITEMS_PER_GROUP <= ahead[1]


def test_without_a_validation_it_holds_out_its_own_and_keeps_the_whole(world):
    model = untrained(replace(CONFIG, views=("graph", "filter"))).fit(world)
    assert model.dataset is world
    split = random_ratio(world, test=0.1, validation=0.0)
    told = untrained(replace(CONFIG, views=("graph", "filter"))).fit(split.train, split.test)
    assert told.dataset is split.train
    for name, array in told.state()[0].items():
        np.testing.assert_array_equal(model.state()[0][name], array)


def test_where_nothing_can_be_held_out_popularity_answers():
    world = small_world(ties=False, profiles=False)
    first = np.unique(world.interactions.user, return_index=True)[1]
    single = world.with_interactions(world.interactions.take(first))
    model = untrained(replace(CONFIG, views=("graph",))).fit(single)
    popular = np.bincount(single.interactions.item, minlength=NUM_ITEMS)
    ranked = np.argsort(-model.score(UserBatch(Ragged.empty(1)))[0], kind="stable")
    assert (np.diff(popular[ranked]) <= 0).all()


def test_another_head_on_the_same_views_leaves_the_first_alone(world):
    split = random_ratio(world, test=0.2, validation=0.2)
    first = untrained().fit(split.train, split.validation)
    before = first.score(STRANGER)
    second = first.with_fusion("gated", split.validation)
    assert second.config.fusion == "gated"
    np.testing.assert_array_equal(first.score(STRANGER), before)
    arrays = first.state()[0], second.state()[0]
    views = [name for name in arrays[0] if name.startswith("network.views.")]
    assert len(views) > 5
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in views)
    again = first.with_fusion("gated", split.validation)
    np.testing.assert_array_equal(second.score(STRANGER), again.score(STRANGER))


def test_texts_are_needed_only_by_who_reads_them(world):
    mute = replace(world, item_catalogue=Catalogue.blank(world.items.external))
    with pytest.raises(DataError, match="leave 'language' out of views"):
        untrained().fit(mute)
    assert np.isfinite(untrained(replace(CONFIG, views=("graph", "filter"))).fit(mute).score(STRANGER)).all()


def test_without_a_trainer_it_cannot_be_fitted(world):
    with pytest.raises(ConfigError, match="trainer"):
        NeuralRecommender().fit(world)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("views", ()),
        ("views", ("graph", "graph")),
        ("fusion", "product"),
        ("dimensions", 0),
        ("layers", -1),
        ("seed", -1),
        ("filter_rank", 0),
        ("filter_ridge", 0.0),
        ("cold_neighbours", 0),
        ("word_dimensions", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match=setting):
        NeuralConfig(**{setting: value})
