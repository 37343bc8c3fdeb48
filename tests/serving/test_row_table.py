"""Rows of ids against a dict."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lanner.serving import row_table
from lanner.serving.row_table import RowTable

IDS = [f"item-{number}" for number in range(40)]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(IDS)), max_size=200))
def test_it_knows_what_a_dict_knows(steps):
    row_of: dict[str, int] = {"item-0": 0, "item-1": 1}
    table = RowTable(row_of)
    for number, (there, item_id) in enumerate(steps):
        if there:
            row_of[item_id] = number + 2
            table.put(item_id, number + 2, row_of)
        elif row_of.pop(item_id, None) is not None:
            table.remove(item_id)
    asked = [*IDS, "unheard", IDS[0]]
    assert table.rows(asked).tolist() == [row_of[one] for one in asked if one in row_of]


def test_it_grows_with_what_comes_and_not_with_what_comes_again():
    row_of: dict[str, int] = {}
    table = RowTable(row_of)
    slots = len(table._slots)
    for number in range(10 * slots):
        row_of["again"] = number
        table.put("again", number, row_of)
    assert len(table._slots) == slots
    for number in range(slots):
        row_of[f"new {number}"] = number
        table.put(f"new {number}", number, row_of)
    assert len(table._slots) > slots
    assert table.rows(list(row_of)).tolist() == list(row_of.values())


def test_ids_that_meet_in_a_slot_are_told_apart(monkeypatch):
    slots = 2 * row_table._LEAST_SLOTS
    monkeypatch.setattr(row_table, "hash", lambda item_id: int(item_id) * slots + slots - 1, raising=False)
    row_of = {str(number): number for number in range(50)}
    table = RowTable(row_of)
    table.remove("7")
    del row_of["7"]
    assert table.rows([str(number) for number in range(60)]).tolist() == list(row_of.values())


def test_who_reads_while_it_is_written_finds_rows_of_the_id():
    row_of = dict.fromkeys(IDS, 0)
    table, stop, wrong = RowTable(row_of), threading.Event(), []

    def read():
        while not stop.is_set():
            rows = table.rows(IDS)
            if len(rows) != len(IDS) or (rows % 7).any():
                wrong.append(rows)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20_000):
        row_of[f"other {number % 3000}"] = 1
        table.put(f"other {number % 3000}", 1, row_of)
        table.put(IDS[number % len(IDS)], 7 * number, row_of | {IDS[number % len(IDS)]: 7 * number})
    stop.set()
    reader.join()
    assert not wrong


def test_no_ids_have_no_rows():
    found = RowTable({}).rows([])
    assert (found.dtype, len(found)) == (np.int64, 0)
