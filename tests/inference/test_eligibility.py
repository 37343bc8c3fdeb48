"""One mask decides which items may be recommended."""

from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner.inference.eligibility import Availability, RowMask, eligible

ROWS = st.lists(st.integers(0, 29), max_size=20).map(lambda rows: np.array(rows, np.int64))


@given(hidden=ROWS, allow=st.none() | ROWS, deny=st.none() | ROWS, seen=st.none() | ROWS, n=st.integers(0, 40))
def test_a_row_is_eligible_if_it_is_available_and_allowed_and_neither_denied_nor_seen(hidden, allow, deny, seen, n):
    available = Availability(30)
    available.hide(hidden)
    mask = eligible(available, None if allow is None else RowMask.of(allow, 30), deny, seen, n)
    expected = [
        row < 30
        and row not in hidden
        and (allow is None or row in allow)
        and (deny is None or row not in deny)
        and (seen is None or row not in seen)
        for row in range(n)
    ]
    assert (np.ones(n, bool) if mask is None else mask).tolist() == expected


def test_nothing_asked_for_is_no_mask_at_all():
    assert eligible(Availability(5), None, None, np.empty(0, np.int64), 5) is None
    assert eligible(None, None, None, None, 5) is None


def test_masks_are_joined_counted_and_looked_up_beyond_their_ends():
    both = RowMask.of(np.array([1, 3, 5]), 6) & RowMask.of(np.array([3, 5, 8]), 9)
    assert both.count == 2
    assert both.rows().tolist() == [3, 5]
    assert both.holds(np.array([3, 4, 100])).tolist() == [True, False, False]
    assert both.dense(8).tolist() == [False] * 3 + [True, False, True, False, False]
    assert both.dense(4).tolist() == [False] * 3 + [True]
    with pytest.raises(ValueError, match=r"they must be 0 … 5"):
        RowMask.of(np.array([6]), 6)


def test_new_rows_are_hidden_until_they_are_shown():
    available = Availability(2)
    available.grow(4)
    assert (len(available), available.num_hidden) == (4, 2)
    assert available.mask(5).tolist() == [True, True, False, False, False]
    available.show(np.array([3, 3]))
    available.hide(np.array([0]))
    available.hide(np.array([0]))
    assert available.holds(np.array([0, 1, 2, 3, 9])).tolist() == [False, True, False, True, False]
    assert available.num_hidden == 2
    available.show(np.array([0, 2]))
    assert available.num_hidden == 0
    with pytest.raises(ValueError, match=r"they must be 0 … 3"):
        available.hide(np.array([4]))


def test_readers_never_see_a_hidden_row_while_others_come():
    available, stop, leaks = Availability(10), Event(), []
    available.hide(np.array([7]))

    def read():
        while not stop.is_set():
            mask = eligible(available, None, None, None, len(available))
            if mask is None or mask[7]:
                leaks.append(mask)

    readers = [Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for rows in range(11, 3000):
        available.grow(rows)
        if rows > 12:
            available.show(np.array([rows - 3]))
    stop.set()
    for reader in readers:
        reader.join()
    assert leaks == []
