"""The closed forms of the hybrid against their equations."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.interactions import Interactions
from lanner.data.ragged import Ragged
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.material import ItemTexts, Material, ratings_of, text_neighbours
from lanner.models.hybrid.parts import KINDS, SOFTMAX, Linear, kept_rows, past_and_future

USERS, ITEMS = 30, 12
NO_WORDS = sp.csr_matrix((ITEMS, 3), dtype=np.float32)


def material(users: int = USERS, texts: bool = True) -> Material:
    random = np.random.default_rng(0)
    lists = [random.choice(ITEMS - 1, random.integers(2, 6), replace=False).tolist() for _ in range(users)]
    features = random.standard_normal((ITEMS, 7)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True) / np.sqrt(2)
    near = text_neighbours(features, NO_WORDS, ITEMS)
    ratings = (np.array([0, 0, 1], np.int32), np.array([5, 4, 1], np.float32))
    about = (Ragged.from_lists(lists), ITEMS, True)
    values = Ragged.from_lists([[row % 2] for row in range(users - 1)] + [[]])
    people = Catalogue(("",) * users, ("",) * users, {"age": Attribute(("young", "old"), values)})
    return Material(*about, *((features, near) if texts else (None, None)), ratings, people)


def dense_reference(given: Material, settings: dict[str, float]) -> np.ndarray:
    """Column by column, the regression without the item itself."""
    met = given.matrix.toarray().astype(np.float64)
    weights = np.diag(given.user_weights(settings["row"]).astype(np.float64))
    gram = met.T @ weights @ met
    diagonal = settings["ridge"] + settings["dropout"] / (1 - settings["dropout"]) * np.diag(gram)
    trust, goal = 0.0, np.zeros_like(gram)
    if given.features_IF is not None:
        trust = settings["prior"]
        half = given.features_IF.astype(np.float64) / np.sqrt(2)
        inverse = np.linalg.inv(half @ half.T + settings["text_ridge"] * np.eye(ITEMS))
        goal = np.eye(ITEMS) - inverse / np.diag(inverse)
    system, right = gram + np.diag(diagonal + trust), gram + trust * goal
    out = np.zeros_like(gram)
    for target in range(ITEMS):
        others = np.delete(np.arange(ITEMS), target)
        out[others, target] = np.linalg.solve(system[np.ix_(others, others)], right[others, target])
    return out


@pytest.mark.parametrize("users", [4, USERS])  # by the users where they are few, else by the items
@pytest.mark.parametrize("texts", [False, True])
def test_the_dense_ridge_is_the_regression_without_the_item_itself(users, texts):
    given = material(users, texts)
    settings = {"ridge": 2.0, "dropout": 0.3, "row": 0.4, "prior": 5.0, "text_ridge": 0.7}
    found = KINDS["dense-ridge"].fit(given, HybridConfig(), settings).items
    np.testing.assert_allclose(found, dense_reference(given, settings), atol=2e-4)


def test_an_items_rating_is_drawn_towards_the_mean_of_all():
    found = KINDS["rating"].fit(material(), HybridConfig(), {"shrinkage": 3}).bias_I
    above = 10 / 3  # the mean
    np.testing.assert_allclose(found[:3], [(9 - 2 * above) / 5, (1 - above) / 4, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "are_ratings"),
    [(None, False), ([1, 1, 1], False), ([1, 2, 300], False), ([4.5, 3, np.nan], True)],
    ids=["none", "one value", "counts", "a scale"],
)
def test_only_a_scale_of_ratings_is_read_as_one(weights, are_ratings):
    given = None if weights is None else np.array(weights, np.float32)
    events = Interactions(np.zeros(3, np.int32), np.arange(3, dtype=np.int32), weight=given)
    found = ratings_of(events)
    assert (found is not None) == are_ratings
    if found is not None:
        assert found[0].tolist() == [0, 1]


def test_past_and_future_of_a_history():
    given = Material(Ragged.from_lists([[4, 1, 3], [2], []]), 5, True)
    past, future = past_and_future(given, decay=0.5)
    half = np.exp(-0.5)
    np.testing.assert_allclose(past.toarray(), [[0, 0, 0, 0, 1], [0, 1, 0, 0, half]], rtol=1e-6)
    np.testing.assert_allclose(future.toarray(), [[0, 1, 0, half, 0], [0, 0, 0, 1, 0]], rtol=1e-6)


@pytest.mark.parametrize("users", [4, USERS])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("targets", [[], [2, 5], list(range(1, ITEMS))], ids=["none", "few", "most"])
def test_some_columns_are_solved_as_all_are(name, users, targets):
    given, config, targets = material(users), HybridConfig(rank=2), np.array(targets, np.int64)
    if name == SOFTMAX:
        pytest.skip("is fitted as a whole")
    if not KINDS[name].suits(given, config):
        pytest.skip("needs more users and items than twice its rank")
    whole = KINDS[name].fit(given, config, KINDS[name].start)
    some = KINDS[name].fit(replace(given, targets=targets), config, KINDS[name].start)
    assert (some.items is None) == (whole.items is None)
    if whole.items is not None and some.items is not None:
        dense = [one.items if isinstance(one.items, np.ndarray) else one.items.toarray() for one in (some, whole)]
        np.testing.assert_allclose(dense[0], dense[1][:, targets], rtol=1e-4, atol=1e-5)
    for attribute in ("source_IR", "target_IR", "bias_I"):
        np.testing.assert_array_equal(getattr(some, attribute), getattr(whole, attribute))


def test_the_low_pass_is_the_chebyshev_filter_written_out():
    random = np.random.default_rng(0)
    met = (random.random((80, 20)) < 0.3).astype(np.float32)
    given = Material(Ragged.from_lists([np.flatnonzero(row) for row in met]), 20, False)
    config, settings = HybridConfig(rank=6), KINDS["low-pass"].start
    found = KINDS["low-pass"].fit(given, config, settings)
    normalised = met / np.sqrt(np.maximum(met.sum(1), 1))[:, None] / np.sqrt(given.degree_I)
    squares, vectors = np.linalg.eigh(normalised.T @ normalised)
    response = np.where(squares > 0.5, 0.5 + 0.5 * np.abs(1 - 2 * squares) ** settings["flatness"], 0)
    response += np.where(squares > 0.5, 0, 0.5 - 0.5 * np.abs(1 - 2 * squares) ** settings["flatness"])
    leading = np.argsort(-squares)[:6]
    points = np.linspace(0, squares[leading].min(), 50)
    slope, offset = np.polyfit(points, 0.5 - 0.5 * np.abs(1 - 2 * points) ** settings["flatness"], 1)
    gain = np.zeros(20)
    gain[leading] = response[leading] - offset - slope * squares[leading] + settings["ideal"]
    whole = slope * normalised.T @ normalised + (vectors * gain) @ vectors.T
    scale = given.degree_I ** settings["popularity"]
    expected = whole / scale[:, None] * scale
    np.fill_diagonal(expected, 0)  # a step does not return to its item, and what a user has met is not ranked
    ours = found.items.toarray() + found.source_IR @ found.target_IR.T
    np.fill_diagonal(ours, 0)
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.abs(expected).max())


def test_the_low_pass_begins_where_it_was():
    random = np.random.default_rng(0)
    met = (random.random((200, 60)) < np.kron(np.eye(4), np.ones((50, 15))) * 0.5 + 0.02).astype(np.float32)
    given = Material(Ragged.from_lists([np.flatnonzero(row) for row in met]), 60, False)
    config, settings = HybridConfig(rank=4), KINDS["low-pass"].start
    exact = KINDS["low-pass"].fit(given, config, settings)
    scale = given.degree_I ** np.float32(settings["popularity"])
    warm = KINDS["low-pass"].fit(replace(given, directions_IR=exact.target_IR / scale[:, None]), config, settings)
    maps = [one.source_IR @ one.target_IR.T for one in (exact, warm)]
    assert np.abs(maps[0] - maps[1]).max() < 0.02 * np.abs(maps[0]).max()


def test_text_neighbours_of_more_items_are_those_of_all():
    random = np.random.default_rng(0)
    meaning = random.standard_normal((40, 6)).astype(np.float32)
    meaning /= np.linalg.norm(meaning, axis=1, keepdims=True)
    words = sp.random(40, 9, 0.3, "csr", np.float32, rng=random)
    for first in (1, 3, 25, 39):
        begun = ItemTexts(meaning[:first], words[:first], text_neighbours(meaning[:first], words[:first], 5))
        grown = begun.extended(meaning[first:], words[first:], 5)
        np.testing.assert_allclose(grown.near.toarray(), text_neighbours(meaning, words, 5).toarray(), rtol=1e-5)


def test_a_part_scores_as_its_matrices_do():
    random = np.random.default_rng(1)
    items = sp.random(ITEMS, ITEMS, 0.4, "csr", np.float32, rng=random)
    source, target = random.standard_normal((2, ITEMS, 3)).astype(np.float32)
    bias = random.standard_normal(ITEMS).astype(np.float32)
    history = sp.random(5, ITEMS, 0.3, "csr", np.float32, rng=random)
    expected = history @ (items.toarray() + source @ target.T) + bias
    np.testing.assert_allclose(Linear(items, source, target, bias).score(history), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        Linear(items.toarray(), source, target, bias).score(history), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "lists",
    [[[0, 1, 2], [1, 2], [2, 3]], [[0]], [[0] * 9], [list(range(ITEMS))] * 3],
    ids=["few", "one event", "one item many times", "everybody has everything"],
)
def test_every_part_is_finite_on_odd_histories(name, lists):
    whole = material()
    given = whole.with_histories(Ragged.from_lists(lists))
    config = HybridConfig(rank=2)
    if name == "low-pass" and not KINDS[name].suits(given, config):
        pytest.skip("needs more users and items than twice its rank")
    part = KINDS[name].fit(given, config, KINDS[name].start)
    assert np.isfinite(part.score(given.matrix)).all()


def test_texts_that_are_all_alike_and_texts_that_are_missing():
    same, words = np.full((ITEMS, 4), 0.5, np.float32), sp.csr_matrix(np.ones((ITEMS, 1), np.float32))
    near = text_neighbours(same, words, 3)
    assert near.shape == (ITEMS, ITEMS)
    assert (np.diff(near.indptr) == 3).all()
    np.testing.assert_allclose(near.data, 1, rtol=1e-6)
    assert near.diagonal().sum() == 0
    assert text_neighbours(np.zeros((ITEMS, 4), np.float32), NO_WORDS, 3).nnz == 0
    assert text_neighbours(np.ones((1, 4), np.float32), sp.csr_matrix((1, 3), dtype=np.float32), 3).nnz == 0


def test_a_weighted_sum_keeps_the_strongest_and_says_what_it_lost():
    first = sp.csr_matrix(np.array([[0, 2.0, 1], [0, 0, 0], [4, 0, 0]], np.float32))
    second = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    kept, lost = kept_rows([(first, np.float32(1)), (second, np.float32(2))], 1)
    assert kept.toarray().tolist() == [[0, 0, 3], [2, 0, 0], [4, 0, 0]]
    assert lost == pytest.approx(2 / 11)
    assert kept_rows([], 3) == (None, 0.0)


def test_what_is_made_once_is_made_anew_for_another_key():
    given, made = material(), []
    for key in (1, 1, 2, 1):
        assert given.once("thing", key, lambda key=key: made.append(key) or key) == key
    assert made == [1, 2, 1]
    assert "thing" not in given.with_histories(Ragged.from_lists([[0, 1]]))._memo
