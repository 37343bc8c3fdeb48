"""The parser of plain numbers agrees with Python, or declines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.data.sources.digits import read_numbers

WHOLE = [True, True, False]


def read(tmp_path, content, integers=WHOLE, offset=0, separator=","):
    path = tmp_path / "numbers"
    path.write_bytes(content)
    return read_numbers(path, offset=offset, separator=separator, integers=integers)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**15 - 1), st.integers(0, 99), st.decimals(0, 10**6, places=3, allow_nan=False)),
        min_size=1,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_numbers_are_those_of_python(tmp_path_factory, rows, end, last):
    text = end.join(f"{a},{b},{c}" for a, b, c in rows) + (end if last else "")
    got = read(tmp_path_factory.mktemp("n"), text.encode())
    assert got[0].tolist() == [a for a, _, _ in rows]
    assert got[1].tolist() == [b for _, b, _ in rows]
    assert got[2].tolist() == [float(np.float32(float(c))) for _, _, c in rows]


def test_many_lines_over_several_chunks(tmp_path):
    lines = [f"{row}::{row * 7 % 1000}::{row % 5}.5" for row in range(50_000)]
    got = read(tmp_path, "\n".join(lines).encode(), separator="::")
    assert got[0].tolist() == list(range(50_000))
    assert got[2].tolist() == [row % 5 + 0.5 for row in range(50_000)]
    assert got[0].dtype == np.int32


def test_a_wide_number_widens_the_columns(tmp_path):
    got = read(tmp_path, b"1,2,3\n3000000000,2,3\n")
    assert got[0].dtype == np.int64
    assert got[0].tolist() == [1, 3_000_000_000]


def test_left_out_columns_may_hold_words(tmp_path):
    assert [c.tolist() for c in read(tmp_path, b"h,i,j\n1,abc,2\n", [True, None, True], 6)] == [[1], [2]]


BAD = (
    "007,1,1|-1,1,1|1,,1|1,1|1,1,1,1|1,x,1|1,1.5,1|1,1,nan|1,1,1e3|1,1,.5|1,1,5.|1,1,00.5|1,1,1.2.3|"
    '"1",1,1| 1,1,1|9999999999999999,1,1||1,1,1 '
)


@pytest.mark.parametrize("bad", BAD.split("|"))
@pytest.mark.parametrize("good_before", [True, False])
def test_anything_else_is_left_to_the_general_reader(tmp_path, bad, good_before):
    text = f"1,1,1\n{bad}\n1,1,1\n" if good_before else f"{bad}\n1,1,1\n"
    assert read(tmp_path, text.encode()) is None


def test_leading_zero_of_a_fraction_is_fine(tmp_path):
    assert read(tmp_path, b"0,10,0.5\n")[2].tolist() == [0.5]
