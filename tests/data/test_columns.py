"""Parsing of cells: times of every notation and precision, orders, ids, and texts without HTML."""

from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from lanner.data.columns import nanoseconds, plain_text, read_ids, read_order, read_times
from lanner.data.tables import Table
from lanner.errors import DataError

DAY = 86_400 * 10**9
TEN = 1_577_872_800 * 10**9  # 2020-01-01T10:00:00Z


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1970-01-02", "1970-01-02T00:00:00Z"], [DAY, DAY]),
        (["2020-01-01T10:00:00Z", "2020-01-01T10:00:00+00:00", "2020-01-01T12:00:00+0200"], [TEN] * 3),
        (["2020-01-01 10:00", "2020-01-01 10:00:00 UTC", "2020-01-01t10:00z", "2020-01-01 05:00:00-05"], [TEN] * 4),
        (["2020-01-01T10:00:00.5Z", "2020-01-01 10:00:00,123456789"], [TEN + 5 * 10**8, TEN + 123_456_789]),
        (["86400", "86400.000000001", ""], [DAY, DAY + 1, None]),
        (["1577872800900", "1577872800100"], [TEN + 9 * 10**8, TEN + 10**8]),
        ([1577872800000001, 0], [TEN + 1000, 0]),
        ([1577872800000000001], [TEN + 1]),
        ([1577872800.5, float("nan")], [TEN + 5 * 10**8, None]),
        ([date(1970, 1, 2), datetime(2020, 1, 1, 10), datetime(3000, 1, 1)], [DAY, TEN, None]),
        (["1577872800", "2020-01-01"], [TEN, TEN - 10 * 3600 * 10**9]),
        (["3000-01-01", "2020-13-01", "soon", None], [None] * 4),
        (pl.Series([], dtype=pl.String), []),
    ],
)
def test_times_keep_the_precision_of_their_column(cells, expected):
    column = cells if isinstance(cells, pl.Series) else pl.Series(cells, strict=False)
    assert nanoseconds(read_times(column)).to_list() == expected


def test_whole_seconds_stay_narrow():
    for cells in ([1577872800], ["2020-01-01"], [date(2020, 1, 1)]):
        assert read_times(pl.Series(cells)).dtype == pl.Int32
    assert read_times(pl.Series(["2100-01-01"])).dtype == pl.Int64


@pytest.mark.parametrize(
    ("cells", "form"),
    [(["02/01/1970 00:00"], "%d/%m/%Y %H:%M"), ([19700102], "%Y%m%d"), (["2.1.1970 01:00 +0100"], "%d.%m.%Y %H:%M %z")],
)
def test_other_times_by_their_format(cells, form):
    assert nanoseconds(read_times(pl.Series(cells), form)).to_list() == [DAY]


def test_mixed_units_beside_a_date_are_quoted_as_written():
    with pytest.raises(
        DataError, match=r": 1600000000000 is a time in milliseconds, but line 1 has 1600000000.5, which"
    ):
        read_times(pl.Series("t", ["1600000000.5", "1600000000000", "2020-01-01"]))


def test_mixed_units_name_two_rows():
    with pytest.raises(DataError, match=r"line 3, field 't': 1600000000000 is a time in milliseconds, but line 2"):
        read_times(
            pl.Series("t", ["1600000000", "1600000000000", "1600000005"]), table=Table(pl.DataFrame(), Path("e.csv"), 2)
        )


@pytest.mark.parametrize(
    "cells",
    [
        ["1.1", "1.9"],
        [1.1, 1.9],
        ["9007199254740992", "9007199254740993"],
        [2**53, 2**53 + 1],
        pl.Series([2**63, 2**63 + 1], dtype=pl.UInt64),
        ["2020-01-01T10:00:00.1Z", "2020-01-01T10:00:00.2Z"],
        ["9", "10"],
    ],
)
def test_an_order_is_compared_exactly(cells):
    first, second = read_order(pl.Series(cells)).to_list()
    assert first < second


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.0", "2.5", "3.00", ""], ["1", "2.5", "3", None]),
        (["1.0", "v2"], ["1.0", "v2"]),
        ([1.0, 2.5, float("nan")], ["1", "2.5", None]),
        ([1.0, float("nan")], [1, None]),
    ],
)
def test_whole_floats_are_whole_ids(cells, expected):
    assert read_ids(pl.Series(cells)).to_list() == expected


def test_html_becomes_plain_text():
    cells = [
        "<p>Great &amp; <b>bold</b>er</p>",
        "a<br/>b",
        "&quot;q&quot; &#8364;",
        "1 < 2 & 3 > 2, I <3 you",
        "\0nul",
        None,
    ]
    cells += ["x<script>evil()</script><!-- note -->y"]
    found = plain_text(pl.Series(cells)).to_list()
    assert found == [" Great & bolder ", "a b", '"q" €', "1 < 2 & 3 > 2, I <3 you", "nul", None, "x  y"]
