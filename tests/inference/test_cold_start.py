"""New items against what the network would give them, and against the model's own rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import COLD, NUM_ITEMS, small_world

from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.inference.cold_start import ItemReader
from lanner.inference.scoring_model import ItemRows, ScoringModel
from lanner.inference.tables import take
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")


@pytest.fixture(params=["graph, language", "filter, language, graph", "language"])
def fitted(request) -> NeuralRecommender:
    views = tuple(request.param.split(", "))
    config = NeuralConfig(views=views, dimensions=8, language_dimensions=8, filter_rank=4, cold_neighbours=5)
    trainer = Trainer(TrainingConfig(epochs=2, batch_users=16, device="cpu"), progress=False)
    model = NeuralRecommender(config, trainer).fit(small_world(ties=False))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.fusion.out.weight)
    model.network.fusion.weights[:] = torch.tensor([[1.0, 2.0, 0.5], [0.5, 1.0, 3.0]])[:, : len(views)]
    return model._serve(model.network, model.dataset)


def own_rows(model: ScoringModel, rows: list[int]) -> ItemRows:
    picked = np.array(rows)
    half = None if model.head is None else take(model.head.item_IH, picked)
    return ItemRows(take(model.source_ID, picked), take(model.target_ID, picked), model.bias_I[picked], half)


def assert_same(got: ItemRows, wanted: ItemRows, tolerance: float = 0.03) -> None:
    for name in vars(wanted):
        one, other = getattr(got, name), getattr(wanted, name)
        if other is not None:
            assert np.allclose(one, other, atol=tolerance * max(1.0, np.abs(other).max())), name


def features(model: NeuralRecommender) -> np.ndarray:
    return model.network.views["language"].features.numpy()


def test_an_unseen_item_gets_the_rows_that_the_network_lends_it(fitted):
    model, reader = fitted.scoring_model, fitted.item_reader
    assert_same(reader.read(model, features(fitted)[[COLD]], [None]), own_rows(model, [COLD]))


def test_a_seen_item_keeps_what_it_learned(fitted):
    model, reader = fitted.scoring_model, fitted.item_reader
    rows = [row for row in range(NUM_ITEMS) if reader.is_seen_I[row]]
    assert_same(reader.read(model, features(fitted)[rows], rows), own_rows(model, rows))
    moved = reader.read(model, features(fitted)[[9]], [2])
    assert not np.allclose(moved.target_ND, take(model.target_ID, np.array([2])), atol=1e-3)


def test_a_reduced_model_takes_new_items_as_it_took_its_own(fitted):
    model = fitted.scoring_model
    users = model.users(fitted.dataset.user_batch())
    smaller = fewer_dimensions(fewer_neurons(fewer_neurons(model, users, 40), users, 20), users, 6)
    assert_same(smaller.reduction(own_rows(model, [1, 4])), own_rows(smaller, [1, 4]), 1e-4)


def test_a_catalogue_without_interactions_lends_nothing(fitted):
    model, reader = fitted.scoring_model, fitted.item_reader
    alone = replace(reader, is_seen_I=np.zeros(NUM_ITEMS, bool))
    rows = alone.read(model, features(fitted)[[COLD]], [None])
    assert np.isfinite(rows.target_ND).all()
    assert np.isfinite(rows.bias_N).all()


def test_the_nearest_items_are_those_of_the_same_text(fitted):
    reader = fitted.item_reader
    rows, cosines = reader.texts.nearest(features(fitted)[3], 2)
    assert rows[0] == 3
    assert cosines[0] == pytest.approx(float((features(fitted)[3] ** 2).sum()), abs=0.02)


def test_there_and_back(fitted):
    reader = fitted.item_reader
    again = ItemReader.from_arrays(reader.arrays(), reader.facts)
    model = fitted.scoring_model
    assert np.array_equal(
        again.read(model, features(fitted)[[5]], [None]).target_ND,
        reader.read(model, features(fitted)[[5]], [None]).target_ND,
    )
    assert ScoringModel.from_arrays(model.arrays(), model.facts).reduction.source_DR is None
