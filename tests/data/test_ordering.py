"""The bucket sort against NumPy's stable comparison sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.data.ordering import sort_by

KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50),
    st.lists(st.integers(0, 5), max_size=50),
    st.lists(st.integers(1_600_000_000, 1_700_000_000), max_size=50),
)


def _check(keys):
    places = np.arange(len(keys))
    columns = [keys, places.astype(np.int32), places.astype(np.uint8), (places / 2).astype(np.float32)]
    ordered = sort_by(keys, columns)
    expected = np.argsort(keys, kind="stable")
    if ordered is None:
        assert np.array_equal(expected, places)
        return
    for column, got in zip(columns, ordered, strict=True):
        assert got.dtype == column.dtype
        assert np.array_equal(got, column[expected])


@settings(max_examples=100, deadline=None)
@given(KEYS)
def test_a_handful(keys):
    _check(np.array(keys, np.int64))


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (800_000_000, 1_700_000_000, np.int32),
        (0, 3, np.int64),
        (-(2**40), 2**40, np.int64),
        (-(2**62), 2**62, np.int64),
        (0, 2**20, np.uint32),
    ],
)
def test_many_events_in_many_buckets(low, high, kind):
    _check(np.random.default_rng(3).integers(low, high, 100_000).astype(kind))


def test_all_in_one_bucket_but_one():
    keys = np.random.default_rng(3).integers(0, 100, 50_000)
    keys[7] = 2**31
    _check(keys)


def test_what_is_in_order_is_not_copied():
    assert sort_by(np.array([1, 1, 2]), [np.array([3, 4, 5])]) is None
