"""Arrays in memory that several may map."""

import os

import numpy as np
import pytest

from lanner.serving.shelf import Shelf, file_in_memory


@pytest.fixture
def file():
    with file_in_memory() as one:
        yield one


def test_the_same_name_is_the_same_array_and_another_is_not():
    shelf = Shelf(3)
    shelf.rows("source", np.float32, 2)[1] = 5
    assert shelf.rows("source", np.float32, 2).tolist() == [[0, 0], [5, 5], [0, 0]]
    assert shelf.rows("scale", np.float32).tolist() == [0, 0, 0]


def test_whoever_asks_first_both_see_what_either_writes(file):
    first, second = Shelf(1000, file), Shelf(1000, file)
    first.rows("codes", np.int8, 5)[999] = 7
    second.rows("codes", np.int8, 5)
    second.rows("half", np.float32, 3)[0] = 0.5
    first.rows("half", np.float32, 3)[999] = 1.5
    for shelf in (first, second):
        assert shelf.rows("codes", np.int8, 5)[999].tolist() == [7] * 5
        assert shelf.rows("half", np.float32, 3)[[0, 999]].tolist() == [[0.5] * 3, [1.5] * 3]


def test_only_what_is_written_takes_memory(file):
    rows = Shelf(100_000, file).rows("source", np.float32, 64)
    rows[:10] = 1
    assert os.fstat(file.fileno()).st_size >= 25_600_000
    if hasattr(os, "memfd_create"):
        assert os.fstat(file.fileno()).st_blocks * 512 < 1_000_000


def test_an_array_outlives_its_file():
    with file_in_memory() as file:
        rows = Shelf(10, file).rows("source", np.float32, 4)
    rows[9] = 3
    assert rows[9].tolist() == [3] * 4


def test_rows_without_numbers_and_no_rows_at_all_are_arrays_too(file):
    assert Shelf(4, file).rows("nothing", np.float32, 0).shape == (4, 0)
    assert Shelf(0).rows("nobody", np.int8, 3).shape == (0, 3)
