"""The request form against the network it was made of."""

import numpy as np
import pytest
import torch
from stand_ins import small_world

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.models.request_form import Int8Rows, RequestForm, RequestScorer, take, through
from lanner.models.request_network import RequestNetwork, request_form
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")


def fitted(fusion: str = "concat", ties: bool = False) -> NeuralRecommender:
    config = NeuralConfig(fusion=fusion, dimensions=8, language_dimensions=8, filter_rank=4, filter_ridge=5.0)
    trainer = Trainer(TrainingConfig(epochs=2, batch_users=16, device="cpu"), progress=False)
    model = NeuralRecommender(config, trainer).fit(small_world(ties=ties))
    if fusion == "concat":
        # A head that has learned nothing would test nothing.
        torch.manual_seed(0)
        torch.nn.init.normal_(model.network.fusion.out.weight)
    model.network.fusion.weights[:] = torch.tensor([[1.0, 2.0, 0.5], [0.5, 1.0, 3.0]])
    return model._serve(model.network, model.dataset)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_it_scores_as_the_network_does(fusion):
    model = fitted(fusion)
    users = model.dataset.user_batch()
    scorer = RequestScorer(request_form(model), lambda texts: model._read_profiles(texts).numpy())
    assert np.allclose(scorer.score(users), model.score(users), atol=1e-4)


def test_a_stranger_without_history_gets_the_bias_and_the_head():
    model = fitted()
    nobody = UserBatch(Ragged.empty(1))
    assert np.allclose(RequestScorer(request_form(model)).score(nobody), model.score(nobody), atol=1e-4)


def test_the_torch_module_is_the_same():
    form = request_form(fitted())
    users = np.random.default_rng(0).normal(size=(5, form.dimensions)).astype(np.float32)
    with torch.no_grad():
        assert np.allclose(RequestNetwork(form)(torch.from_numpy(users)).numpy(), form.score(users), atol=1e-4)


def test_a_head_that_adds_nothing_is_left_out():
    model = fitted()
    torch.nn.init.zeros_(model.network.fusion.out.weight)
    assert request_form(model).head is None


def test_arrays_and_back():
    form = request_form(fitted()).map_tables(lambda table: Int8Rows.of(take(table)))
    again = RequestForm.from_arrays(form.arrays(), form.view_sizes)
    users = np.ones((1, form.dimensions), np.float32)
    assert np.array_equal(again.score(users), form.score(users))
    assert form.arrays()["source.codes"].dtype == np.int8


def test_int8_errs_by_half_a_step():
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    table[3] = 0
    rows = Int8Rows.of(table)
    assert np.all(np.abs(take(rows) - table) <= rows.scale[:, None] / 2 + 1e-6)
    assert np.array_equal(take(rows, np.array([7, 3])), take(rows)[[7, 3]])


@pytest.mark.parametrize("fusion", ["gated", "cross-attention"])
def test_heads_that_do_not_split_are_refused(fusion):
    with pytest.raises(ConfigError, match="does not split"):
        request_form(fitted(fusion))


def test_ties_are_refused():
    with pytest.raises(ConfigError, match="social ties"):
        request_form(fitted(ties=True))


def test_views_are_of_one_size_so_that_one_scale_a_row_suits_them_all():
    model = fitted()
    with torch.no_grad():
        model.network.views["filter"].get_buffer("source").mul_(500)
        model.network.views["filter"].get_buffer("target").div_(500)
    form = request_form(model._serve(model.network, model.dataset))
    sources = np.split(form.source_ID, np.cumsum(form.view_sizes)[:-1], axis=1)
    targets = np.split(form.target_ID, np.cumsum(form.view_sizes)[:-1], axis=1)
    for source, target in zip(sources, targets, strict=True):
        assert source.std() == pytest.approx(target.std(), rel=0.05)
    users = model.dataset.user_batch()
    scorer = RequestScorer(form, lambda texts: model._read_profiles(texts).numpy())
    assert np.allclose(scorer.score(users), model.score(users), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_features_go_through_codes_as_through_what_they_stand_for(rows):
    draw = np.random.default_rng(0).normal
    features, codes = draw(size=(3, rows)).astype(np.float32), Int8Rows.of(draw(size=(rows, 9)).astype(np.float32))
    np.testing.assert_allclose(through(features, codes), features @ take(codes), rtol=1e-5, atol=1e-6)
