import numba
import numpy as np
import pytest
import scipy.sparse as sp

from lanner.graph.neighbours import item_neighbours


def _parts(num_users: int = 40, num_items: int = 25) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    met = (rng.random((num_users, num_items)) < 0.2).astype(np.float32)
    sizes = {"user_scale": num_users, "row_scale": num_items, "column_scale": num_items}
    return met, {name: rng.uniform(0.1, 1, size).astype(np.float32) for name, size in sizes.items()}


@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
@pytest.mark.parametrize("keep_self", [False, True])
def test_keeps_every_entry_where_there_is_room(shrinkage, keep_self):
    met, scales = _parts()
    found = item_neighbours(sp.csr_matrix(met), neighbours=99, shrinkage=shrinkage, keep_self=keep_self, **scales)
    scale = np.outer(scales["row_scale"], scales["column_scale"])
    gram = met.T @ (scales["user_scale"][:, None] * met) * scale
    expected = gram / (1 + shrinkage * scale)
    if not keep_self:
        np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-7)
    assert found.has_sorted_indices


def test_keeps_the_largest_of_each_row():
    met, scales = _parts()
    full = item_neighbours(sp.csr_matrix(met), neighbours=99, **scales).toarray()
    pruned = item_neighbours(sp.csr_matrix(met), neighbours=4, **scales).toarray()
    for all_of_row, kept in zip(full, pruned, strict=True):
        np.testing.assert_array_equal(np.sort(kept)[-4:], np.sort(all_of_row)[-4:])


def test_ties_at_the_edge_do_not_widen_a_row():
    ones = {name: np.ones(6, np.float32) for name in ("user_scale", "row_scale", "column_scale")}
    found = item_neighbours(sp.csr_matrix(np.ones((6, 6), np.float32)), neighbours=2, **ones)
    assert np.diff(found.indptr).tolist() == [2] * 6


def test_the_number_of_threads_changes_nothing():
    met, scales = _parts()
    several = item_neighbours(sp.csr_matrix(met), neighbours=5, **scales)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = item_neighbours(sp.csr_matrix(met), neighbours=5, **scales)
    finally:
        numba.set_num_threads(before)
    assert (several != one).nnz == 0
