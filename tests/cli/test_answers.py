"""``lanner recommend``, ``similar`` and ``explain``."""

import io
import json

import pytest
from cli_calls import EVENTS, complaint, csv

from lanner.cli import console


def test_tables_for_people(ask, bundle):
    code, out, err = ask("recommend", bundle, "--user", "1", "-k", "3")
    assert (code, err) == (0, "")
    assert "title" in out
    assert "you liked" in out
    assert ask("similar", bundle, "--item", "260")[1].startswith("Similar to Star Wars")


def test_a_score_that_rounds_to_zero_has_no_sign(capsys):
    console.show_table("scores", ("small", "zero", "negative"), [(-0.00001, -0.0, -0.0001)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert row.replace(" ", "") == "│0.0000│0│-0.0001│"


def test_an_anonymous_user_by_history_and_an_explanation_that_adds_up(ask, bundle):
    items = json.loads(ask("recommend", bundle, "--history", "260, 1196", "-k", "4", "--json")[1])["items"]
    assert [item["rank"] for item in items] == [1, 2, 3, 4]
    assert not {"260", "1196"} & {item["item"] for item in items}
    found = json.loads(ask("explain", bundle, "--history", "260,1196", "--item", items[0]["item"], "--json")[1])
    assert sum(part["value"] for part in found["parts"]) == pytest.approx(found["score"], rel=1e-6)
    assert found["score"] == pytest.approx(items[0]["score"], rel=1e-5)
    assert found["sentence"].endswith(".")


def test_a_history_from_a_file_or_from_standard_input(ask, bundle, tmp_path, monkeypatch):
    expected = json.loads(ask("recommend", bundle, "--history", "260,1196", "--json")[1])
    (tmp_path / "history.txt").write_bytes(b"\xef\xbb\xbf260\r\n\n 1196 \n")
    assert json.loads(ask("recommend", bundle, "--history-file", "history.txt", "--json")[1]) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("260\n1196\n"))
    assert json.loads(ask("recommend", bundle, "--history-file", "-", "--json")[1]) == expected
    assert "cannot be read (No such file" in complaint(ask("recommend", bundle, "--history-file", "nowhere"))
    both = ask("recommend", bundle, "--history", "1", "--history-file", "history.txt")
    assert "exclude each other" in complaint(both)


def test_filters_and_seen_items(ask, bundle):
    def listed(*more):
        return json.loads(ask("recommend", bundle, "--history", "260,1196", "-k", "20000", "--json", *more)[1])["items"]

    every = [item["item"] for item in listed()]
    some = {name: [item["item"] for item in listed("--filter", f"genres={name}")] for name in ("Horror", "Drama")}
    assert 0 < len(some["Horror"]) < len(every)
    assert some["Horror"] == [item for item in every if item in set(some["Horror"])], "the order stays"
    either = {item["item"] for item in listed("--filter", "genres=Horror", "--filter", "genres=Drama")}
    assert either >= set(some["Horror"])
    assert {"260", "1196"} <= {item["item"] for item in listed("--include-seen")}
    assert "is not NAME=VALUE" in complaint(ask("recommend", bundle, "--user", "1", "--filter", "Drama"))
    assert "colour" in complaint(ask("recommend", bundle, "--user", "1", "--filter", "colour=red"))


def test_similar_items_with_a_filter_and_the_long_name_of_k(ask, bundle):
    every = json.loads(ask("similar", bundle, "--item", "260", "--k", "2000", "--json")[1])["items"]
    some = json.loads(ask("similar", bundle, "--item", "260", "--filter", "genres=Drama", "--k", "5", "--json")[1])
    drama = [one["item"] for one in some["items"]]
    assert len(drama) == 5
    assert drama == [one["item"] for one in every if one["item"] in set(drama)], "the order stays"
    assert drama != [one["item"] for one in every[:5]]
    assert len(json.loads(ask("recommend", bundle, "--user", "1", "--k", "3", "--json")[1])["items"]) == 3


def test_a_value_that_no_item_has_is_said_with_the_nearest(ask, bundle, tmp_path):
    hint = "lanner: no item has genres=drma; did you mean 'Drama'?\n"
    for command in (("recommend", bundle, "--user", "1"), ("similar", bundle, "--item", "260")):
        code, out, err = ask(*command, "--filter", "genres=drma", "--json")
        assert (code, json.loads(out)["items"], err) == (0, [], hint)
        assert ask(*command, "--filter", "genres=Drama", "--json")[2] == ""
    assert "no item has genres=Xyzzy\n" in ask("recommend", bundle, "--user", "1", "--filter", "genres=Xyzzy")[2]
    exported = ask("export", "recommendations", bundle, "--out", "r.csv", "-k", "1", "--filter", "genres=drma")
    assert (exported[0], hint in exported[2]) == (0, True)


def test_a_model_that_reads_no_texts_says_so_and_answers_with_popular_items(ask, bundle):
    code, out, err = ask("recommend", bundle, "--text", "anything", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (len(answer["items"]), answer["fallback"], answer["text_ignored"]) == (10, True, True)
    assert "the model does not use texts; --text had no effect" in err
    assert "these are popular items" in err
    assert len(err.splitlines()) == 1


def test_items_of_a_popularity_model_are_not_called_similar(ask, tmp_path):
    assert ask("train", csv(tmp_path / "ratings.csv", EVENTS), "--model", "popularity", "--out", "b")[0] == 0
    code, out, _ = ask("similar", "b", "--item", "i0")
    assert code == 0
    assert "Popular items, not similar ones" in out


def test_unicode_huge_and_mixed_ids_and_duplicates(ask, tmp_path):
    odd = {"i0": "日本 語", "i1": "9" * 40, "i2": "-7", "i3": "3.50", "i4": '"Bed, double"', "i5": '"Lamp, red"'}
    rows = [(user, odd.get(item, item)) for user, item in EVENTS] * 2
    assert ask("train", csv(tmp_path / "ratings.csv", rows), "--model", "item-knn", "--out", "b")[0] == 0
    for item in (one.strip('"') for one in odd.values()):
        code, out, _ = ask("similar", "b", "--item", item, "--json")
        assert code == 0
        assert item not in {one["item"] for one in json.loads(out)["items"]}
    for history in (["Bed, double"], ["Bed, double", "Lamp, red"], ["-7,3.50"]):
        given = [part for one in history for part in ("--history", one)]
        assert json.loads(ask("recommend", "b", *given, "--json")[1])["unknown"] == []


def test_unknown_ids_paths_and_questions_without_a_user(ask, bundle):
    for question, unknown, fallback in (
        (("--user", "nobody"), ["nobody"], True),
        (("--history", "x, 260,y"), ["x", "y"], False),
        (("--history", "260", "--attribute", "sex=f"), ["sex: f"], False),
    ):
        code, out, err = ask("recommend", bundle, *question, "--json")
        answer = json.loads(out)
        assert (code, answer["unknown"], answer["fallback"]) == (0, unknown, fallback)
        assert f"unknown ids or attributes were ignored: {', '.join(unknown)}" in err
        assert len(err.splitlines()) == 1
    assert "unknown id 'x'" in complaint(ask("similar", bundle, "--item", "x"))
    assert "unknown id 'x'" in complaint(ask("explain", bundle, "--user", "1", "--item", "x"))
    assert "one of --user, --history, --history-file, --text or --attribute is required" in complaint(
        ask("recommend", bundle)
    )
    assert "--attribute 'sex' is not NAME=VALUE" in complaint(ask("recommend", bundle, "--attribute", "sex"))
    assert "exclude each other" in complaint(ask("recommend", bundle, "--user", "1", "--history", "260"))
    assert "not a bundle" in complaint(ask("recommend", "nowhere", "--user", "1"))
    assert ask("recommend", bundle, "--user", "1", "-k", "0")[0] == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("recommend", "--user", ""), "--user: an id must not be empty"),
        (("recommend", "--history", "260", "--history", "\n"), "--history: an id must not be empty"),
        (("similar", "--item", " "), "--item: an id must not be empty"),
        (("explain", "--user", "1", "--item", "\t"), "--item: an id must not be empty"),
    ],
)
def test_an_empty_id_is_refused(ask, bundle, asked, said):
    assert said in complaint(ask(asked[0], bundle, *asked[1:]))


@pytest.mark.parametrize(
    ("spaced", "bare"),
    [
        (("recommend", "--user", " 42"), ("recommend", "--user", "42")),
        (
            ("recommend", "--history", "260", "--history", "1196\n"),
            ("recommend", "--history", "260", "--history", "1196"),
        ),
        (("similar", "--item", "260 "), ("similar", "--item", "260")),
        (("explain", "--user", "1", "--item", "\t260"), ("explain", "--user", "1", "--item", "260")),
    ],
)
def test_space_around_an_id_is_ignored(ask, bundle, spaced, bare):
    assert ask(spaced[0], bundle, *spaced[1:]) == ask(bare[0], bundle, *bare[1:])


def test_one_flipped_byte(ask, tmp_path):
    assert ask("train", csv(tmp_path / "ratings.csv", EVENTS), "--model", "ease", "--out", "b")[0] == 0
    damaged = tmp_path / "b" / "full.scoring.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert "full.scoring.safetensors: damaged" in complaint(ask("recommend", "b", "--user", "u1"))


def test_ctrl_c_says_so(ask, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanner.library.load", interrupted)
    assert ask("recommend", "b", "--user", "1") == (130, "", "lanner: stopped; nothing was kept\n")
