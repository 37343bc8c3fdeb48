"""Rows that are appended, and what an index keeps of what came."""

import numpy as np

from lanner.models.request_form import Int8Rows, take
from lanner.serving import growing
from lanner.serving.growing import GrowingCodes, GrowingRows
from lanner.serving.retrieval.fresh import Fresh


def draw(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


def test_half_the_bytes_are_kept_where_that_is_enough():
    rows = GrowingRows(np.float16, 4)
    rows.append(draw(3))
    assert rows.rows.nbytes == 3 * 8
    np.testing.assert_allclose(rows.rows, draw(3), atol=2e-3)


def test_numbers_may_be_rows():
    rows = GrowingRows(np.int64)
    rows.append(np.arange(3))
    rows.append(np.arange(2))
    np.testing.assert_array_equal(rows.rows, [0, 1, 2, 0, 1])


def test_what_follows_shares_memory_and_changes_nothing():
    first = Fresh.none(4).followed_by(np.arange(2), draw(2))
    second = first.followed_by(np.arange(2, 5), draw(3))
    assert np.shares_memory(first.vectors_FD, second.vectors_FD)
    np.testing.assert_array_equal(first.row_F, [0, 1])
    np.testing.assert_array_equal(first.vectors_FD, draw(2))
    np.testing.assert_array_equal(second.row_F, np.arange(5))
    np.testing.assert_array_equal(second.vectors_FD, np.vstack([draw(2), draw(3)]))


def test_two_that_follow_the_same_do_not_write_over_each_other():
    first = Fresh.none(4).followed_by(np.arange(2), draw(2))
    one, other = first.followed_by(np.array([7]), draw(1)), first.followed_by(np.array([8]), draw(1) * 2)
    np.testing.assert_array_equal(one.row_F, [0, 1, 7])
    np.testing.assert_array_equal(other.row_F, [0, 1, 8])
    np.testing.assert_array_equal(one.vectors_FD[2:], draw(1))
    np.testing.assert_array_equal(other.vectors_FD[2:], draw(1) * 2)


def test_what_lacks_some_is_followed_by_more():
    left = Fresh.none(4).followed_by(np.arange(3), draw(3)).without(np.array([1, 9]))
    np.testing.assert_array_equal(left.followed_by(np.array([5]), draw(1)).row_F, [0, 2, 5])
    np.testing.assert_array_equal(left.vectors_FD, draw(3)[[0, 2]])


def test_rows_are_known_whether_they_came_in_order_or_not():
    came = Fresh.none(4).followed_by(np.array([7, 3]), draw(2))
    np.testing.assert_array_equal(came.holds(np.array([3, 5, 7, 9])), [True, False, True, False])
    np.testing.assert_array_equal(came.holds(np.array([8, 9])), [False, False])
    assert came.without(np.array([8])) is came
    np.testing.assert_array_equal(came.without(np.array([7, 9])).row_F, [3])


def test_codes_are_rounded_as_a_table_of_them_is_and_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(growing, "_ROOM_BYTES", 8)
    codes, came = GrowingCodes(4), draw(9)
    codes.append(came[:2])
    early = codes.rows
    for row in came[2:]:
        codes.append(row[None])
    assert len(codes) == 9
    np.testing.assert_array_equal(take(codes.rows), take(Int8Rows.of(came)))
    np.testing.assert_array_equal(take(early), take(Int8Rows.of(came[:2])))
