"""The known order against sorting everything anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lanner.serving.fixed_order import FixedOrder

SCORES = st.lists(st.integers(-3, 3), max_size=8)
CHANGES = st.lists(st.one_of(SCORES, st.sets(st.integers(0, 30), max_size=4)), max_size=8)


def as_items(scores):
    return np.stack([np.zeros(len(scores)), scores], axis=1).astype(np.float32)


@given(scores=SCORES, changes=CHANGES, seen=st.sets(st.integers(0, 30), max_size=4))
def test_items_that_come_and_go_leave_the_order_that_sorting_gives(scores, changes, seen):
    order, scores, gone = FixedOrder(as_items(scores)), list(scores), set()
    for change in changes:
        if isinstance(change, list):
            order.add(np.arange(len(scores), len(scores) + len(change)), as_items(change))
            scores += change
        else:
            rows = sorted(row for row in change - gone if row < len(scores))
            order.remove(np.array(rows, np.int64))
            gone |= set(rows)
    wanted = [row for row in np.argsort(-np.array(scores, np.float32), kind="stable") if row not in gone]
    rows, found = order.search(np.ones((1, 2), np.float32), len(scores) + 1)
    assert rows[0].tolist() == wanted + [-1] * (len(scores) + 1 - len(wanted))
    assert found[0][: len(wanted)].tolist() == [scores[row] for row in wanted]
    assert order.memory_bytes >= 8 * len(wanted) + 4 * len(scores)
    unseen = [row for row in wanted if row not in seen][:3]
    rows, found = order.best(seen, 3)
    assert rows.tolist() == unseen
    assert found.tolist() == [scores[row] for row in unseen]
