"""New items against the network that would have seen them, and against the rows that the form has of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import COLD, NUM_ITEMS, small_world

from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import popularity_form
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.models.request_form import ItemRows, RequestForm, take
from lanner.models.request_items import ItemReader
from lanner.models.request_network import item_reader, request_form
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


def own_rows(form: RequestForm, rows: list[int]) -> ItemRows:
    picked = np.array(rows)
    half = None if form.head is None else take(form.head.item_IH, picked)
    return ItemRows(take(form.source_ID, picked), take(form.target_ID, picked), form.bias_I[picked], half)


def assert_same(got: ItemRows, wanted: ItemRows, tolerance: float = 0.03) -> None:
    for name in vars(wanted):
        one, other = getattr(got, name), getattr(wanted, name)
        if other is not None:
            assert np.allclose(one, other, atol=tolerance * max(1.0, np.abs(other).max())), name


def features(model: NeuralRecommender) -> np.ndarray:
    return model.network.views["language"].features.numpy()


def test_an_item_nobody_met_gets_the_rows_that_the_network_lends_it(fitted):
    form, reader = request_form(fitted), item_reader(fitted)
    assert_same(reader.read(form, features(fitted)[[COLD]], [None]), own_rows(form, [COLD]))


def test_an_item_that_was_met_keeps_what_it_learnt(fitted):
    form, reader = request_form(fitted), item_reader(fitted)
    rows = [row for row in range(NUM_ITEMS) if reader.is_met_I[row]]
    assert_same(reader.read(form, features(fitted)[rows], rows), own_rows(form, rows))
    moved = reader.read(form, features(fitted)[[9]], [2])
    assert not np.allclose(moved.target_ND, take(form.target_ID, np.array([2])), atol=1e-3)


def test_a_reduced_form_takes_new_items_as_it_took_its_own(fitted):
    form = request_form(fitted)
    users = form.users(fitted.dataset.user_batch())
    smaller = fewer_dimensions(fewer_neurons(fewer_neurons(form, users, 40), users, 20), users, 6)
    assert_same(smaller.reduction(own_rows(form, [1, 4])), own_rows(smaller, [1, 4]), 1e-4)


def test_on_the_rung_of_popularity_a_new_item_is_the_least_popular(fitted):
    form = request_form(fitted)
    popular = popularity_form(form, np.arange(NUM_ITEMS) + 1)
    rows = popular.reduction(own_rows(form, [COLD]))
    assert rows.target_ND.shape == (1, 1)
    assert rows.bias_N[0] == 0 < popular.bias_I.min()


def test_a_catalogue_that_met_nothing_lends_nothing(fitted):
    form, reader = request_form(fitted), item_reader(fitted)
    alone = replace(reader, is_met_I=np.zeros(NUM_ITEMS, bool))
    rows = alone.read(form, features(fitted)[[COLD]], [None])
    assert np.isfinite(rows.target_ND).all()
    assert np.isfinite(rows.bias_N).all()


def test_the_nearest_items_are_those_of_the_same_text(fitted):
    reader = item_reader(fitted)
    rows, cosines = reader.texts.nearest(features(fitted)[3], 2)
    assert rows[0] == 3
    assert cosines[0] == pytest.approx(float((features(fitted)[3] ** 2).sum()), abs=0.02)


def test_there_and_back(fitted):
    reader = item_reader(fitted)
    again = ItemReader.from_arrays(reader.arrays(), reader.facts)
    form = request_form(fitted)
    assert np.array_equal(
        again.read(form, features(fitted)[[5]], [None]).target_ND,
        reader.read(form, features(fitted)[[5]], [None]).target_ND,
    )
    assert RequestForm.from_arrays(form.arrays(), form.view_sizes).reduction.source_DR is None
