"""The local ridge against dense regressions written out."""

import numpy as np
import pytest
import scipy.sparse as sp
from random_events import random_events

from lanner.models.local_ridge import local_ridge, strongest


@pytest.fixture(scope="module")
def met() -> np.ndarray:
    return random_events()[1].astype(np.float32)


def regressed(gram: np.ndarray, right: np.ndarray, support: np.ndarray, target: int) -> np.ndarray:
    out = np.zeros(len(gram))
    out[support] = np.linalg.solve(gram[np.ix_(support, support)], right[support, target])
    return out


def test_with_all_neighbours_each_item_is_regressed_on_all_others(met):
    gram = met.T @ met
    found = local_ridge(sp.csr_matrix(gram), sp.csr_matrix(gram), 3.0, len(gram)).toarray()
    system = gram + 3 * np.eye(len(gram))
    for target in range(len(gram)):
        # Items that never occur together have no part in each other's neighbourhoods.
        support = np.flatnonzero((gram[:, target] != 0) & (np.arange(len(gram)) != target))
        np.testing.assert_allclose(found[:, target], regressed(system, gram, support, target), atol=1e-4)


def test_the_neighbourhood_holds_the_nearest_by_cosine(met):
    gram = met.T @ met
    found = local_ridge(sp.csr_matrix(gram), sp.csr_matrix(gram), 3.0, 4).toarray()
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
    found = local_ridge(sp.csr_matrix(gram), sp.csr_matrix(gram), 3.0, 2, prior=sp.csr_matrix(prior)).toarray()
    support = np.flatnonzero(found[:, 3])
    assert 0 in support
    system = gram + 3 * np.eye(len(gram))
    np.testing.assert_allclose(found[:, 3], regressed(system, gram + prior, support, 3), atol=1e-4)


def test_dropout_weighs_the_diagonal(met):
    gram = met.T @ met
    whole = len(gram)
    found = local_ridge(sp.csr_matrix(gram), sp.csr_matrix(gram), 3.0, whole, dropout=0.5).toarray()
    system = gram + 3 * np.eye(whole) + np.diag(np.diag(gram))
    support = np.flatnonzero((gram[:, 0] != 0) & (np.arange(whole) != 0))
    np.testing.assert_allclose(found[:, 0], regressed(system, gram, support, 0), atol=1e-4)


def test_an_item_that_nobody_met_has_no_weights_and_nothing_is_nan(met):
    met = met.copy()
    met[:, 5] = 0
    gram = sp.csr_matrix(met.T @ met)
    found = local_ridge(gram, gram, 1.0, 10)
    assert np.isfinite(found.data).all()
    assert found[:, 5].nnz == found[5].nnz == 0
    assert (
        local_ridge(sp.csr_matrix((4, 4), dtype=np.float32), sp.csr_matrix((4, 4), dtype=np.float32), 1.0, 3).nnz == 0
    )


def test_the_strongest_of_each_row_are_kept():
    matrix = sp.csr_matrix(np.array([[3.0, -5, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]], np.float32))
    assert strongest(matrix, 2).toarray().tolist() == [[3, -5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert matrix.nnz == 4
