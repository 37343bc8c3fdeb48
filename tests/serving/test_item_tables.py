"""Rows that come while serving: kept beside those of the bundle, and never moved under a reader."""

import numpy as np
import pytest

from lanner.models.request_form import Int8Rows
from lanner.serving import item_tables
from lanner.serving.item_tables import GrowingTable


def draw(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("make", [np.asarray, Int8Rows.of])
def test_rows_stay_what_they_are_when_the_room_runs_out(make, monkeypatch):
    monkeypatch.setattr(item_tables, "_ROOM_BYTES", 3 * 16)
    table, came = GrowingTable(make(draw(5))), draw(20)
    before = None
    for row in came:
        table.append(row[None])
        before = table.later if before is None else before
    np.testing.assert_array_equal(table.take(np.arange(5, 25)), came)
    np.testing.assert_allclose(table.take(np.arange(5)), draw(5), atol=0.02)
    np.testing.assert_array_equal(before, came[:1])
    assert len(table) == 25


def test_memory_is_that_of_the_rows_not_of_their_room():
    table = GrowingTable(draw(5))
    table.append(draw(2))
    assert table.memory_bytes == 7 * 16


def test_half_the_bytes_are_kept_where_that_is_enough():
    table = GrowingTable(np.empty((0, 4), np.float32), kept_as=np.float16)
    table.append(draw(3))
    assert table.memory_bytes == 3 * 8
    np.testing.assert_allclose(table.later, draw(3), atol=2e-3)
