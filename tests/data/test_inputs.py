"""Real-world files: separators, quotes, byte order marks, column names, several files of one dataset."""

import gzip

import polars as pl
import pytest

from lanner.data.describe import describe
from lanner.data.sources import load
from lanner.errors import ConfigError, DataError

HEADED = "user,item\na,x\nb,y\n"
PLAIN = [("a", "x"), ("b", "y")]


def given(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def events(dataset):
    users, items = dataset.users.external, dataset.items.external
    return [(users[u], items[i]) for u, i in zip(dataset.interactions.user, dataset.interactions.item, strict=True)]


def by_recipe(folder, text):
    path = folder / "r.toml"
    path.write_text('name = "r"\n' + text)
    return load(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", HEADED.replace(",", ";")),
        ("a.csv", HEADED.replace(",", "\t")),
        ("a.txt", HEADED.replace(",", "|")),
        ("a.csv", HEADED.replace("\n", "\r")),
        ("a.csv", HEADED.replace("\n", "\r\n") + "\r\n"),
        ("a.csv", 'user , item\na,x\nb,"y"\n'),
        ("a.csv", '"user","of; ten; semicolons","item"\na,"1,5\n2",x\nb,,y\n'),
        ("a.csv.gz", gzip.compress(HEADED.encode(), mtime=0)),
        ("a.jsonl", '\ufeff{"user": "a", "item": "x"}\n\n{"user": "b", "item": "y"}\n'),
        ("a.jsonl.gz", gzip.compress(b'{"user": "a", "item": "x"}\n{"user": "b", "item": "y"}\n', mtime=0)),
        ("a.csv", "userId,movieId\na,x\nb,y\n"),
        ("a.csv", "USER_ID,sku,item_id\na,9,x\nb,9,y\n"),
    ],
)
def test_files_of_many_hands(tmp_path, name, content):
    data = load(given(tmp_path / name, content))
    assert events(data) == PLAIN
    assert not data.rejected
    assert not data.warnings


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "user,user_id,item\n1,2,3\n", r"'user' and 'user_id' both look like the user; .*interactions\.user"),
        ("a.csv", "user,item,item\n1,2,3\n", r"line 1, field 'item': two columns have this name; rename one"),
        ("a.csv", "1,2,3\n4,5,6\n", r"line 1, field 'user': .*the first line looks like a row.*layout\.columns"),
        ("a.csv", 'user,item\na,x\nb,"y\nc,z"z\n', r'line 3: an unpaired quote in "y; layout\.quote = false'),
        ("a.csv", 'user,item\na,5" nail\n', r"line 2: an unpaired quote"),
        ("a.csv", 'user,item\na,"5\\" nail"\n', r'line 2: .*layout\.escape = "\\\\"'),
        ("a.csv", 'user,item\n"a","x"\n"b","y,","z"\n', r"line 3, field 'item': 3 cells, expected 2 separated by ','"),
        (
            "a.jsonl",
            '{"user": "a", "item": "[x"}\n{"user": "a", "item": [1]}\n',
            r"line 2, field 'item': .*received \[1\]",
        ),
        ("a.csv", "user,item,time\na,x,01.02.2020\n", r"'01\.02\.2020'.*ISO 8601.*interactions\.format"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_where_and_what_to_do(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        load(given(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "item", [pl.Series([["x"], ["y"]]), pl.Series([b"x", b"y"]), pl.Series([{"id": 1}, {"id": 2}])]
)
def test_columns_that_are_no_values(tmp_path, item):
    pl.DataFrame({"user": [1, 2], "item": item}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, field 'item': a column of .* values"):
        load(tmp_path / "a.parquet")


def test_missing_floats_are_missing_and_an_event_without_a_rating_is_an_event(tmp_path):
    nan = float("nan")
    frame = pl.DataFrame({"user": [1.0, 2.5, nan], "item": [1, 2, 3], "rating": [nan, 4.0, 5.0]})
    frame.write_parquet(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert events(data) == [("1", "1"), ("2.5", "2")]
    assert data.rejected == {"missing user id": 1}
    assert data.warnings == ("1 of 3 events were rejected: 1 missing user id (a.parquet, line 3)",)


def test_quoting_can_be_switched_off_and_escapes_named(tmp_path):
    given(tmp_path / "e.tsv", 'user\titem\na\t"x\n')
    base = '[interactions]\nfile = "e.tsv"\nuser = "user"\nitem = "item"\n'
    assert events(by_recipe(tmp_path, base + "[layout]\nquote = false\n")) == [("a", '"x')]
    given(tmp_path / "e.tsv", 'user\titem\na\t"5\\" \\\\ ""n""\tail"\n')
    assert events(by_recipe(tmp_path, base + '[layout]\nescape = "\\\\"\n')) == [("a", '5" \\ "n"\tail')]
    with pytest.raises(ConfigError, match=r"layout\.escape must be one character"):
        by_recipe(tmp_path, base + '[layout]\nescape = "ab"\n')


def test_a_time_format_of_ones_own(tmp_path):
    given(tmp_path / "e.csv", "user,item,at\na,x,02/01/1970\na,y,01/01/1970\n")
    data = by_recipe(
        tmp_path,
        '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\ntimestamp = "at"\nformat = "%d/%m/%Y"\n',
    )
    assert data.interactions.timestamp.tolist() == [0, 86_400 * 10**9]


def test_titles_and_descriptions_of_events_are_item_texts(tmp_path):
    rows = "u,i2,Spade &amp; fork,\nu,i1,Rake,<b>Good</b>\nv,i1,,\nv,i3,,\n"
    data = load(given(tmp_path / "shop.csv", "user_id,item_id,title,description\n" + rows))
    assert data.item_catalogue.titles == ("Rake", "Spade & fork", "i3")
    assert data.item_catalogue.texts == ("Rake.\nGood", "Spade & fork.\n", "")
    assert not data.rejected


def test_movielens_in_single_files(tmp_path):
    data = load(given(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t881250900\n"))
    assert events(data) == [("186", "302"), ("196", "242")]
    data = load(given(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,20\n1,29,3.0,10\n"))
    assert events(data) == [("1", "29"), ("1", "31")]
    assert data.interactions.weight.tolist() == [3.0, 2.5]


def test_several_files_of_events(tmp_path):
    given(tmp_path / "a-1.csv", "user_id,item_id,rating,timestamp\n1,10,4,100\n")
    frame = {"user": ["1"], "item": ["20"], "behaviour": ["buy"], "weight": [None], "timestamp": [50.5]}
    pl.DataFrame(frame, schema_overrides={"weight": pl.Float64}).write_parquet(tmp_path / "a-2.parquet")
    (tmp_path / "a-folder").mkdir()
    data = load(tmp_path.parent / f"*{tmp_path.name[-6:]}" / "a-*")
    assert events(data) == [("1", "20"), ("1", "10")]
    assert data.interactions.timestamp.tolist() == [50_500_000_000, 100_000_000_000]
    assert data.interactions.behaviours == ("buy", "interaction")
    text = '[interactions]\nfile = ["a-1.csv", "*.parquet"]\nuser = "user_id"\nitem = "item_id"\n'
    assert events(by_recipe(tmp_path, text)) == [("1", "10"), ("1", "20")], "no times are asked for"
    timed = by_recipe(tmp_path, text + 'weight = "rating"\ntimestamp = "timestamp"\n')
    assert events(timed) == [("1", "20"), ("1", "10")]
    with pytest.raises(DataError, match="no file matches"):
        load(tmp_path / "b-*.csv")
    given(tmp_path / "a-3.csv", "user,item\n1,2\n")
    with pytest.raises(DataError, match=r"a-3\.csv, field 'timestamp': no such column, but a-1\.csv has one"):
        load(tmp_path / "a-*")


def test_a_published_split_of_recbole(tmp_path):
    for part, item in (("train", "x"), ("valid", "y"), ("test", "z")):
        given(tmp_path / f"shop.{part}.inter", f"user_id:token\titem_id:token\na\t{item}\n")
    given(tmp_path / "shop.item", "item_id:token\tname:token\nx\tPan\ny\tPot\nz\tCup\n")
    data = load(tmp_path)
    assert data.interactions.partitions == ("train", "validation", "test")
    assert data.item_catalogue.titles == ("Pan", "Pot", "Cup")
    (tmp_path / "shop.train.inter").rename(tmp_path / "shop.inter")
    with pytest.raises(DataError, match=r"expected name\.train\.inter"):
        load(tmp_path)


def test_no_genres_are_no_attribute(tmp_path):
    given(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,5,1\n1,2,5,2\n")
    given(tmp_path / "movies.csv", "movieId,title,genres\n1,One,(no genres listed)\n2,Two,Drama\n")
    data = load(tmp_path)
    assert data.item_catalogue.attributes["genres"].names == ("Drama",)
    assert data.item_catalogue.texts == ("One.\n", "Two.\nGenres: Drama.")


def test_what_is_gathered_is_an_attribute_only_where_it_is_called_one(tmp_path):
    given(tmp_path / "e.csv", "user,item\na,x\n")
    given(tmp_path / "i.csv", "id\nx\n")
    given(tmp_path / "said.csv", "id,text\nx,I <b>loved</b> it\n")
    text = (
        '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n[items]\nfile = "i.csv"\nid = "id"\n'
        'text = ["{said}"]\ngather = [{ name = "said", file = "said.csv", key = "id", value = "text" }]\n'
    )
    data = by_recipe(tmp_path, text)
    assert data.item_catalogue.texts == ("I loved it",)
    assert data.item_catalogue.attributes == {}
    data = by_recipe(tmp_path, text + 'attributes = { said = "" }\n')
    assert data.item_catalogue.attributes["said"].names == ("I loved it",)


def test_ids_of_two_kinds_are_a_warning(tmp_path):
    given(tmp_path / "e.csv", HEADED)
    given(tmp_path / "i.csv", "id,title\nX,One\nY,Two\n")
    recipe = '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n[items]\nfile = "i.csv"\nid = "id"\n'
    (warning,) = by_recipe(tmp_path, recipe + 'title = "title"\n').warnings
    assert warning.startswith("i.csv describes 0 of the 2 items that have events (it lists 2 ids, such as 'X'")


@pytest.mark.parametrize("dates", [("9", "10"), ("1.9", "2"), ("2020-01-01T23:00Z", "2020-01-02"), ("a", "b")])
def test_the_latest_row_is_the_last_in_time_not_in_text(tmp_path, dates):
    given(tmp_path / "e.csv", "user,item\na,x\n")
    given(tmp_path / "i.csv", f"id,name,at\nx,new,{dates[1]}\nx,old,{dates[0]}\n")
    recipe = '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n[items]\nfile = "i.csv"\nid = "id"\n'
    assert by_recipe(tmp_path, recipe + 'title = "name"\nlatest = "at"\n').item_catalogue.titles == ("new",)


def test_lists_of_every_notation_are_attributes(tmp_path):
    given(tmp_path / "e.csv", HEADED)
    columns = {"id": ["x", "y"], "tags": [["a", "b"], None], "cut": ["c&amp;d;e", None], "json": ['["f&quot;g"]', None]}
    pl.DataFrame(columns).write_parquet(tmp_path / "i.parquet")
    data = by_recipe(
        tmp_path,
        '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n'
        '[items]\nfile = "i.parquet"\nid = "id"\ntext = ["{tags}."]\n'
        'attributes = { tags = "", cut = ";", json = "json" }\n',
    )
    found = {name: one.names for name, one in data.item_catalogue.attributes.items()}
    assert found == {"tags": ("a", "b"), "cut": ("c&d", "e"), "json": ('f"g',)}
    assert data.item_catalogue.texts == ("a, b.", "")


def test_a_misspelt_column_is_named_and_one_of_another_kind_only_listed(tmp_path):
    given(tmp_path / "events.csv", "user_id,item_id,timestmap,raitng,country,price\na,x,1,5,AT,2\nb,y,2,1,DE,3\n")
    data = load(tmp_path / "events.csv")
    assert data.warnings == (
        "events.csv: column 'timestmap' is not read; did you mean 'timestamp'?",
        "events.csv: column 'raitng' is not read; did you mean 'rating'?",
    )
    assert describe(data)["unread"] == ["timestmap", "raitng", "country", "price"]


def test_a_column_like_one_that_the_file_has_is_not_taken_for_it(tmp_path):
    given(tmp_path / "events.csv", "user_id,item_id,rating,ratings,weights,score\na,x,1,5,3,2\n")
    data = load(tmp_path / "events.csv")
    assert not data.warnings
    assert describe(data)["unread"] == ["ratings", "weights", "score"]


def test_a_recipe_lists_what_of_its_events_nothing_reads(tmp_path):
    given(tmp_path / "e.csv", "user,item,name,tag,note,country\na,x,X,t,n,AT\n")
    recipe = '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n'
    data = by_recipe(tmp_path, recipe)
    assert (data.unread, data.warnings) == (("name", "tag", "note", "country"), ())
    recipe += '[items]\nfile = "e.csv"\nid = "item"\ntitle = "name"\ntext = ["{tags}"]\n'
    gather = '[[items.gather]]\nname = "tags"\nfile = "e.csv"\nkey = "item"\nvalue = "tag"\n'
    friends = '[ties]\nfile = "e.csv"\nuser = "user"\nfriend = "note"\n'
    assert by_recipe(tmp_path, recipe + gather + friends).unread == ("country",), "items and ties read the others"


def test_a_wide_recipe_lists_what_nothing_reads(tmp_path):
    given(tmp_path / "e.csv", "user,loan,card,age\na,1,0,33\n")
    recipe = '[interactions]\nfile = "e.csv"\nuser = "user"\nwide = ["loan", "card"]\n'
    assert by_recipe(tmp_path, recipe).unread == ("age",)


@pytest.mark.parametrize("end", ["parquet", "jsonl", "csv"])
def test_every_format_of_a_recipe_lists_what_nothing_reads(tmp_path, end):
    frame = pl.DataFrame({"user": [1], "item": [2], "rating": [5.0], "page": [3]})
    {"parquet": frame.write_parquet, "jsonl": frame.write_ndjson, "csv": frame.write_csv}[end](tmp_path / f"e.{end}")
    recipe = f'[interactions]\nfile = "e.{end}"\nuser = "user"\nitem = "item"\nweight = "rating"\n'
    assert by_recipe(tmp_path, recipe).unread == ("page",)


def test_a_misspelling_in_many_files_is_said_once(tmp_path):
    for name in ("a", "b"):
        given(tmp_path / f"{name}.csv", f"user,item,titles\n{name},x,X\n")
    (warning,) = load(tmp_path / "*.csv").warnings
    assert warning == "a.csv: column 'titles' is not read; did you mean 'title'?"


@pytest.mark.parametrize(
    ("listed", "ending"),
    [("i0,i1,z", "describes 2 of the 6 items that have events"), ("i0", "describes 1 of the 6 items that have events")],
)
def test_a_file_that_describes_some_items_is_not_asked_for_its_ids(tmp_path, listed, ending):
    given(tmp_path / "e.csv", "user,item\n" + "".join(f"a,i{row}\n" for row in range(6)))
    given(tmp_path / "i.csv", "id,title\n" + "".join(f"{one},T\n" for one in listed.split(",")))
    recipe = '[interactions]\nfile = "e.csv"\nuser = "user"\nitem = "item"\n[items]\nfile = "i.csv"\nid = "id"\n'
    (warning,) = by_recipe(tmp_path, recipe + 'title = "title"\n').warnings
    assert warning.endswith(ending)


def test_space_around_an_id_is_no_part_of_it_and_an_id_of_space_is_missing(tmp_path):
    path = given(tmp_path / "e.csv", 'user,item,title\na,"p2\n",Two\n b ,p2,New\nb,\t ,None\n" ",p2,\n')
    data = load(path)
    assert events(data) == [("a", "p2"), ("b", "p2")]
    assert data.item_catalogue.titles == ("New",)
    assert data.rejected == {"missing item id": 1, "missing user id": 1}
    assert "1 missing item id (e.csv, line 4)," in data.warnings[0]
