"""Numbering and grouping against NumPy's comparison sorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.data.grouping import group, number_integers
from lanner.data.ragged import Ragged

KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50),
    st.lists(st.integers(0, 5), max_size=50),
    st.lists(st.integers(1_600_000_000, 1_700_000_000), max_size=50),
)


@settings(max_examples=100, deadline=None)
@given(KEYS)
def test_number_integers(ids):
    ids = np.array(ids, np.int64)
    distinct, rows = number_integers(ids)
    assert np.array_equal(distinct, np.unique(ids))
    assert np.array_equal(distinct[rows], ids)


def test_group_keeps_the_order_inside_a_list():
    indptr, values = group(np.array([2, 0, 2, 0, 2]), np.array([9, 8, 7, 6, 5], np.int32), 4)
    assert indptr.tolist() == [0, 2, 2, 5, 5]
    assert values.tolist() == [8, 6, 9, 7, 5]


@pytest.mark.parametrize("rows", [[-1, 0], [0, 2]])
def test_rows_outside_are_refused(rows):
    with pytest.raises(ValueError, match="do not fit 2 lists"):
        Ragged.from_pairs(np.array(rows), np.array([1, 1]), 2)
