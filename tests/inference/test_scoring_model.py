"""The scoring model against the network it was exported from, and the tables it keeps."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from stand_ins import small_world

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.inference.tables import GrowingTable, Int8Rows, multiply, take
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")


VIEWS = ("graph", "filter", "language")


def fitted(fusion: str = "concat", ties: bool = False) -> NeuralRecommender:
    config = NeuralConfig(
        views=VIEWS, fusion=fusion, dimensions=8, language_dimensions=8, filter_rank=4, filter_ridge=5.0
    )
    trainer = Trainer(TrainingConfig(epochs=2, batch_users=16, device="cpu"), progress=False)
    model = NeuralRecommender(config, trainer).fit(small_world(ties=ties))
    # A head that has learned nothing would test nothing.
    torch.manual_seed(0)
    for parameter in model.network.fusion.parameters():
        torch.nn.init.normal_(parameter)
    model.network.fusion.weights[:] = torch.tensor([[1.0, 2.0, 0.5], [0.5, 1.0, 3.0]])
    return model._serve(model.network, model.dataset)


def network_scores(model: NeuralRecommender, users: UserBatch) -> np.ndarray:
    return model.network.score(users, model.network.item_side())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fusion", ["sum", "concat", "gated", "cross-attention"])
def test_it_scores_as_the_network_does(fusion, ties):
    model = fitted(fusion, ties)
    users = model.dataset.user_batch()
    assert (model.scoring_model.head is None) == (fusion == "sum")
    np.testing.assert_allclose(model.score(users), network_scores(model, users), atol=2e-4)


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross-attention"])
def test_the_ranker_ranks_as_the_network_does(fusion):
    model = fitted(fusion, ties=True)
    users = model.dataset.user_batch()
    wanted = network_scores(model, users)
    wanted[users.history.row_of_value, users.history.values] = -np.inf
    np.testing.assert_allclose(model.recommend(users, 5).scores, -np.sort(-wanted, axis=1)[:, :5], atol=2e-4)


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross-attention"])
def test_a_head_that_adds_nothing_is_left_out(fusion):
    model = fitted(fusion)
    for parameter in model.network.fusion.parameters():
        torch.nn.init.zeros_(parameter)
    assert model._serve(model.network, model.dataset).scoring_model.head is None


def test_a_text_adds_to_the_mean_of_the_history():
    model = fitted("sum")
    exported, features = model.scoring_model, model.features(["name2 maker2\nkind0 sort"])
    users = UserBatch(Ragged.from_lists([[5, 9]]))
    by_text, by_hand = exported.users(users, None, features), exported.users(users)
    own = features @ take(exported.text_FD)
    np.testing.assert_allclose(by_text, by_hand + own, atol=1e-5)
    assert not np.allclose(exported.score(users, None, features), exported.score(users))


def test_weights_of_the_history_count():
    exported = fitted("sum").scoring_model
    weighted = UserBatch(Ragged.from_lists([[5, 9]]), weights=np.array([3, 1], np.float32))
    source = take(exported.source_ID)
    np.testing.assert_allclose(exported.users(weighted)[0], (3 * source[5] + source[9]) / 4, atol=1e-5)


def test_attributes_add_to_the_user_and_to_the_rows_of_the_sparse_part():
    random = np.random.default_rng(0)
    tables = [random.normal(size=(4, 3)).astype(np.float32) for _ in range(2)]
    kind_A, attribute_AD = np.array([0, 0, 1], np.int32), random.normal(size=(3, 3)).astype(np.float32)
    rows = random.normal(size=(4 + 3 + 12, 4)).astype(np.float32)
    popularity = np.arange(4, dtype=np.float32)
    sparse = SparseRows.of(sp.csr_matrix(rows), sums=True)
    exported = ScoringModel(
        *tables, popularity, popularity, (3,), item_to_item=sparse, attribute_AD=attribute_AD, kind_A=kind_A
    )
    users = UserBatch(Ragged.from_lists([[1, 3], [], []]), attributes=Ragged.from_lists([[0, 1, 2], [2], []]))
    shares = np.array([0.5, 0.5, 1])
    vector = tables[0][[1, 3]].mean(axis=0) + shares @ attribute_AD
    pairs = [shares[value] * rows[4 + 3 + 4 * value + item] for value in range(3) for item in (1, 3)]
    wanted = vector @ tables[1].T + popularity + rows[[1, 3]].sum(axis=0) + shares @ rows[4:7] + np.sum(pairs, axis=0)
    again = ScoringModel.from_arrays(exported.arrays(), exported.facts)
    for model in (exported, again):
        scores = model.score(users)
        np.testing.assert_allclose(scores[0], wanted, rtol=1e-4)
        np.testing.assert_allclose(scores[1], attribute_AD[2] @ tables[1].T + popularity + rows[6], rtol=1e-4)
        assert scores[2].tolist() == popularity.tolist()


def test_arrays_and_back():
    exported = fitted(ties=True).scoring_model.map_tables(lambda table: Int8Rows.of(take(table)))
    again = ScoringModel.from_arrays(exported.arrays(), exported.facts)
    users = UserBatch(Ragged.from_lists([[1, 2]]))
    assert np.array_equal(again.score(users), exported.score(users))
    assert exported.arrays()["source.codes"].dtype == np.int8


def test_int8_errs_by_half_a_step():
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    table[3] = 0
    rows = Int8Rows.of(table)
    assert np.all(np.abs(take(rows) - table) <= rows.scale[:, None] / 2 + 1e-6)
    assert np.array_equal(take(rows, np.array([7, 3])), take(rows)[[7, 3]])
    features = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    np.testing.assert_allclose(multiply(features, rows), features @ take(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("codes", [False, True])
def test_rows_that_come_later_are_kept_as_the_table_is(codes):
    draw = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    grown = GrowingTable(Int8Rows.of(draw[:3]) if codes else draw[:3])
    for row in range(3, 200):
        grown.append(draw[row : row + 1])
    np.testing.assert_allclose(grown.take(np.array([199, 0, 3, 64])), draw[[199, 0, 3, 64]], atol=0.02)
    assert len(grown) == 200
    np.testing.assert_allclose(grown.later, draw[3:], atol=0.02)


def test_views_are_of_one_size_so_that_one_scale_a_row_suits_them_all():
    model = fitted()
    with torch.no_grad():
        model.network.views["filter"].get_buffer("source").mul_(500)
        model.network.views["filter"].get_buffer("target").div_(500)
    exported = model._serve(model.network, model.dataset).scoring_model
    sources = np.split(exported.source_ID, np.cumsum(exported.view_sizes)[:-1], axis=1)
    targets = np.split(exported.target_ID, np.cumsum(exported.view_sizes)[:-1], axis=1)
    for source, target in zip(sources, targets, strict=True):
        assert source.std() == pytest.approx(target.std(), rel=0.05)
