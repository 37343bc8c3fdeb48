"""Rejected rows are counted and kept; files in the wrong format are rejected."""

import json
import re

import numpy as np
import polars as pl
import pytest

from lanner.data.rejects import write_rejected
from lanner.data.sources import load
from lanner.errors import ConfigError, DataError, StorageError, UnknownIdError

SECOND = 10**9
HEADER = "user,item,weight,timestamp\n"


def from_csv(tmp_path, rows, header=HEADER):
    path = tmp_path / "events.csv"
    path.write_text(header + rows, encoding="utf-8")
    return load(path)


def test_each_bad_row_is_counted_under_its_reason_and_kept(tmp_path):
    data = from_csv(
        tmp_path,
        "a,x,1,10\n,x,1,10\na,,1,10\na,x,-inf,10\na,x,inf,10\na,x,many,10\na,x,,10\na,x,1,soon\na,x,1,\nb,y,2,5\n",
    )
    assert data.rejected == {
        "weight is NaN or infinite": 2,
        "missing item id": 1,
        "missing timestamp": 1,
        "missing user id": 1,
        "unreadable timestamp": 1,
        "unreadable weight": 1,
    }
    assert data.interactions.timestamp.tolist() == [5 * SECOND, 10 * SECOND, 10 * SECOND]
    assert np.isnan(data.interactions.weight[2]), "an event without a rating is an event"
    (warning,) = data.warnings
    assert warning.startswith(
        "7 of 10 events were rejected: 2 weight is NaN or infinite (events.csv, line 5), 1 missing"
    )
    assert "1 unreadable timestamp (events.csv, line 9: soon)" in warning
    path = write_rejected(data, tmp_path / "out")
    assert path == tmp_path / "out" / "rejected.parquet"
    rows = pl.read_parquet(path)
    assert rows.columns == ["reason", "file", "line", "record"]
    late = rows.row(by_predicate=pl.col("reason") == "unreadable timestamp", named=True)
    assert (late["file"], late["line"]) == ("events.csv", 9)
    assert json.loads(late["record"])["raw timestamp"] == "soon"
    assert write_rejected(data, tmp_path / "out").name == "rejected-2.parquet", "nothing is overwritten unasked"
    assert write_rejected(data, tmp_path / "mine.parquet") == tmp_path / "mine.parquet"


def test_nothing_rejected_writes_nothing(tmp_path):
    data = from_csv(tmp_path, "1,2,1,1\n")
    assert write_rejected(data, tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    data = from_csv(tmp_path, "a,x,1,1\n,x,1,1\n")

    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(StorageError, match=r"rejected\.parquet.*No space left"):
        write_rejected(data, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv, line 1: an empty file, or an empty first line; begin with a header such as user,item"),
        ("a.csv", b"\nuser,item\n", r"a\.csv, line 1: an empty file, or an empty first line; begin with a header"),
        ("a.csv", b"who,item\n1,2\n", r"a\.csv, line 1, field 'user': no such column; the file has who, item"),
        ("a.csv", b"user,item\n1,2\n1,2,3\n", r"a\.csv, line 3, field 'item': 3 cells, expected 2"),
        ("a.csv", b"user,item\n1,2\n\xff\xfe,2\n", r"a\.csv, line 3: not text in utf-8"),
        (
            "a.csv",
            b"user,item\n1,\xe9\n",
            r"not text in utf-8 .*; name the encoding in a recipe .*: layout.encoding = ",
        ),
        ("a.csv", "user,item\n1,2\n".encode("utf-16"), r'line 1: not text in utf-8 .*: layout.encoding = "utf-16"'),
        ("a.csv", "user,item\n1,2\n".encode("utf-16-le"), r"line 1: not a text file, .*: layout.encoding = "),
        ("a.csv", b"user;item;rating\n1;2;1,5\n", r"unreadable weight '1,5'.*; write decimals with a point: 1\.5"),
        ("a.csv", b"user,item,timestamp\n1,2,x\n1,3,y\n", r"a\.csv, line 2, field 'timestamp': unreadable timestamp"),
        ("a.parquet", b"user,item\n1,2\n", r"a\.parquet.*does not match its extension"),
        ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": 1, \n', r"a\.jsonl, line 2: not JSON"),
    ],
)
def test_a_file_that_is_not_what_it_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_broken_gzip_names_the_file(tmp_path):
    (tmp_path / "meta_x.json.gz").write_bytes(b"plain")
    (tmp_path / "x.json").write_text('{"reviewerID": "a", "asin": "b", "overall": 1, "unixReviewTime": 1}\n')
    with pytest.raises(DataError, match=r"meta_x\.json\.gz: not a gzip file"):
        load(tmp_path)


def test_lightgcn_file_with_words(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2\n1 x\n")
    (tmp_path / "test.txt").write_text("0 3\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2, field 'item': expected a number, received 'x'"):
        load(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="absent: no such file or folder"):
        load(tmp_path / "absent")


def test_an_empty_dataset_is_a_dataset(tmp_path):
    data = from_csv(tmp_path, "")
    assert (data.num_users, data.num_items, len(data.interactions)) == (0, 0, 0)
    assert len(data.histories) == 0


def test_one_user_one_item_repeated(tmp_path):
    data = from_csv(tmp_path, "1,1,2,3\n1,1,2,3\n")
    assert data.histories[0].tolist() == [0, 0]


def test_ids_of_every_kind_stay_what_their_owner_wrote(tmp_path):
    ids = ["7", "007", "99999999999999999999999", "ключ", "😀", " x", '"q""uote"', "-3", "1e3", "9223372036854775808"]
    data = from_csv(tmp_path, "".join(f"{one},1,1,1\n" for one in ids))
    assert set(data.users.external) == {*ids[:5], "x", 'q"uote', *ids[7:]}
    assert data.items.external == ("1",)
    assert data.users.row(7) == data.users.row("7")


def test_ids_that_look_like_missing_values_are_counted(tmp_path):
    data = from_csv(tmp_path, "NaN,x\nnull,None\nnan,y\nNaN,y\nnone of them,z\nnancy,7.0\n", "user,item\n")
    assert data.warnings == (
        "events whose user id looks like a missing value (NaN, null, nan): 4; leave such cells empty",
        "events whose item id looks like a missing value (None): 1; leave such cells empty",
    )
    assert len(data.interactions) == 6


@pytest.mark.parametrize(
    ("cells", "ids"),
    [(("1.0", "1", "01", " 2.0"), ("01", "1", "2")), (("7", "7.0", "x"), ("7", "7.0", "x"))],
)
def test_whole_numbers_lose_their_fraction_in_a_column_of_numbers(tmp_path, cells, ids):
    data = from_csv(tmp_path, "".join(f"{cell},i\n" for cell in cells), "user,item\n")
    assert data.users.external == ids


def test_integers_and_texts_are_one_id(tmp_path):
    pl.DataFrame({"u": [2, 1], "i": [5, 6]}).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame({"sku": ["5", "6"], "name": ["five", ""]}).write_parquet(tmp_path / "items.parquet")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\n[interactions]\nfile = "events.parquet"\nuser = "u"\nitem = "i"\n'
        '[items]\nfile = "items.parquet"\nid = "sku"\ntitle = "name"\ntext = ["{name}"]\n'
    )
    data = load(recipe)
    assert data.item_catalogue.titles == ("five", "6")
    assert data.item_catalogue.texts == ("five", "")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([2.0, 1.0, None]), {"1", "2"}),
        (pl.Series([2**63, 1, None], dtype=pl.UInt64), {"1", "9223372036854775808"}),
        (pl.Series([-5, 10**17, None]), {"-5", "100000000000000000"}),
        (pl.Series([1.5, float("nan"), None]), {"1.5"}),
        (pl.Series(["a", "", None], dtype=pl.Categorical), {"a"}),
    ],
)
def test_parquet_ids(tmp_path, ids, expected):
    pl.DataFrame({"user": ids, "item": [1, 1, 1]}).write_parquet(tmp_path / "e.parquet")
    assert set(load(tmp_path / "e.parquet").users.external) == expected


def test_ties_to_nobody_known_are_no_broken_file(tmp_path):
    (tmp_path / "s.inter").write_text("user_id:token\titem_id:token\na\tx\n")
    (tmp_path / "s.net").write_text("source_id:token\ttarget_id:token\na\tz\n")
    data = load(tmp_path)
    assert data.rejected == {"tie to an unknown user": 1}
    assert len(data.ties.values) == 0
    assert data.warnings == ("1 of 1 ties were rejected: 1 tie to an unknown user (s.net, line 2)",)


def test_links_that_cannot_be_used_are_counted(tmp_path):
    (tmp_path / "e.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "r.csv").write_text("item,bought_too\nx,y|x|nowhere\nx,y\n,y\n")
    (tmp_path / "shop.toml").write_text(
        'name = "shop"\n[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n'
        '[links]\nfile = "r.csv"\nitem = "item"\nrelated = "bought_too"\nseparator = "|"\n'
    )
    data = load(tmp_path / "shop.toml")
    assert data.rejected == {
        "link to an unknown item": 1, "link to itself": 1, "link given twice": 1, "link without an id": 1
    }  # fmt: skip
    (warning,) = data.warnings
    assert warning.startswith("4 of 5 links were rejected: 1 link given twice (r.csv, line 3)")
    assert [data.links[row].tolist() for row in range(2)] == [[1], []]
    assert data.item_ids == ["x", "y"]


def test_a_decimal_comma_among_numbers_is_a_warning_that_says_what_to_do(tmp_path):
    (warning,) = from_csv(tmp_path, "a;x;4\na;y;1,5\n", "user;item;rating\n").warnings
    assert warning.endswith("1 unreadable weight (events.csv, line 3: 1,5; write decimals with a point: 1.5)")


def test_a_time_with_the_name_of_a_zone_is_refused_with_what_to_do(tmp_path):
    (warning,) = from_csv(tmp_path, "a,x,2024-01-01 10:00\na,y,2024-01-01 10:00 CET\n", "user,item,time\n").warnings
    hint = "write an offset in place of the zone's name: +01:00"
    assert warning.endswith(f"1 unreadable timestamp (events.csv, line 3: 2024-01-01 10:00 CET; {hint})")
    line = (
        rf"events\.csv, line 2, field 'time': unreadable timestamp '10:00:00\.5 Europe/Vienna', .*; {re.escape(hint)}$"
    )
    with pytest.raises(DataError, match=line):
        from_csv(tmp_path, "a,x,10:00:00.5 Europe/Vienna\n", "user,item,time\n")
    with pytest.raises(DataError, match=r"unreadable timestamp '2024-01-01 10:00 PM', .* name another with"):
        from_csv(tmp_path, "a,x,2024-01-01 10:00 PM\n", "user,item,time\n")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_that_an_error_may_name_can_be_read(tmp_path, encoding):
    (tmp_path / "e.csv").write_bytes("user,item\n1,é\n2,ü\n".encode(encoding))
    recipe = tmp_path / "r.toml"
    base = 'name = "r"\n[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n[layout]\nencoding = '
    recipe.write_text(f'{base}"{encoding}"\n')
    assert load(recipe).items.external == ("é", "ü")
    recipe.write_text(f'{base}"klingon"\n')
    with pytest.raises(ConfigError, match=r"layout\.encoding: no encoding 'klingon'"):
        load(recipe)


def test_an_unknown_id_is_of_a_user_or_an_item(tmp_path):
    data = from_csv(tmp_path, "a,x,1,1\na,y,1,1\n")
    with pytest.raises(UnknownIdError, match=r"unknown id 'zz'; 1 user is known$"):
        data.users.row("zz")
    with pytest.raises(UnknownIdError, match=r"unknown id 'zz'; 2 items are known$"):
        data.items.row("zz")


def test_an_error_names_the_column_as_the_file_does(tmp_path):
    with pytest.raises(DataError, match=r"field 'stars': unreadable weight '4,5'"):
        from_csv(tmp_path, "a;x;4,5\na;y;1,5\n", "user;item;stars\n")
