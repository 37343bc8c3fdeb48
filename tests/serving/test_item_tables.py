"""Rows that come while serving: kept beside those of the bundle, and never moved under a reader."""

import numpy as np
import pytest

from lanner.models.request_form import Int8Rows
from lanner.serving import growing
from lanner.serving.item_tables import GrowingTable


def draw(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("make", [np.asarray, Int8Rows.of])
def test_rows_stay_what_they_are_when_the_room_runs_out(make, monkeypatch):
    monkeypatch.setattr(growing, "_ROOM_BYTES", 3 * 16)
    table, came = GrowingTable(make(draw(5))), draw(20)
    before = None
    for row in came:
        table.append(row[None])
        before = table.parts[1][:1] if before is None else before
    np.testing.assert_array_equal(table.take(np.arange(5, 25)), came)
    np.testing.assert_allclose(table.take(np.arange(5)), draw(5), atol=0.02)
    np.testing.assert_array_equal(before, came[:1])
    assert len(table) == 25


def test_memory_is_that_of_the_rows_not_of_their_room():
    table = GrowingTable(draw(5))
    table.append(draw(2))
    assert table.memory_bytes == 7 * 16
