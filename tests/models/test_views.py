"""Views against dense references: every user is a mean of the items they interacted with."""

import numpy as np
import pytest
import torch
from random_events import random_events
from stand_ins import encode_words

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.graph.adjacency import Adjacency, distinct_edges
from lanner.models.linear import training_matrix
from lanner.models.views import FilterView, GraphView, LanguageView, UserInputs, View

DATASET, MET = random_events()
EDGES = Adjacency.from_pattern(training_matrix(DATASET))
NUM_USERS, NUM_ITEMS = MET.shape
MEANS = MET / np.maximum(MET.sum(axis=1, keepdims=True), 1)


def graph_view(layers: int = 0, friends: bool = False) -> GraphView:
    torch.manual_seed(0)
    view = GraphView(EDGES, 6, layers, friends)
    with torch.no_grad():
        view.vectors.normal_()
    return view


def views() -> dict[str, View]:
    torch.manual_seed(0)
    features = torch.from_numpy(encode_words([f"w{row % 4} x{row % 3}" for row in range(NUM_ITEMS)]))
    return {
        "graph": graph_view(2),
        "filter": FilterView.fit(EDGES, 5, 10.0),
        "language": LanguageView(features, 6, 0.5, False).eval(),
    }


def inputs(users: UserBatch) -> UserInputs:
    return UserInputs.of(users, NUM_ITEMS, NUM_USERS)


def scores(view: View, users: UserBatch) -> np.ndarray:
    tables = view.tables()
    with torch.no_grad():
        return (view.user_vectors(inputs(users), tables) @ tables.target_ID.T + tables.bias_I).numpy()


@pytest.mark.parametrize("name", views())
def test_a_user_is_the_mean_of_what_they_met(name):
    view = views()[name]
    tables = view.tables()
    found = view.user_vectors(inputs(DATASET.user_batch()), tables).detach().numpy()
    np.testing.assert_allclose(found, MEANS @ tables.source_ID.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", views())
def test_a_stranger_with_the_same_history_scores_the_same_in_any_company(name):
    view = views()[name]
    known = scores(view, DATASET.user_batch())
    history = DATASET.histories[4].tolist()
    shuffled = [*history[::-1], history[0]]  # neither order nor repeats say anything
    strangers = UserBatch(Ragged.from_lists([[2], shuffled, [0, 5]]))
    np.testing.assert_allclose(scores(view, strangers)[1], known[4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores(view, DATASET.user_batch(np.array([9, 4])))[1], known[4], rtol=1e-4, atol=1e-5)


def test_a_weighted_history_is_a_weighted_mean_and_a_repeated_item_counts_once():
    users = UserBatch(Ragged.from_lists([[3, 1, 3], []]), weights=np.array([0.5, 1.5, 1.0], np.float32))
    history = UserInputs.of(users, 5, 2).history
    np.testing.assert_allclose(history.dense(), [[0, 0.6, 0, 0.4, 0], [0] * 5], rtol=1e-6)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_layers_smooth_as_in_the_formula(layers):
    view = graph_view(layers)
    normal = MET / np.sqrt(np.outer(np.maximum(MET.sum(1), 1), np.maximum(MET.sum(0), 1)))
    step, total = view.vectors.detach().numpy().astype(np.float64), 0.0
    for _ in range(layers + 1):
        total, step = total + step, normal.T @ (normal @ step)
    tables = view.tables()
    np.testing.assert_allclose(tables.source_ID.detach().numpy(), total / (layers + 1), rtol=1e-4, atol=1e-5)
    assert tables.target_ID is tables.source_ID


def test_smoothing_passes_the_gradient_on():
    view = graph_view(2)
    wanted = torch.randn(NUM_ITEMS, 6)
    (view.tables().source_ID * wanted).sum().backward()
    normal = MET / np.sqrt(np.outer(np.maximum(MET.sum(1), 1), np.maximum(MET.sum(0), 1)))
    smooth = np.eye(NUM_ITEMS) + (gram := normal.T @ normal) + gram @ gram
    np.testing.assert_allclose(view.vectors.grad.numpy(), smooth.T @ wanted.numpy() / 3, rtol=1e-4, atol=1e-5)


def test_before_training_a_user_without_history_gets_the_popular():
    view = GraphView(EDGES, 6, 1, False)
    ranked = np.argsort(-scores(view, UserBatch(Ragged.empty(1)))[0], kind="stable")
    assert (np.diff(MET.sum(axis=0)[ranked]) <= 0).all()


def test_friends_add_the_mean_of_their_own_means():
    view = graph_view(1, friends=True)
    friends = [[1, 5, 7], [], [0]]
    users = UserBatch(Ragged.from_lists([[2], [3], []]), friends=Ragged.from_lists(friends))
    table = view.tables().source_ID.detach().numpy()
    own = np.array([table[2], table[3], np.zeros(6)])
    theirs = np.array([(MEANS[row] @ table).mean(axis=0) if row else np.zeros(6) for row in friends])
    found = view.user_vectors(inputs(users), view.tables()).detach().numpy()
    np.testing.assert_allclose(found, own + 0.5 * theirs, rtol=1e-4, atol=1e-5)
    assert view.friend_weight.requires_grad
    assert not graph_view(1, friends=False).friend_weight.requires_grad


def test_at_full_rank_the_filter_is_ease_outside_the_history():
    ridge = 3.0
    inverse = np.linalg.inv(MET.T @ MET + ridge * np.eye(NUM_ITEMS))
    ease = -inverse / np.diag(inverse)
    np.fill_diagonal(ease, 0)
    found, expected = scores(FilterView.fit(EDGES, NUM_ITEMS, ridge), DATASET.user_batch()), MEANS @ ease
    outside = (MET == 0) & (MET.sum(axis=1, keepdims=True) > 0)
    outside[:, -1] = False  # nobody met the last item: both give it exactly nothing
    scale = np.median(found[outside] / expected[outside])
    assert scale > 0
    np.testing.assert_allclose(found[outside], scale * expected[outside], rtol=1e-3, atol=1e-4)
    assert (found[:, -1] == 0).all()


def test_a_low_rank_filter_keeps_the_strongest_directions():
    _, values, right = np.linalg.svd(MET)
    response = values[:4] ** 2 / (values[:4] ** 2 + 3.0)
    weights = (right[:4].T * response) @ right[:4]
    expected = MEANS @ (weights / (1 - np.diag(weights)))
    found = scores(FilterView.fit(EDGES, 4, 3.0), DATASET.user_batch())
    scale = np.vdot(found, expected) / np.vdot(expected, expected)
    np.testing.assert_allclose(found, scale * expected, rtol=1e-3, atol=1e-3)


def test_a_filter_of_any_size_has_scores_of_spread_one():
    for rank, ridge in ((3, 1.0), (NUM_ITEMS, 100.0)):
        assert scores(FilterView.fit(EDGES, rank, ridge), DATASET.user_batch()).std() == pytest.approx(1, rel=0.05)


def test_language_reads_linearly_and_hides_features_in_training_only():
    view = views()["language"]
    features = view.get_buffer("features")
    tables, halves = view.tables(), [view.read(features * share) for share in (0.25, 0.75)]
    torch.testing.assert_close(halves[0].source_ID + halves[1].source_ID, tables.source_ID)
    torch.testing.assert_close(halves[0].target_ID + halves[1].target_ID, tables.target_ID)
    torch.testing.assert_close(view.tables().target_ID, tables.target_ID)
    view.train()
    assert not torch.equal(view.tables().target_ID, tables.target_ID)


@pytest.mark.parametrize("name", ["graph", "language"])
def test_a_part_has_the_rows_of_the_histories_and_the_candidates(name):
    view, given, candidates = views()[name], inputs(DATASET.user_batch(np.array([1, 4]))), np.array([0, 3])
    tables, part = view.tables(), view.part(given, candidates, 100, np.random.default_rng(0))
    assert part.items.tolist() == sorted({*given.history.indices.tolist(), 0, 3})
    for whole, narrow in zip(tables, part.tables, strict=True):
        torch.testing.assert_close(narrow, whole[part.items])
    torch.testing.assert_close(view.user_vectors(part.inputs, part.tables), view.user_vectors(given, tables))


def test_a_profile_adds_its_own_reading():
    torch.manual_seed(0)
    view = LanguageView(torch.randn(NUM_ITEMS, 8), 6, 0.0, has_profiles=True).eval()
    users, profiles = UserBatch(Ragged.from_lists([[1, 2], []])), torch.randn(2, 8)
    plain = inputs(users)
    told = UserInputs(plain.history, None, profiles)
    tables = view.tables()
    torch.testing.assert_close(view.user_vectors(told, tables), view.user_vectors(plain, tables))
    with torch.no_grad():
        view.from_profile.weight.normal_()
    difference = view.user_vectors(told, tables) - view.user_vectors(plain, tables)
    torch.testing.assert_close(difference, profiles @ view.from_profile.weight.T)


def test_a_refit_filter_scores_as_the_new_one_and_lies_near_the_old():
    random = np.random.default_rng(5)
    few = random.random((60, 12)) < 0.3
    more = few | (random.random((60, 12)) < 0.05)
    few, more = (distinct_edges(*np.nonzero(met), met.shape) for met in (few, more))
    old, new = FilterView.fit(few, 5, 3.0), FilterView.fit(more, 5, 3.0)
    refit = old.refit(more, 3.0)
    assert torch.allclose(refit.source @ refit.target.T, new.source @ new.target.T, atol=1e-4)
    assert torch.norm(refit.source - old.source) < torch.norm(new.source - old.source)
