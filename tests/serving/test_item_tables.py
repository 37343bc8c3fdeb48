"""Rows that come while serving: kept beside those of the bundle, and never moved under a reader."""

import numpy as np
import pytest

from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, RequestHead, take
from lanner.serving import growing
from lanner.serving.item_tables import ItemTables, growing_table


def draw(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("make", [np.asarray, Int8Rows.of])
def test_rows_stay_what_they_are_when_the_room_runs_out(make, monkeypatch):
    monkeypatch.setattr(growing, "_ROOM_BYTES", 3 * 16)
    table, came = growing_table(make(draw(5))), draw(20)
    table.append(came[:1])
    early = table._later.rows
    for row in came[1:]:
        table.append(row[None])
    np.testing.assert_array_equal(table.take(np.arange(5, 25)), take(make(came)))
    np.testing.assert_array_equal(table.take(np.arange(5)), take(make(draw(5))))
    np.testing.assert_array_equal(take(early), take(make(came[:1])))
    assert len(table) == 25


def test_memory_is_that_of_the_rows_not_of_their_room():
    table = growing_table(draw(5))
    table.append(draw(2))
    assert table.memory_bytes == 7 * 16


@pytest.mark.parametrize("make", [np.asarray, Int8Rows.of])
def test_the_head_reads_rows_that_came_as_it_reads_the_others(make):
    half, out = draw(9), np.random.default_rng(1).normal(size=4).astype(np.float32)
    form = RequestForm(
        make(draw(5)), make(draw(5)), np.zeros(5, np.float32), (4,), RequestHead(np.eye(4), out, make(half[:5]), out)
    )
    tables = ItemTables(form)
    tables.append(ItemRows(draw(4), draw(4), np.zeros(4, np.float32), half[5:]))
    rows, hidden = np.array([[0, 6, -1, 8], [4, 5, 2, -1]]), draw(2)
    known = np.vstack([take(make(half[:5])), take(make(half[5:]))])
    wanted = np.maximum(hidden[:, None] + known[rows], 0) @ out * (rows >= 0)
    np.testing.assert_allclose(tables.corrections(rows, hidden, out), wanted, rtol=1e-5, atol=1e-6)
