"""The local ridge against explicit dense regressions."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from random_events import random_events

from lanner.models.local_ridge import LocalRidge, strongest


@pytest.fixture(scope="module")
def met() -> np.ndarray:
    return random_events()[1].astype(np.float32)


def regressed(gram: np.ndarray, right: np.ndarray, support: np.ndarray, target: int) -> np.ndarray:
    out = np.zeros(len(gram))
    out[support] = np.linalg.solve(gram[np.ix_(support, support)], right[support, target])
    return out


def test_with_all_neighbours_each_item_is_regressed_on_all_others(met):
    gram = met.T @ met
    found = LocalRidge.of(sp.csr_matrix(met), sp.csr_matrix(met), len(gram)).solve(3.0).toarray()
    system = gram + 3 * np.eye(len(gram))
    for target in range(len(gram)):
        # Items that never occur together have no part in each other's neighbourhoods.
        support = np.flatnonzero((gram[:, target] != 0) & (np.arange(len(gram)) != target))
        np.testing.assert_allclose(found[:, target], regressed(system, gram, support, target), atol=1e-4)


def test_the_neighbourhood_holds_the_nearest_by_cosine(met):
    gram = met.T @ met
    found = LocalRidge.of(sp.csr_matrix(met), sp.csr_matrix(met), 4).solve(3.0).toarray()
    length = np.sqrt(np.maximum(np.diag(gram), 1))
    cosine = gram / length[:, None] / length
    np.fill_diagonal(cosine, 0)
    for target in range(len(gram)):
        support = np.flatnonzero(found[:, target])
        assert len(support) <= 4
        assert (cosine[support, target] >= np.sort(cosine[:, target])[-4] - 1e-6).all()  # equals may stand for equals


def test_a_prior_joins_the_neighbourhood_and_the_right_hand_side(met):
    gram = met.T @ met
    prior = np.zeros_like(gram)
    prior[0, 3] = 2.5
    found = LocalRidge.of(sp.csr_matrix(met), sp.csr_matrix(met), 2).solve(3.0, prior=sp.csr_matrix(prior)).toarray()
    support = np.flatnonzero(found[:, 3])
    assert 0 in support
    system = gram + 3 * np.eye(len(gram))
    np.testing.assert_allclose(found[:, 3], regressed(system, gram + prior, support, 3), atol=1e-4)


def test_dropout_weighs_the_diagonal(met):
    gram = met.T @ met
    whole = len(gram)
    found = LocalRidge.of(sp.csr_matrix(met), sp.csr_matrix(met), whole).solve(3.0, dropout=0.5).toarray()
    system = gram + 3 * np.eye(whole) + np.diag(np.diag(gram))
    support = np.flatnonzero((gram[:, 0] != 0) & (np.arange(whole) != 0))
    np.testing.assert_allclose(found[:, 0], regressed(system, gram, support, 0), atol=1e-4)


def test_an_item_that_nobody_met_has_no_weights_and_nothing_is_nan(met):
    met = met.copy()
    met[:, 5] = 0
    found = LocalRidge.of(sp.csr_matrix(met), sp.csr_matrix(met), 10).solve(1.0)
    assert np.isfinite(found.data).all()
    assert found[:, 5].nnz == found[5].nnz == 0
    nothing = sp.csr_matrix((4, 4), dtype=np.float32)
    assert LocalRidge.of(nothing, nothing, 3).solve(1.0).nnz == 0


@pytest.mark.parametrize("targets", [None, [0, 3, 7]])
def test_products_that_are_not_dense_give_the_same(met, monkeypatch, targets):
    past, future = sp.csr_matrix(met), sp.csr_matrix(np.roll(met, 1, axis=0))
    prior = sp.csr_matrix(np.eye(met.shape[1], k=2, dtype=np.float32))
    targets = None if targets is None else np.array(targets)
    dense = LocalRidge.of(past, future, 6, targets)
    monkeypatch.setattr("lanner.models.local_ridge._DENSE_ITEMS", 0)
    sparse = LocalRidge.of(past, future, 6, targets)
    assert isinstance(dense.right, np.ndarray) != isinstance(sparse.right, np.ndarray)
    np.testing.assert_allclose(dense.right, sparse.right.toarray(), rtol=1e-6)
    # Where cosines are equal either may be kept, so that only the same neighbourhoods give the same.
    alike = replace(dense, near=sparse.near)
    for one in (None, prior):
        expected = sparse.solve(2.0, prior=one).toarray()
        np.testing.assert_allclose(alike.solve(2.0, prior=one).toarray(), expected, rtol=1e-4, atol=1e-6)


def test_the_strongest_of_each_row_are_kept():
    matrix = sp.csr_matrix(np.array([[3.0, -5, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]], np.float32))
    assert strongest(matrix, 2).toarray().tolist() == [[3, -5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert matrix.nnz == 4


def test_some_targets_are_solved_as_all_are(met):
    history, prior = sp.csr_matrix(met), sp.csr_matrix(np.triu(np.ones((met.shape[1],) * 2, np.float32), 1))
    targets = np.array([0, 3, met.shape[1] - 1])
    whole, some = LocalRidge.of(history, history, 4), LocalRidge.of(history, history, 4, targets)
    for one in (None, prior):
        expected = whole.solve(3.0, prior=one).toarray()[:, targets]
        np.testing.assert_allclose(some.solve(3.0, prior=one).toarray(), expected, rtol=1e-5)
