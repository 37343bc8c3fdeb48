"""Claims and figures: verdicts, and that every place a claim names can hold a figure."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lanner.errors import ConfigError
from lanner.reproduction.claims import Claim, judge, read_claims, read_results

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLAIM = Claim("p", "it is good", "alone", "0.5", "some", ("summary", "good"), published=0.5)


def results(value, **rows):
    return {"some": {"commit": "abc", "results": {"summary": {"good": value}, **rows}}}


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
        ({"why": "The protocol is not stated."}, 0.6, "not reproducible"),
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


def test_the_interval_beside_a_metric_is_shown():
    rows = {"ndcg": 0.6, "ci95": {"ndcg": [0.55, 0.65]}}
    found = judge(replace(CLAIM, at=("row", "ndcg")), results(0.0, row=rows))
    assert found.said == "0.600 (0.550 … 0.650)"


def test_the_claims_are_whole():
    told = read_claims()
    measured = {one.file for one in told.experiments}
    assert len({one.claim for one in told.claims}) == len(told.claims) > 20
    for claim in told.claims:
        assert claim.paper in told.papers
        assert claim.published is not None or claim.bar is not None
        assert claim.shown.format(0.5)
        assert claim.file in measured
    for one in told.experiments:
        assert (BENCHMARKS / f"{one.command[0]}.py").is_file()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": {}}', "nonsense"])
def test_a_foreign_file_among_the_results_is_named(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ConfigError, match=r"odd\.json: not a result file"):
        read_results(tmp_path)


def test_results_are_read_by_name(tmp_path):
    (tmp_path / "some.json").write_text(json.dumps({"commit": "abc", "results": {"summary": {"good": 1}}}))
    assert judge(CLAIM, read_results(tmp_path)).value == 1.0
    with pytest.raises(ConfigError, match="no such folder"):
        read_results(tmp_path / "nowhere")


def test_a_figure_that_was_never_reached_is_said_to_be_so():
    found = judge(CLAIM, results(None))
    assert (found.verdict, found.said) == ("not reached", "–")
