"""Ids and rows while items come, change and go, against a list of all that happened."""

import sys
import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import NUM_ITEMS, small_world

from lanner.serving.live import LiveItems

DATASET = small_world()
IDS = [*DATASET.items.external[:3], "new", "newer"]
STEPS = st.lists(st.tuples(st.sampled_from(["put", "remove"]), st.sampled_from(IDS)), max_size=60)


@given(STEPS)
def test_a_row_leads_to_the_last_one_of_its_item(steps):
    items, rows_of = LiveItems(DATASET), {one: [row] for row, one in enumerate(DATASET.items.external)}
    there = set(DATASET.items.external)
    for step, item_id in steps:
        before = rows_of[item_id][-1] if item_id in there else None
        if step == "put":
            assert items.put(item_id, "") == before
            rows_of.setdefault(item_id, []).append(items.num_rows - 1)
            there.add(item_id)
        else:
            assert items.remove(item_id) == before
            there.discard(item_id)
    for item_id, rows in rows_of.items():
        assert set(items.current(np.array(rows)).tolist()) == {rows[-1]}
        assert items.known_rows([item_id]).tolist() == (rows[-1:] if item_id in there else [])
        assert {one for one, _ in items.named(rows)} == {item_id}
        assert items.first_row(item_id) == rows[0]
    assert items.first_row("unheard") is None
    assert len(items) == len(there)


def test_an_item_that_went_and_came_again_is_known_by_its_old_row():
    items = LiveItems(DATASET)
    row = items.remove("i2")
    assert items.current(np.array([row])).tolist() == [row]
    assert items.put("i2", "again") is None
    assert items.current(np.array([row])).tolist() == [items.row("i2")] == [NUM_ITEMS]


def test_who_reads_meanwhile_gets_a_row_of_the_item():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    items, wrong, stop = LiveItems(DATASET), [], threading.Event()
    every = np.arange(NUM_ITEMS)

    def read():
        while not stop.is_set():
            seen = items.current(every).tolist()
            if [one for one, _ in items.named(seen)] != list(DATASET.items.external):
                wrong.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3000):
        items.put(f"i{number % 5}", "")
    stop.set()
    reader.join()
    sys.setswitchinterval(before)
    assert not wrong
    assert items.current(every)[:5].tolist() == [items.row(f"i{number}") for number in range(5)]
