"""The report of the recorded results: every claim, no network requests, readable on a phone."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest

from lanner.cli.reproduce import reproduce
from lanner.reproduction.claims import read_claims, read_results
from lanner.reproduction.pictures import pictures_of
from lanner.reproduction.report import findings, html, markdown

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path_factory.mktemp("report")
    command = [sys.executable, "-m", "lanner", "reproduce", "--from-results", "--results", str(RESULTS)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Wrote" in done.stdout
    return out / "report.html"


def test_a_file_is_no_folder_for_a_report(tmp_path):
    (tmp_path / "notes").write_text("")
    command = [sys.executable, "-m", "lanner", "reproduce", "--from-results", "--out", str(tmp_path / "notes")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "notes is not a writable folder" in done.stderr


def test_a_folder_without_result_files_is_refused(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    command = [sys.executable, "-m", "lanner", "reproduce", "--from-results", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"lanner: {tmp_path}: no result files; give the folder of result files with --results\n"
    assert not (tmp_path / "out").exists()


def test_each_claim_is_in_both_forms_with_its_verdict():
    claims, results = read_claims(), read_results(RESULTS)
    written, summary = html(claims, results, []), markdown(claims, results)
    for one in findings(claims, results):
        assert one.claim.claim in summary
        assert f"| {one.said} | {one.verdict}. {one.reason}".rstrip() in summary
        assert one.claim.note in summary
        assert escape(one.reason) in written
        assert all(commit[:7] in summary for commit in one.commits)
    assert written.count("class=verdict") == len(claims.claims)
    assert "| `python -m benchmarks.quality --suite foundation` |" in summary
    assert f"about {claims.hours:.0f} hours on 2 cores" in summary


def test_the_time_of_the_short_form_is_stated_once_it_is_measured():
    entry = {"results": {"reproduce_quick": {"minutes": 7.25}}, "commit": "abc", "date": "2026-11-30"}
    assert "on 2 cores, the short form (--quick) 7.2 minutes." in markdown(read_claims(), {"house": entry})
    assert "on 2 cores." in markdown(read_claims(), {})


def test_minutes_are_estimated_until_a_run_was_timed():
    claims = read_claims()
    count = len(claims.experiments)
    assert f"Of {count} experiments {count} were never timed" in markdown(claims, {})
    timed = claims.timed({"lora": 61.5, "explained --other": 9.0})
    page = markdown(timed, {})
    assert "| python -m benchmarks.lora | 62 | timed |" in page
    assert "| python -m benchmarks.explained | 1 | estimated |" in page
    assert f"{count - 1} were never timed" in page
    assert timed.hours == pytest.approx(claims.hours + (61.5 - 240) / 60)
    assert "<td>python -m benchmarks.lora</td><td>62</td><td>timed</td>" in html(timed, {}, [])


def test_help_states_the_total_time():
    text = " ".join((reproduce.__doc__ or "").split())
    assert f"an estimated {read_claims().hours:.0f} hours on 2 cores" in text


def test_without_matplotlib_no_experiment_runs(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from lanner.cli.main import main; main(['reproduce'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'lanner[plot]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_title_cannot_break_the_page():
    claims = read_claims()
    broken = type(claims)({"x": "<script>alert(1)</script>"}, (), ())
    assert "<script>" not in html(broken, {}, [])


def test_pictures_say_what_was_measured_in_greys():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = read_results(RESULTS)
    pictures = pictures_of(results)
    assert {one.source for one in pictures} >= {"quality_foundation", "compression", "serving", "explained"}
    for one in pictures:
        colours = set(re.findall(r"#([0-9a-f]{6})\b", one.svg))
        assert all(colour[:2] == colour[2:4] == colour[4:] for colour in colours), one.caption
    (load, phases, *_) = [one.svg for one in pictures if one.source == "serving"]
    assert "fastapi" in load
    assert f"{results['serving']['results']['overload']['during']['offered_per_s']:,.0f}/s" in phases
    (reasons,) = [one.svg for one in pictures if one.source == "explained"]
    largest = results["explained"]["results"]["parts"][0]
    assert f"{largest['name']}  {largest['value']:+.3f}" in reasons


def test_times_curves_and_ablations_are_drawn():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    race = {
        "target": 0.15,
        "lanner": {"closed form": {"seconds": 20.0, "ndcg_at_20": 0.16}},
        "lightgcn": {"epochs": [{"seconds": 50.0, "ndcg_at_20": 0.08}]},
        "summary": {"peer_seconds_extrapolated": 50_000.0},
    }
    row = {"ndcg_at_10": 0.3, "ci95": {"ndcg_at_10": [0.2, 0.4]}}
    curves = {"frozen": {"curves": [[]]}, "lora-8": {"curves": [[[10.0, 0.1], [20.0, 0.2]]]}}
    results = {
        "ablation": {"results": {"small": {"protocol": "random", "rows": {"hybrid-without-texts": row}}}},
        "time_to_quality": {"results": race},
        "lora": {"results": {"small": curves, "summary": {}}},
    }
    ablation, raced, learned = pictures_of(results)
    assert "hybrid-without-texts" in ablation.svg
    assert "closed form" in raced.svg
    assert "LightGCN, extrapolated" in raced.svg
    assert "lora-8" in learned.svg
    assert "frozen" not in learned.svg


def test_what_was_not_measured_has_no_picture():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert pictures_of({}) == []
    soaked = {"serving": {"results": {"soak": {"memory_mib": [1.0, 2.0]}}}}
    assert [one.source for one in pictures_of(soaked)] == ["serving"]


def test_the_page_asks_the_network_for_nothing(page):
    written = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', written)
    assert "@import" not in written
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", written)
    assert "<figure>" in written


def test_each_picture_links_its_data(page):
    written = page.read_text()
    links = re.findall(r'<a download="(\w+)\.json" href="data:application/json;base64,([^"]+)">', written)
    assert len(links) == written.count("<figure>") > 15
    assert all(json.loads(base64.b64decode(data)) for _, data in links)
    assert {"serving", "federated", "training_simulator"} <= {source for source, _ in links}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_the_page_is_readable_at_375_pixels(page):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 375, "height": 800})
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        width = tab.evaluate("document.documentElement.scrollWidth")
        sizes = tab.evaluate(
            "[...document.querySelectorAll('svg')].flatMap(svg => [...svg.querySelectorAll('text')].map("
            "text => parseFloat(getComputedStyle(text).fontSize) * svg.getScreenCTM().a))"
        )
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert width <= 375
    assert min(sizes) >= 10
