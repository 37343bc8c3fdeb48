"""Rows that come while serving: kept beside those of the bundle, and never moved under a reader."""

from dataclasses import replace

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.models.request_form import Int8Rows, ItemRows, Reduction, RequestForm, RequestHead, take
from lanner.serving.item_tables import ItemTables, growing_table
from lanner.serving.shelf import Shelf, file_in_memory


def draw(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


def form_of(make, rows=5, reduction=None) -> RequestForm:
    """``make``: of a float32 table what the form keeps."""
    table, hidden = make(draw(rows)), np.ones(4, np.float32)
    head = RequestHead(np.eye(4, dtype=np.float32), hidden, make(draw(rows) + 1), hidden)
    return RequestForm(table, table, np.zeros(rows, np.float32), (4,), head, reduction=reduction or Reduction())


def came(rows: int) -> ItemRows:
    return ItemRows(draw(rows), draw(rows), np.zeros(rows, np.float32), draw(rows) + 1)


@pytest.mark.parametrize("make", [np.asarray, Int8Rows.of])
def test_rows_that_come_are_kept_as_the_others_are(make):
    table, later = growing_table(make(draw(5)), "source", Shelf(20)), draw(20)
    for number, row in enumerate(later):
        table.put(number, row[None])
    np.testing.assert_array_equal(table.take(np.arange(5, 25)), take(make(later)))
    np.testing.assert_array_equal(table.take(np.arange(5)), take(make(draw(5))))


def test_memory_is_that_of_the_rows_not_of_their_room():
    tables = ItemTables(form_of(np.asarray))
    tables.append(came(2))
    assert tables.memory_bytes == 2 * 7 * 16
    assert ItemTables(form_of(Int8Rows.of)).memory_bytes == 2 * 5 * 8


def test_who_shares_a_shelf_shares_what_comes():
    with file_in_memory() as file:
        ours, theirs = Shelf(10, file), Shelf(10, file)
        first, second = (ItemTables(form_of(np.asarray), "full", shelf) for shelf in (ours, theirs))
        first.append(came(3))
        assert (first.num_items, second.num_items) == (8, 5)
        second.append(came(1))
        np.testing.assert_array_equal(second.sources(np.array([4, 5, 6])), first.sources(np.array([4, 5, 6])))


def test_rungs_share_the_rows_that_are_the_same_and_no_others():
    shelf, less = Shelf(10), Reduction(neurons=np.array([0, 2]))
    whole, int8 = ItemTables(form_of(np.asarray), "full", shelf), ItemTables(form_of(Int8Rows.of), "int8", shelf)
    pruned_form = form_of(np.asarray, reduction=less)
    half = np.ascontiguousarray(pruned_form.head.item_IH[:, less.neurons])
    pruned = ItemTables(replace(pruned_form, head=replace(pruned_form.head, item_IH=half)), "pruned", shelf)
    rows = came(3)
    for tables, given in ((whole, rows), (int8, rows), (pruned, less(rows))):
        tables.append(given)
    assert np.shares_memory(whole._source._later_NW, pruned._source._later_NW)
    asked = np.arange(5, 8)
    np.testing.assert_array_equal(whole.sources(asked), rows.source_ND)
    np.testing.assert_array_equal(pruned.sources(asked), rows.source_ND)
    np.testing.assert_array_equal(int8.sources(asked), take(Int8Rows.of(rows.source_ND)))
    np.testing.assert_array_equal(whole._half.take(asked), rows.half_NH)
    np.testing.assert_array_equal(pruned._half.take(asked), rows.half_NH[:, [0, 2]])


def test_a_full_shelf_takes_nothing():
    tables = ItemTables(form_of(np.asarray), "full", Shelf(3))
    tables.append(came(2))
    with pytest.raises(ConfigError, match="room for 3"):
        tables.append(came(2))
    assert tables.num_items == 7
    tables.append(came(1))
    assert tables.num_items == 8


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
