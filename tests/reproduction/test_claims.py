"""Claims and figures: verdicts, and that every place a claim names can hold a figure."""

import argparse
import importlib
import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from lanner.data.published import published
from lanner.errors import ConfigError
from lanner.reproduction.claims import Claim, judge, read_claims, read_results

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLAIM = Claim("p", "it is good", "alone", "0.5", "some", ("summary", "good"), published=0.5)


def results(value, **rows):
    return {"some": {"commit": "abc", "date": "2026-11-30T01:02:03", "results": {"summary": {"good": value}, **rows}}}


@pytest.mark.parametrize(
    ("changes", "value", "verdict"),
    [
        ({}, 0.6, "beaten"),
        ({}, 0.5, "met"),
        ({}, 0.4, "not reached"),
        ({"better": "lower"}, 0.4, "beaten"),
        ({"better": "lower"}, 0.6, "not reached"),
        ({"published": None, "bar": 0.1}, 0.4, "met"),
        ({"published": None, "bar": 0.1}, 0.05, "not reached"),
        ({"published": None}, 0.6, "answered"),
        ({"reproducible": False, "note": "The protocol is not stated."}, 0.6, "not reproducible"),
        ({}, float("nan"), "not measured"),
        ({"better": "lower"}, float("inf"), "not measured"),
        ({"at": ("summary", "other")}, 0.6, "not measured"),
        ({"at": ("summary", "good", "deeper")}, 0.6, "not measured"),
        ({"file": "another"}, 0.6, "not measured"),
    ],
)
def test_a_verdict_compares_with_the_paper_or_the_bar(changes, value, verdict):
    assert judge(replace(CLAIM, **changes), results(value)).verdict == verdict


def test_a_relative_figure_is_the_difference_from_another_row():
    claim = replace(CLAIM, over=("other",), published=None, bar=0.0, shown="{:+.1%}")
    found = judge(claim, results(0.6, other=0.5))
    assert found.value == pytest.approx(0.2)
    assert found.said == "+20.0%"


def test_a_difference_from_nothing_is_not_measured():
    claim = replace(CLAIM, over=("other",))
    assert judge(claim, results(0.6, other=0.0)).verdict == "not measured"
    assert judge(claim, results(0.6)).verdict == "not measured"


@pytest.mark.parametrize("figure", ["0.6", True, [0.6], {"a": 1}])
def test_a_figure_that_is_no_number_is_an_error_that_names_the_file(figure):
    with pytest.raises(ConfigError, match=r"^some\.json: summary\.good is .*, not a number; measure again"):
        judge(CLAIM, results(figure))


def test_the_interval_beside_a_metric_is_shown():
    rows = {"ndcg": 0.6, "ci95": {"ndcg": [0.55, 0.65]}}
    found = judge(replace(CLAIM, at=("row", "ndcg")), results(0.0, row=rows))
    assert (found.said, found.verdict) == ("0.600 (0.550 … 0.650)", "beaten")


@pytest.mark.parametrize(("published", "verdict"), [(0.64, "undecided"), (0.56, "undecided"), (0.7, "not reached")])
def test_what_the_interval_includes_is_undecided(published, verdict):
    rows = {"ndcg": 0.6, "ci95": {"ndcg": [0.55, 0.65]}}
    found = judge(replace(CLAIM, at=("row", "ndcg"), published=published), results(0.0, row=rows))
    assert found.verdict == verdict
    assert ("the interval includes it" in found.reason) == (verdict == "undecided")
    assert f"Wanted: at least {published:.3f}" in found.reason


def test_an_interval_of_a_difference_is_relative_like_the_figure():
    claim = replace(CLAIM, over=("other",), interval=("difference",), bar=0.0, published=None, shown="{:+.0%}")
    assert judge(claim, results(0.6, other=0.5, difference=[0.05, 0.15])).said == "+20% (+10% … +30%)"
    assert judge(claim, results(0.6, other=0.5, difference=[float("nan"), 0.15])).interval is None


def test_a_difference_without_a_paired_interval_has_one_from_both_rows():
    rows = {"a": {"hr": 0.6, "ci95": {"hr": [0.57, 0.64]}}, "b": {"hr": 0.5, "ci95": {"hr": [0.47, 0.54]}}}
    claim = replace(CLAIM, at=("rows", "a", "hr"), over=("rows", "b", "hr"), bar=0.0, published=None)
    found = judge(claim, results(0, rows=rows))
    assert found.interval == pytest.approx(((0.1 - 0.05) / 0.5, (0.1 + 0.05) / 0.5))
    del rows["b"]["ci95"]
    assert judge(claim, results(0, rows=rows)).interval is None


def test_rounds_are_a_range_and_those_of_two_rows_are_compared_in_turn():
    rows = {"a": {"ms": 2.0, "ms_by_round": [1.0, 2.0, 4.0]}, "b": {"ms": 4.0, "ms_by_round": [4.0, 4.0, 5.0]}}
    alone = replace(CLAIM, at=("rows", "a", "ms"), better="lower", published=None, bar=3.0)
    found = judge(alone, results(0.0, rows=rows))
    assert (found.said, found.verdict) == ("2.000 (1.000 … 4.000)", "undecided")
    assert found.protocol == "alone; range of 3 rounds"
    assert "the range includes it" in found.reason
    compared = replace(alone, over=("rows", "b", "ms"), bar=0.0, shown="{:+.0%}")
    assert judge(compared, results(0.0, rows=rows)).said == "-50% (-75% … -20%)"
    del rows["b"]["ms_by_round"]
    assert judge(compared, results(0.0, rows=rows)).said == "-50%"


def test_several_intervals_are_joined():
    splits = {"1": {"ci95": [-0.2, 0.1]}, "2": {"ci95": [-0.1, 0.3]}}
    found = judge(replace(CLAIM, interval=("splits", "*", "ci95")), results(0.0, splits=splits))
    assert found.interval == (-0.2, 0.3)


def test_of_several_rows_the_worst_counts_and_all_are_named():
    rows = {"a": {"good": 0.9, "ci95": [0.8, 1.0]}, "b": {"good": 0.3, "ci95": [0.2, 0.4]}, "c": {"other": 1}}
    claim = replace(CLAIM, at=("rows", "*", "good"), interval=("rows", "*", "ci95"))
    found = judge(claim, results(0.0, rows=rows))
    assert (found.value, found.interval, found.verdict) == (0.3, (0.2, 0.4), "not reached")
    assert found.protocol == "alone; worst of 2: a, b"
    assert judge(replace(claim, better="lower"), results(0.0, rows=rows)).value == 0.9
    assert judge(claim, results(0.0, rows={"a": rows["a"]})).protocol == "alone; a"
    many = {f"row {place}": {"good": place} for place in range(9, 0, -1)}
    assert judge(claim, results(0.0, rows=many)).protocol == "alone; worst of 9 rows: row 1"
    assert judge(claim, results(0.0, rows={**rows, "d": {"good": float("nan")}})).verdict == "not measured"


def test_the_best_published_number_is_compared_and_named():
    published = [
        {"model": name, "source": "its paper", "metrics": {"good": good}} for name, good in (("A", 0.4), ("B", 0.7))
    ]
    claim = replace(CLAIM, published=None, published_at=("published", "*", "metrics", "good"))
    found = judge(claim, results(0.6, published=published))
    assert (found.paper, found.verdict) == ("0.700 (B, its paper)", "not reached")
    assert judge(claim, results(0.6)).verdict == "not measured"
    by_name = replace(CLAIM, published=None, published_at=("published", "*", "0"))
    assert judge(by_name, results(0.6, published={"A": [0.5, 9], "B": [None, 9]})).paper == "0.500 (A)"


def commits(claim, **rows):
    return judge(claim, results(1.0, **rows)).commits


def test_the_commit_is_that_of_the_row_and_the_date_that_of_the_file():
    found = judge(replace(CLAIM, at=("row", "good")), results(0.0, row={"good": 1, "commit": "row"}))
    assert (found.commits, found.date) == (("row",), "2026-11-30")
    assert commits(CLAIM) == ("abc",)


def test_a_section_a_mode_and_the_rows_of_a_difference_have_their_own_commits():
    routed = {"25f": {"mhz": 1.0, "commit": "row"}, "85f": {"mhz": 2.0}}
    listed = {"routed": "section", "DP": "mode"}
    assert commits(replace(CLAIM, at=("routed", "25f", "mhz")), routed=routed, commits=listed) == ("row",)
    assert commits(replace(CLAIM, at=("routed", "85f", "mhz")), routed=routed, commits=listed) == ("section",)
    modes = {"bert": {"DP": 0.5, "TP": 0.9}}
    assert commits(replace(CLAIM, at=("difference", "*", "*")), difference=modes, commits=listed) == ("mode",)
    assert commits(replace(CLAIM, at=("routed", "25f", "mhz"), over=("routed", "85f", "mhz")), routed=routed) == (
        "row",
        "abc",
    )


def test_a_figure_of_a_summary_carries_the_commits_of_the_rows_it_comes_from():
    rows = {"a": {"commit": "first"}, "b": {"commit": "second"}, "c": {"commit": "first"}}
    assert commits(replace(CLAIM, origin=(("rows", "*"),)), rows=rows) == ("first", "second")
    assert commits(replace(CLAIM, origin=(("rows", "b"), ("rows", "gone"))), rows=rows) == ("second",)
    assert commits(replace(CLAIM, origin=(("rows", "gone"),)), rows=rows) == ("abc",)


def test_summaries_of_rows_with_commits_say_which_rows_they_are_of():
    recorded = read_results(BENCHMARKS / "results")

    def has_commits(table):
        return isinstance(table, dict) and ("commit" in table or any(map(has_commits, table.values())))

    for claim in read_claims().claims:
        measured = recorded.get(claim.file, {}).get("results", {})
        if claim.at[0] == "summary" and ("commits" in measured or has_commits(measured)):
            assert claim.origin, claim.claim


def test_a_mean_of_splits_and_the_interval_of_the_first_are_called_so():
    claim = replace(CLAIM, at=("row", "good"))
    row = {"good": 0.6, "seeds": 3, "ci95": {"good": [0.5, 0.7]}}
    assert judge(claim, results(0, row=row)).protocol == "alone; mean of 3 splits, interval over the users of the first"
    assert judge(claim, results(0, row={"good": 0.6, "seeds": 3})).protocol == "alone; mean of 3 splits"
    assert judge(claim, results(0, row={"good": 0.6})).protocol == "alone"


def test_what_is_not_measured_says_why():
    assert judge(CLAIM, {}).reason == "The result file has no such row; the command measures it."
    assert judge(replace(CLAIM, note="No board."), {}).reason == "No board."


def test_the_claims_are_whole():
    told = read_claims()
    measured = {one.file for one in told.experiments}
    assert len({one.claim for one in told.claims}) == len(told.claims) > 20
    for claim in told.claims:
        assert claim.paper in told.papers
        assert claim.published is not None or claim.bar is not None or claim.published_at or claim.paper == "open"
        assert claim.reproducible or claim.note
        assert claim.shown.format(0.5)
        assert claim.file in measured
    for one in told.experiments:
        assert (BENCHMARKS / f"{one.command[0]}.py").is_file()


def test_a_number_from_memory_is_never_beaten():
    recorded = read_results(BENCHMARKS / "results")
    quoted = [one for one in read_claims().claims if "from memory" in judge(one, recorded).paper]
    assert quoted
    for claim in quoted:
        assert judge(claim, recorded).verdict not in {"beaten", "met"}
        assert "from memory" in claim.note


COMMANDS = sorted(
    {arguments for one in read_claims().experiments for arguments in (one.command, one.quick) if arguments}
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_command_of_an_experiment_is_understood(command, monkeypatch):
    """Its module exists and its parser takes the arguments; nothing is measured."""
    if command[0] == "fpga":
        pytest.importorskip("amaranth", reason="needs the extra fpga")
    module = importlib.import_module(f"benchmarks.{command[0]}")
    if not hasattr(module, "argparse"):
        assert command[1:] == ()
        return
    parse = argparse.ArgumentParser.parse_args

    def parsed(self, *arguments):
        raise Understood(parse(self, *arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *command[1:]])
    with pytest.raises(Understood):
        module.main()


class Understood(Exception):
    pass


def test_the_quick_form_names_rows_of_the_suite():
    from benchmarks._quality_settings import CELLS

    rows = {f"{cell.dataset}/{cell.protocol}/{model}" for cell in CELLS["foundation"] for model in cell.models}
    quick = next(one.quick for one in read_claims().experiments if one.file == "quality_foundation")
    assert {name for option, name in pairwise(quick) if option == "--only"} <= rows


def test_datasets_that_notes_name_can_be_asked_for():
    told = read_claims()
    named = {name for one in told.claims for name in re.findall(r"`lanner data fetch ([\w-]+)`", one.note)}
    assert named
    for name in named:
        assert name in published()


NOT_RESULTS = ["", "[]", "{}", '{"results": {}}', "nonsense", '{"results": [], "commit": "a", "date": ""}']


@pytest.mark.parametrize("content", NOT_RESULTS)
def test_a_foreign_file_among_the_results_is_named(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ConfigError, match=r"odd\.json: not a result file"):
        read_results(tmp_path)


def test_results_are_read_by_name(tmp_path):
    (tmp_path / "some.json").write_text(json.dumps(results(1)["some"]))
    assert judge(CLAIM, read_results(tmp_path)).value == 1.0
    with pytest.raises(ConfigError, match="no such folder"):
        read_results(tmp_path / "nowhere")


def test_a_figure_that_was_never_reached_is_said_to_be_so():
    found = judge(CLAIM, results(None))
    assert (found.verdict, found.said) == ("not reached", "–")
    assert found.reason == "The run ended before it got there."
